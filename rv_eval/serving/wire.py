"""Messages of the policy server as bytes: msgpack, with numpy arrays in one of the forms that clients write and read.

An array is a map, in openpi-client's form {b"__ndarray__": True, b"data": raw bytes in C order, b"dtype": "<f4",
b"shape": [8, 7]}, a numpy scalar the map {b"__npgeneric__": True, b"data": value, b"dtype": "<f4"}; see `Form` for the
others. Whoever asks in a form is answered in it. A picture may also be a file: see `rv_eval.serving.pictures`.

What comes in is not trusted. No name of a type is handed to numpy unless it stands in DTYPES, nothing is unpickled, and
everything that could make a small message large in memory has a limit.
"""

import enum
import math
from typing import Any

import msgpack
import numpy as np

from libs.errors import BadInput
from rv_eval.serving.pictures import MARK, EncodedPicture

DTYPES = frozenset(("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"))
MAX_BYTES = 8 * 2**20  # of a message, where nothing else is said
MAX_DIMS = 4
MAX_DEPTH = 6  # maps and lists inside one another
MAX_LENGTH = 1024  # entries of a list or a map
MAX_ITEMS = 10_000  # entries of all lists and maps together
MAX_TEXT = 2**16  # bytes of a string; the text of a chunk of 100 x 14 numbers has 7,000

_ARRAY = ("__ndarray__", "data", "dtype", "shape")
_SCALAR = ("__npgeneric__", "data", "dtype")


class Form(enum.Enum):
    """How a message writes arrays."""

    OPENPI = "openpi"  # as above
    TEXT_KEYS = "text keys"  # the same maps with strings as keys: encoders that write no others, JavaScript's
    # The package of that name: {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [8, 7], b"data": bytes}, a scalar
    # {b"nd": False, b"type": "<f4", b"data": bytes}. Its arrays of objects are pickles, its structured ones have names
    # of types inside: neither is taken.
    MSGPACK_NUMPY = "msgpack-numpy"


def pack(message: Any, form: Form = Form.OPENPI) -> bytes:
    """Maps, lists, strings, bytes, numbers, None, and arrays of DTYPES. BadInput: anything else."""
    try:
        return msgpack.packb(message, default=lambda value: _encode(value, form))
    except (TypeError, OverflowError) as error:
        raise BadInput(f"cannot be sent: {error}") from None


def unpack(data: bytes, max_bytes: int = MAX_BYTES) -> Any:
    """The message; its arrays are read-only. BadInput: not a message, or one beyond a limit."""
    return unpack_form(data, max_bytes)[0]


def unpack_form(data: bytes, max_bytes: int = MAX_BYTES) -> tuple:
    """(the message as `unpack` gives it, the Form of its first array; OPENPI where it has none)."""
    if len(data) > max_bytes:
        raise BadInput(f"a message of {len(data)} bytes, at most {max_bytes} are taken")
    items, forms = 0, []

    def count(container):
        nonlocal items
        items += len(container)
        if items > MAX_ITEMS:
            raise BadInput(f"more than {MAX_ITEMS} entries")
        return container

    def decode(found):
        if MARK in count(found):
            forms.append(Form.TEXT_KEYS)
            return EncodedPicture(found)
        form = _form(found)
        if form is None:
            return found
        forms.append(form)
        return _from_msgpack_numpy(found) if form is Form.MSGPACK_NUMPY else _from_openpi(found, form)

    try:
        message = msgpack.unpackb(
            data,
            object_hook=decode,
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
    return message, forms[0] if forms else Form.OPENPI


def _encode(value, form):
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"a {type(value).__name__}")
    dtype = value.dtype.newbyteorder("<")
    if dtype.str not in DTYPES:
        raise TypeError(f"an array of {value.dtype}")
    scalar = isinstance(value, np.generic)
    data = value.astype(dtype, copy=False).tobytes()
    if form is Form.MSGPACK_NUMPY:
        more = {} if scalar else {b"kind": b"", b"shape": value.shape}
        return {b"nd": not scalar, b"type": dtype.str, b"data": data, **more}
    if scalar:
        entries = zip(_SCALAR, (True, value.item(), dtype.str), strict=True)
    else:
        entries = zip(_ARRAY, (True, data, dtype.str, value.shape), strict=True)
    return {_key(name, form): entry for name, entry in entries}


def _key(name, form):
    return name if form is Form.TEXT_KEYS else name.encode()


def _form(found):
    """Which form of an array or a scalar this map is; None: an ordinary map."""
    if b"nd" in found:
        return Form.MSGPACK_NUMPY
    for form in (Form.OPENPI, Form.TEXT_KEYS):
        if _key(_ARRAY[0], form) in found or _key(_SCALAR[0], form) in found:
            return form
    return None


def _from_openpi(found, form):
    if _key(_ARRAY[0], form) in found:
        mark, data, dtype, shape = _entries(found, form, _ARRAY, "an array's map")
        if mark is True:
            return _array(data, _dtype(dtype), shape)
    else:
        mark, value, dtype = _entries(found, form, _SCALAR, "a scalar's map")
        if mark is True:
            return _scalar(value, _dtype(dtype))
    raise BadInput(f"the mark of an array or a scalar is true, not {str(mark)[:20]}")


def _from_msgpack_numpy(found):
    kind = found.pop(b"kind", b"")  # older versions write none
    if kind not in (b"", ""):
        raise BadInput(f"an array of kind {str(kind)[:20]}: only numbers are taken, nothing is unpickled")
    if found[b"nd"] is True:
        _, dtype, data, shape = _entries(found, Form.MSGPACK_NUMPY, ("nd", "type", "data", "shape"), "an array's map")
        return _array(data, _dtype(dtype), shape)
    mark, dtype, data = _entries(found, Form.MSGPACK_NUMPY, ("nd", "type", "data"), "a scalar's map")
    if mark is not False:
        raise BadInput(f"nd is true for an array, false for a scalar, not {str(mark)[:20]}")
    return _array(data, _dtype(dtype), [])[()]


def _entries(found, form, names, what):
    """The entries of these names; BadInput where there are others or not all of them."""
    if set(found) != {_key(name, form) for name in names}:
        raise BadInput(f"{what} has other entries than {', '.join(names[1:])}")
    return [found[_key(name, form)] for name in names]


def _array(data, dtype, shape):
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


def _scalar(value: Any, dtype: np.dtype) -> Any:
    fits = {"b": bool, "i": int, "u": int, "f": float}[dtype.kind]
    if type(value) is not fits:
        raise BadInput(f"a scalar of dtype {dtype} cannot hold a {type(value).__name__}")
    number: Any = value
    if fits is float:  # numpy 2 would compare a plain number as one of the dtype, rounded and with a warning
        number = np.float64(number)
    limits: Any = np.iinfo(dtype) if fits is int else np.finfo(dtype) if fits is float else None
    if limits and math.isfinite(number) and not limits.min <= number <= limits.max:
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
                raise BadInput(
                    f"the key of a map is not a string but {str(key)[:20]}: only the maps that stand for arrays, "
                    "openpi-client's and msgpack-numpy's, have keys of bytes"
                )
            _check(entry, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            _check(entry, depth + 1)
    elif not isinstance(value, str | bytes | int | float | np.ndarray | np.generic | EncodedPicture | None):
        raise BadInput(f"a {type(value).__name__} is not taken")
