"""Reading parquet files: whatever is wrong with one is said in one line."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from libs.errors import BadInput, first_line
from libs.files import named_path


@contextlib.contextmanager
def sound(path: Path | str) -> Iterator[None]:
    """Around reading a parquet file: BadInput, naming it, where its bytes make no sense."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = first_line(error)
        if "magic bytes" in text or "footer" in text or "is 0 bytes" in text:
            raise BadInput(
                f"{path} is no whole parquet file, it has no footer: the recording was not finalized, or the download "
                "was cut off; get it again"
            ) from None
        raise BadInput(f"{path} is damaged ({text}); get it again") from None


def open_parquet(path: Path | str) -> pq.ParquetFile:
    """BadInput where there is no such file, or it is no parquet file."""
    with named_path(path), open(path, "rb"):  # pyarrow's own words for a missing file differ from version to version
        pass
    with sound(path):
        return pq.ParquetFile(path)


def read_columns(path: Path | str, names: Iterable[str], optional: Iterable[str] = ()) -> dict[str, pa.ChunkedArray]:
    """{name: column}; BadInput, with the columns that there are, where one of `names` is missing. Those of `optional`
    that are missing are left out."""
    file = open_parquet(path)
    there = list(dict.fromkeys(file.schema_arrow.names))
    missing = [name for name in names if name not in there]
    if missing:
        raise BadInput(f"{path} has no column {missing[0]!r}; it has {', '.join(there)}")
    wanted = [*names, *(name for name in optional if name in there)]
    with sound(path):
        table = file.read(columns=wanted)  # every field of a structure comes with its column
    return {name: table.column(name) for name in wanted}


def as_numbers(column: pa.ChunkedArray, dim: int, where: str) -> np.ndarray:
    """A column of numbers, or of (nested) lists of numbers -> (N, dim); a missing number is NaN.

    where: "the file, column action", for messages. BadInput where a row has more or fewer than `dim` numbers.
    """
    kind = column.type
    while _is_list(kind):
        kind = kind.value_type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise BadInput(f"{where} holds {column.type}, expected {dim} numbers in a row")
    pieces = [_flat(chunk) for chunk in column.chunks]
    counts = np.concatenate([found for _, found in pieces] or [np.zeros(0, np.int64)])
    if (wrong := np.flatnonzero(counts != dim)).size:
        raise BadInput(f"{where}: row {wrong[0]} has {counts[wrong[0]]} numbers, expected {dim} in each")
    values = pa.chunked_array([numbers for numbers, _ in pieces], type=kind)
    if values.null_count:
        values = values.cast(pa.float64())
    numbers = np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in values.chunks] or [np.zeros(0)])
    return numbers.reshape(len(column), dim)


def _flat(rows):
    """The numbers in all rows of an array, one after another, and how many there are in each."""
    bounds = np.arange(len(rows) + 1)
    while _is_list(rows.type):
        lengths = pc.fill_null(pc.list_value_length(rows), 0).to_numpy(zero_copy_only=False)
        bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[bounds]
        rows = rows.flatten()  # without what lies under a missing list
    return rows, np.diff(bounds)


def _is_list(kind):
    return any(is_one(kind) for is_one in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def sorted_files(folder: Path | str) -> list[Path]:
    """Every chunk-*/file-*.parquet of a v3.0 folder, in the order in which LeRobot joins them: by name.

    The numbers of files in the episodes' table are not to be trusted: LeRobot's own converter gets them wrong.
    """
    with named_path(folder):
        return sorted(Path(folder).glob("*/*.parquet"))
