"""Pictures of one size in one file, each packed for itself, so that any of them is read at once.

pictures    one after another: JPEG, or lossless: each pixel's difference to the one above, packed by Zstandard
places      uint64, where each begins, and where the last one ends
end         number of pictures, H, W as uint64, then MAGIC: of lossless ones, or of JPEG
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from libs.errors import BadInput
from libs.files import named_path, whole_file
from libs.manifest.pictures import decode_picture, encode_picture

if TYPE_CHECKING:
    from libs.lerobot_data.cache import Plan


# Measured on one core, frames of AV1 at 256 pixels / rendered frames at 128: 0.28 / 0.46 of the bytes are left, read in
# 0.21 / 0.08 ms a picture. Differences to the left 0.34 / 0.52, none 0.42 / 0.65; level 1 0.29 / 0.48 and 0.05 ms more
# to read; gzip 1 takes up to twice as long to read, PNG four to seven times; LZ4 leaves twice as much.
ZSTD_LEVEL = 3
ROWS = 16  # of a picture that are summed up together
LOSSLESS, JPEG = b"FRAMES-Z", b"FRAMES-J"
END = struct.Struct("<QQQ8s")


def encode(picture: np.ndarray, plan: "Plan") -> bytes:
    """(H, W, 3) uint8 RGB -> what is stored; plan.jpeg_quality: 0 for lossless."""
    if plan.jpeg_quality:
        return encode_picture(picture, "jpeg", plan.jpeg_quality)
    differences = picture.copy()
    differences[1:] -= picture[:-1]  # of bytes: they wrap around, and back again
    return pa.Codec("zstd", compression_level=ZSTD_LEVEL).compress(differences.tobytes(), asbytes=True)


def write_packed(path: Path | str, pictures: Iterable[np.ndarray], plan: "Plan") -> None:
    """A file of pictures, all of one size; it is there whole or not at all."""
    path = Path(path)
    places, size = [0], None
    with whole_file(path, sync=True) as beside, open(beside, "wb") as file:
        for picture in pictures:
            size = size or picture.shape[:2]
            if picture.shape[:2] != size:
                raise BadInput(f"{path.stem}: pictures of {size} and of {picture.shape[:2]} pixels in one episode")
            places.append(places[-1] + file.write(encode(picture, plan)))
        file.write(np.array(places, dtype="<u8").tobytes())
        file.write(END.pack(len(places) - 1, *(size or (0, 0)), JPEG if plan.jpeg_quality else LOSSLESS))


class PackedFrames:
    """A file of `write_packed`, its table in memory; BadInput where it is missing or not whole."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with named_path(path), open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            whole = file.tell()
            file.seek(max(0, whole - END.size))
            end = file.read()
            if len(end) < END.size:
                raise self._damaged()
            number, *self.size, self.kind = END.unpack(end)
            table = whole - END.size - 8 * (number + 1)
            if self.kind not in (LOSSLESS, JPEG) or table < 0:
                raise self._damaged()
            file.seek(table)
            self.places = np.frombuffer(file.read(8 * (number + 1)), dtype="<u8")

    def __len__(self) -> int:
        return len(self.places) - 1

    def read(self, number: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB; BadInput where it is damaged."""
        begin, end = int(self.places[number]), int(self.places[number + 1])
        with named_path(self.path):
            handle = os.open(self.path, os.O_RDONLY)  # not kept: a set has more episodes than a process may have files
        try:
            content = os.pread(handle, end - begin, begin)
        finally:
            os.close(handle)
        if self.kind == JPEG:
            picture = decode_picture(content)
            if picture is None:
                raise self._damaged()
            return picture
        height, width = self.size
        try:
            unpacked = pa.Codec("zstd").decompress(content, decompressed_size=3 * height * width)
        except (pa.ArrowException, OSError):
            raise self._damaged() from None
        return _summed(np.frombuffer(unpacked, dtype=np.uint8).reshape(height, 3 * width)).reshape(height, width, 3)

    def _damaged(self):
        return BadInput(f"{self.path} is damaged: delete it, and build the frame cache again")


def _summed(differences):
    """np.add.accumulate of (H, W) uint8 over the rows, in a quarter of its time: blocks of ROWS rows side by side, then
    what each block begins with."""
    rows = differences.copy()
    height, width = rows.shape
    whole = height - height % ROWS
    blocks = rows[:whole].reshape(-1, ROWS, width)
    for row in range(1, ROWS):
        blocks[:, row] += blocks[:, row - 1]
    for block in range(1, len(blocks)):
        blocks[block] += blocks[block - 1, -1]
    for row in range(max(whole, 1), height):
        rows[row] += rows[row - 1]
    return rows
