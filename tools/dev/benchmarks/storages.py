"""Ways to keep pictures in an HDF5 file, one file each, with everything else as it was."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Storage:
    """chunk: frames per chunk, 0: contiguous; options: h5py's; encoded: every frame is a file of this ending."""

    name: str
    chunk: int = 1
    options: tuple = ()
    encoded: str = ""

    def write(self, source: Path, path: Path, keys: Iterable[str]) -> None:
        """Copy demos whose pictures are at `keys` below data/demo_i, stored in this way."""
        with h5py.File(source, "r") as old, h5py.File(path, "w") as new:
            old.copy("data", new)
            for demo in new["data"].values():
                for key in keys:
                    pictures = demo[key][()]
                    del demo[key]
                    self._store(demo, key, pictures)
        repack(path)

    def _store(self, demo, key, pictures):
        if not self.encoded:
            chunks = (min(self.chunk, len(pictures)), *pictures.shape[1:]) if self.chunk else None
            demo.create_dataset(key, data=pictures, chunks=chunks, **dict(self.options))
            return
        import cv2

        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if self.encoded == ".jpg" else []
        files = demo.create_dataset(key, (len(pictures),), dtype=h5py.vlen_dtype(np.uint8))
        for t, picture in enumerate(pictures):  # red and blue change places; they do so again when it is read
            files[t] = cv2.imencode(self.encoded, picture, quality)[1]

    def read(self, file: h5py.File, path: str, t: int) -> np.ndarray:
        """(H, W, 3) uint8: frame t of a file that is open."""
        stored = file[path][t]
        if not self.encoded:
            return stored
        import cv2

        return cv2.imdecode(stored, cv2.IMREAD_UNCHANGED)


def repack(path: Path) -> None:
    """Give back what deleted arrays leave in a file."""
    packed = path.with_suffix(".packed")
    with h5py.File(path, "r") as old, h5py.File(packed, "w") as new:
        old.copy("data", new)
    packed.replace(path)


def gzip(level: int, **more: Any) -> tuple[tuple[str, Any], ...]:
    return tuple({"compression": "gzip", "compression_opts": level, **more}.items())


STORAGES = (
    Storage("gzip 1, one frame per chunk", 1, gzip(1)),
    Storage("gzip 4, one frame per chunk", 1, gzip(4)),
    Storage("gzip 1 and shuffle", 1, gzip(1, shuffle=True)),
    Storage("gzip 1, eight frames per chunk", 8, gzip(1)),
    Storage("lzf, one frame per chunk", 1, (("compression", "lzf"),)),
    Storage("not packed, one frame per chunk"),
    Storage("not packed, contiguous", 0),
    Storage("PNG files", encoded=".png"),
    Storage(f"JPEG files, quality {JPEG_QUALITY} (lossy)", encoded=".jpg"),
)
PACKED, UNPACKED = STORAGES[0], STORAGES[6]
