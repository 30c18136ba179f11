"""Pictures that stand in parquet files, as PNG or JPEG."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from libs.errors import BadInput
from libs.lerobot_data.parquet import open_parquet, sound
from libs.manifest.pictures import decode_picture


class _Group(NamedTuple):
    """What was read last: `rows` rows of a file from the row `first` on. columns: {camera: its values}."""

    path: object
    first: int
    rows: int
    columns: dict[str, pa.ChunkedArray]

    def has(self, path, row):
        return path == self.path and self.first <= row < self.first + self.rows


class StoredPictures:
    """Reads pictures of some cameras, one by one, by way of their row group: the smallest part of a parquet file that
    can be read, of an episode or more. The last one stays in memory, so frames in their order are cheap and frames
    drawn at random are not."""

    def __init__(self, cameras: Iterable[str]) -> None:
        self.cameras = list(cameras)
        self._group = _Group(None, 0, 0, {})

    def read(self, path: Path | str, row: int, camera: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB; BadInput, naming file and row, where there is none."""
        if not self._group.has(path, row):
            self._group = self._read_group(path, row)
        stored = self._group.columns[camera][row - self._group.first].as_py()
        where = f"{path}, row {row}, column {camera}"
        content = stored.get("bytes") if isinstance(stored, dict) else None
        if not content:
            raise BadInput(f"{where} holds no picture, expected the bytes of a picture file")
        picture = decode_picture(content)
        if picture is None:
            raise BadInput(f"{where}: the picture is damaged, or no picture")
        return picture

    def _read_group(self, path, row):
        file = open_parquet(path)
        missing = [name for name in self.cameras if name not in file.schema_arrow.names]
        if missing:
            raise BadInput(f"{path} has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}")
        first = number = 0
        while row >= first + (count := file.metadata.row_group(number).num_rows):
            first, number = first + count, number + 1
        with sound(path):
            table = file.read_row_group(number, columns=self.cameras)
        return _Group(path, first, count, {name: table.column(name) for name in self.cameras})
