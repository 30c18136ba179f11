"""Pickles of others read without running anything: numbers, texts, lists, tuples, dicts and numpy's numbers.

A pickle is a program. It names functions, and the ordinary reader imports and calls whatever it names. Here the few
names that a numpy array is written with stand for functions of this file, which only take notes, and every other name
ends the reading. numpy's own functions are not among them: told a wrong dtype, they take raw bytes for addresses.
"""

import io
import pickle
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from libs.errors import BadInput, first_line
from libs.files import named_path

PLAIN = (bool, int, float, str, type(None))
_NUMBERS = re.compile(r"(b1|[iu][1248]|f[248])")  # dtypes of numbers, as numpy writes them
_BYTE_ORDERS: dict[str, Literal["<", ">"]] = {"<": "<", ">": ">"}


def read_plain_pickle(path: str | Path) -> object:
    """What a pickle file holds: numbers, texts and None in lists, tuples and dicts; arrays and numpy's numbers, too.

    BadInput: it cannot be read, is no pickle, or holds or asks for anything else; the line names that.
    """
    with named_path(path):
        content = Path(path).read_bytes()
    reader = _Reader(io.BytesIO(content), encoding="latin1")  # latin1: bytes of arrays that Python 2 wrote
    try:
        return _Plain().of(reader.load())
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except (RecursionError, MemoryError, OverflowError) as error:
        raise BadInput(f"{path} is nested too deeply or too large to be what it should be") from error
    except Exception as error:  # a broken pickle makes its reader fail in any way
        raise BadInput(f"{path} is not a readable pickle ({first_line(error)})") from error


class _Reader(pickle.Unpickler):
    def find_class(self, module, name):
        known = _GLOBALS.get((module, name))
        if known is None:
            raise BadInput(
                f"the pickle asks for {module}.{name}, which is not run; only numbers, texts, lists, tuples, dicts and "
                "numpy arrays of numbers are read"
            )
        return lambda *given: known(*given)  # a new one each time: a pickle can set attributes of what it is given


class _Note:
    """What a pickle said about an object of numpy: what it was made with, and its state."""

    def __init__(self, kind, given):
        self.kind, self.given, self.state = kind, given, None

    def __setstate__(self, state):
        self.state = state


def _note(kind):
    return lambda *given: _Note(kind, given)


# Names that numpy's arrays, dtypes and numbers are written with, by its versions 1 and 2.
_GLOBALS = {
    ("numpy", "ndarray"): _note("class"),
    ("numpy", "dtype"): _note("dtype"),
    ("_codecs", "encode"): _note("bytes"),
    ("__builtin__", "bytes"): _note("bytes"),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _note("array") for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _note("number") for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _note("buffer") for core in ("core", "_core")},
}


class _Plain:
    """Turns what was read into plain objects. Every object once: a pickle may name one a thousand times."""

    def __init__(self):
        self.done = {}  # id -> (object, what it becomes); the object is kept, so that its id stays its own

    def of(self, found):
        if type(found) in PLAIN:
            return found
        if id(found) not in self.done:
            self.done[id(found)] = found, None
            self.done[id(found)] = found, self._made(found)
        made = self.done[id(found)][1]
        if made is None:
            raise BadInput("the pickle holds something that contains itself")
        return made

    def _made(self, found):
        if type(found) in (list, tuple):
            return type(found)(self.of(one) for one in found)
        if type(found) is dict:
            return {self._key(key): self.of(value) for key, value in found.items()}
        if type(found) is _Note and found.kind in ("array", "buffer", "number"):
            return _numbers(found)
        name = "a function" if callable(found) else f"a {type(found).__name__}"
        raise BadInput(f"the pickle holds {name}, which is neither number, text, list, tuple, dict nor array")

    def _key(self, key):
        if type(key) not in PLAIN:
            raise BadInput(f"the pickle holds a dict with a key that is neither number nor text: {key!r:.60}")
        return key


def _numbers(note):
    """The array, or number, that a pickle has described."""
    order: Any  # whatever the file says: numpy refuses what is none
    try:
        if note.kind == "array":
            _, shape, dtype, by_columns, raw = note.state
            order = "F" if by_columns else "C"
        elif note.kind == "buffer":
            raw, dtype, shape, order = note.given
        else:
            (dtype, raw), shape, order = note.given, (), "C"
        dtype, raw = _dtype(dtype), _bytes(raw)
        values = np.frombuffer(raw, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))
    except (ValueError, TypeError) as error:
        raise BadInput(f"the pickle holds a broken array ({first_line(error)})") from error
    return values if note.kind != "number" else values[()]


def _dtype(note):
    code = note.given[0] if type(note) is _Note and note.kind == "dtype" and note.given else None
    if type(code) is not str or not _NUMBERS.fullmatch(code):
        raise BadInput(f"the pickle holds an array of {code!r}; only numbers are read")
    order = note.state[1] if note.state else "="
    return np.dtype(code).newbyteorder(_BYTE_ORDERS.get(order, "="))


def _bytes(raw):
    if type(raw) is _Note and raw.kind == "bytes":  # as protocols before 3 write them
        raw = raw.given[0] if raw.given else ""
    if type(raw) is str:
        raw = raw.encode("latin1")
    if not isinstance(raw, bytes | bytearray):
        raise TypeError(f"its numbers are a {type(raw).__name__}")
    return raw
