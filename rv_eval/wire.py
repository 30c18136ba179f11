"""Messages of the policy server as bytes: msgpack, with numpy arrays in the form that openpi-client writes and reads.

An array is the map {b"__ndarray__": True, b"data": raw bytes in C order, b"dtype": "<f4", b"shape": [8, 7]}, a numpy
scalar the map {b"__npgeneric__": True, b"data": value, b"dtype": "<f4"}.

What comes in is not trusted. No name of a type is handed to numpy unless it stands in DTYPES, nothing is unpickled, and
everything that could make a small message large in memory has a limit.
"""

import math

import msgpack
import numpy as np

from libs.errors import BadInput

DTYPES = frozenset(("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"))
MAX_BYTES = 8 * 2**20  # of a message, where nothing else is said
MAX_DIMS = 4
MAX_DEPTH = 6  # maps and lists inside one another
MAX_LENGTH = 1024  # entries of a list or a map
MAX_ITEMS = 10_000  # entries of all lists and maps together
MAX_TEXT = 2**16  # bytes of a string; the text of a chunk of 100 x 14 numbers has 7,000

_ARRAY = {b"__ndarray__", b"data", b"dtype", b"shape"}
_SCALAR = {b"__npgeneric__", b"data", b"dtype"}


def pack(message) -> bytes:
    """Maps, lists, strings, bytes, numbers, None, and arrays of DTYPES. BadInput: anything else."""
    try:
        return msgpack.packb(message, default=_encode)
    except (TypeError, OverflowError) as error:
        raise BadInput(f"cannot be sent: {error}") from None


def unpack(data: bytes, max_bytes: int = MAX_BYTES):
    """The message; its arrays are read-only. BadInput: not a message, or one beyond a limit."""
    if len(data) > max_bytes:
        raise BadInput(f"a message of {len(data)} bytes, at most {max_bytes} are taken")
    items = 0

    def count(container):
        nonlocal items
        items += len(container)
        if items > MAX_ITEMS:
            raise BadInput(f"more than {MAX_ITEMS} entries")
        return container

    try:
        message = msgpack.unpackb(
            data,
            object_hook=lambda found: _decode(count(found)),
            list_hook=count,
            ext_hook=_refuse_extension,
            max_str_len=MAX_TEXT,
            max_bin_len=max_bytes,
            max_array_len=MAX_LENGTH,
            max_map_len=MAX_LENGTH,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise BadInput(f"not a readable message: {str(error) or type(error).__name__}") from None
    _check(message, 0)
    return message


def _encode(value):
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"a {type(value).__name__}")
    dtype = value.dtype.newbyteorder("<")
    if dtype.str not in DTYPES:
        raise TypeError(f"an array of {value.dtype}")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": dtype.str}
    data = value.astype(dtype, copy=False).tobytes()
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype.str, b"shape": value.shape}


def _decode(found: dict):
    if b"__ndarray__" in found:
        return _array(found)
    if b"__npgeneric__" in found:
        return _scalar(found)
    return found


def _array(found):
    if set(found) != _ARRAY or found[b"__ndarray__"] is not True:
        raise BadInput("an array's map has other entries than data, dtype and shape")
    data, shape = found[b"data"], found[b"shape"]
    dtype = _dtype(found[b"dtype"])
    if not isinstance(shape, list) or len(shape) > MAX_DIMS:
        raise BadInput(f"the shape of an array is a list of at most {MAX_DIMS} numbers")
    if not all(type(side) is int and 0 <= side <= MAX_BYTES for side in shape):
        raise BadInput(f"the shape of an array holds numbers from 0 to {MAX_BYTES}")
    wanted = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != wanted:
        raise BadInput(f"an array of shape {shape} and dtype {dtype} has {wanted} bytes")
    if dtype.kind == "b" and data.strip(b"\0\1"):
        raise BadInput("an array of bool holds other bytes than 0 and 1")
    return np.frombuffer(data, dtype).reshape(shape)


def _scalar(found):
    if set(found) != _SCALAR or found[b"__npgeneric__"] is not True:
        raise BadInput("a scalar's map has other entries than data and dtype")
    value, dtype = found[b"data"], _dtype(found[b"dtype"])
    fits = {"b": bool, "i": int, "u": int, "f": float}[dtype.kind]
    if type(value) is not fits:
        raise BadInput(f"a scalar of dtype {dtype} cannot hold a {type(value).__name__}")
    limits = np.iinfo(dtype) if fits is int else np.finfo(dtype) if fits is float else None
    if limits and math.isfinite(value) and not limits.min <= value <= limits.max:
        raise BadInput(f"a scalar of dtype {dtype} cannot hold {value}")
    return dtype.type(value)


def _dtype(name):
    if not isinstance(name, str) or name not in DTYPES:
        raise BadInput(f"dtype {str(name)[:20]!r} is not one of {' '.join(sorted(DTYPES))}")
    return np.dtype(name)


def _refuse_extension(code, _):
    raise BadInput(f"extension type {code}")


def _check(value, depth):
    """Only the types that `pack` writes, and not too deep."""
    if depth > MAX_DEPTH:
        raise BadInput(f"more than {MAX_DEPTH} maps and lists inside one another")
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise BadInput("the key of a map is not a string")
            _check(entry, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            _check(entry, depth + 1)
    elif not isinstance(value, str | bytes | int | float | np.ndarray | np.generic | None):
        raise BadInput(f"a {type(value).__name__} is not taken")
