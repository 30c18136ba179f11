"""Pictures as HDF5 files store them: as arrays of colours, or every frame as the bytes of a JPEG or PNG file."""

import math
import zlib

import h5py
import numpy as np

from libs.demo_hdf5.opening import Unreadable
from libs.manifest.pictures import decode_picture

try:
    import deflate
except ModuleNotFoundError:  # the package deflate: half the time, nothing else
    deflate = None


def are_pictures(values, length: int) -> bool:
    """Whether an array or HDF5 dataset holds pictures of `length` frames, in any form that `read_frame` reads."""
    return are_plain(values, length) or are_encoded(values, length)


def are_plain(values, length: int) -> bool:
    """Whether it holds uint8 of shape (length, H, W, 3)."""
    shape = values.shape
    return len(shape) == 4 and shape[0] == length and shape[3] == 3 and values.dtype == np.uint8


def are_encoded(values, length: int) -> bool:
    """Whether it may hold encoded pictures, a file's bytes per frame: uint8 (length, N) with anything behind the bytes,
    or (length,) of bytes of any length."""
    if values.shape[:1] != (length,):
        return False
    kind = values.dtype
    if len(values.shape) == 2:
        return kind == np.uint8
    ragged = h5py.check_vlen_dtype(kind) == np.uint8 or h5py.check_string_dtype(kind) is not None
    return len(values.shape) == 1 and (kind.kind == "V" or ragged)


def stored_size(pictures: h5py.Dataset, order: str, where: str) -> tuple[int, int]:
    """(height, width) of a demo's pictures; of encoded ones the first is decoded. Unreadable where it cannot be.

    where: as the pictures are to be called.
    """
    if len(pictures.shape) == 4:
        return pictures.shape[1:3]
    return decode(pictures[0], order, f"{where} at frame 0").shape[:2]


def read_frame(file: h5py.File, path: str, t: int, order: str) -> np.ndarray:
    """(H, W, 3) uint8 as it is stored at `path`, decoded where need be.

    order: of the colours of encoded pictures, see `KeyMap.encoded`. Raises as `read_picture`, and Unreadable.
    """
    pictures = h5py.h5d.open(file.id, path.encode())
    if len(pictures.shape) == 4:
        return read_picture(pictures, path, t)
    if not 0 <= t < pictures.shape[0]:
        raise IndexError(f"{path} has pictures 0..{pictures.shape[0] - 1}, not {t}")
    return decode(file[path][t], order, f"demo file {file.filename}: {path} at frame {t}")


def decode(stored, order: str, where: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB out of what a dataset of encoded pictures gives for a frame; Unreadable, naming `where`."""
    content = stored.tobytes() if isinstance(stored, np.ndarray | np.void) else stored
    picture = decode_picture(content.encode("latin-1") if isinstance(content, str) else content)
    if picture is None:
        raise Unreadable(f"{where} is no picture that can be decoded: it is damaged, or neither JPEG nor PNG")
    return picture if order == "rgb" else np.ascontiguousarray(picture[..., ::-1])


def read_picture(pictures: h5py.h5d.DatasetID, path: str, t: int) -> np.ndarray:
    """Frame t of pictures (T, H, W, 3) uint8, by HDF5's own calls: unpacked ones in 0.05 instead of 0.14 ms.

    path: as they are to be called.

    Pictures in chunks of their own, packed by gzip alone (as this project writes them), are unpacked by libdeflate in
    less than half the time of HDF5's zlib.

    Raises:
        KeyError: nothing of that name, or no array; IndexError: t is not in 0..T-1; OSError: damaged.
    """
    length, *shape = pictures.shape
    if not 0 <= t < length:
        raise IndexError(f"{path} has pictures 0..{length - 1}, not {t}")
    if _are_gzip_chunks(pictures, (1, *shape)):
        left_unpacked, stored = pictures.read_direct_chunk((t, 0, 0, 0))  # HDF5 leaves what gzip would not shrink
        return _picture(stored, bool(left_unpacked), shape, f"{path}[{t}]")
    place = pictures.get_space()
    place.select_hyperslab((t, 0, 0, 0), (1, *shape))
    picture = np.empty((1, *shape), dtype=np.uint8)
    pictures.read(h5py.h5s.create_simple(picture.shape), place, picture)
    return picture[0]


def _are_gzip_chunks(pictures, chunk):
    """Whether every picture stands in the file, each in a chunk of its own that gzip alone was to pack."""
    made = pictures.get_create_plist()
    if made.get_layout() != h5py.h5d.CHUNKED or made.get_chunk() != chunk or pictures.dtype != np.uint8:
        return False
    if made.get_nfilters() != 1 or made.get_filter(0)[0] != h5py.h5z.FILTER_DEFLATE:
        return False
    return pictures.get_num_chunks() == pictures.shape[0]


def _picture(stored, unpacked, shape, where):
    """(H, W, 3) uint8 out of a chunk's bytes; OSError where they are damaged or of another number."""
    size = math.prod(shape)
    picture = bytearray(stored) if unpacked else _unpacked(stored, size)
    if len(picture) != size:
        raise OSError(f"{where} is damaged: its {len(stored)} bytes are no picture of {size}")
    return np.frombuffer(picture, dtype=np.uint8).reshape(shape)


def _unpacked(stored, size):
    """What was packed, at most one byte more than `size`; nothing where it is damaged."""
    if deflate is None:
        try:
            return bytearray(zlib.decompressobj().decompress(stored, size + 1))
        except zlib.error:
            return bytearray()
    try:
        return deflate.zlib_decompress(stored, size)
    except deflate.DeflateError:
        return bytearray()
