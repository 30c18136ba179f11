"""Reading parquet files: whatever is wrong with one is said in one line."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
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
    length, values = len(column), column
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    sizes = None
    while any(is_list(values.type) for is_list in lists):
        if sizes is None and not pa.types.is_fixed_size_list(values.type):
            sizes = values
        values = pa.chunked_array([chunk.flatten() for chunk in values.chunks], type=values.type.value_type)
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)):
        raise BadInput(f"{where} holds {column.type}, expected {dim} numbers in a row")
    if len(values) != length * dim:
        raise BadInput(f"{where}: {_wrong_row(sizes, dim, length, len(values))}, expected {dim} in each")
    if values.null_count:
        values = values.cast(pa.float64())
    numbers = np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in values.chunks] or [np.zeros(0)])
    return numbers.reshape(length, dim)


def _wrong_row(lists, dim, length, count):
    """Which row has another number of numbers than `dim`, as text."""
    for row, value in enumerate(lists or ()):
        found = 0 if value.as_py() is None else np.size(value.as_py())
        if found != dim:
            return f"row {row} has {found} numbers"
    return f"{length} rows have {count} numbers"


def sorted_files(folder: Path | str) -> list[Path]:
    """Every chunk-*/file-*.parquet of a v3.0 folder, in the order in which LeRobot joins them: by name.

    The numbers of files in the episodes' table are not to be trusted: LeRobot's own converter gets them wrong.
    """
    with named_path(folder):
        return sorted(Path(folder).glob("*/*.parquet"))
