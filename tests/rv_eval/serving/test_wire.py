import os
import pickle

import msgpack
import numpy as np
import pytest
from openpi_client import msgpack_numpy

from rv_eval.serving import wire


def message():
    rng = np.random.default_rng(0)
    arrays = {dtype: (rng.normal(size=(2, 3)) * 50).astype(dtype) for dtype in sorted(wire.DTYPES)}
    return {
        "arrays": arrays,
        "empty": np.zeros((0, 3), np.uint8),
        "number": np.array(3.5),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "strided": np.arange(10)[::2],
        "scalars": [np.float32(1.5), np.uint8(200), np.bool_(True)],
        "plain": [1, -2, 0.5, True, None, "ä", b"\x00", {"deep": []}],
    }


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("packer", [wire.pack, msgpack_numpy.packb])
@pytest.mark.parametrize("unpacker", [wire.unpack, msgpack_numpy.unpackb])
def test_it_is_the_encoding_of_openpi_client(packer, unpacker):
    assert same(unpacker(packer(message())), message())


@pytest.mark.parametrize("form", wire.Form)
def test_every_form_is_read_as_it_was_written(form):
    assert same(wire.unpack(wire.pack(message(), form)), message())
    assert wire.unpack_form(wire.pack(message(), form))[1] is form


def test_a_message_without_arrays_counts_as_openpis():
    assert wire.unpack_form(wire.pack({"a": [1, "__ndarray__"]}, wire.Form.TEXT_KEYS)) == (
        {"a": [1, "__ndarray__"]},
        wire.Form.OPENPI,
    )


def test_older_msgpack_numpy_writes_no_kind():
    data = msgpack.packb({b"nd": True, b"type": "<f4", b"shape": (2,), b"data": b"\0" * 8})
    assert wire.unpack(data).tolist() == [0, 0]


def test_the_text_of_a_long_chunk_goes_through():
    text = " ".join(["1000"] * (100 * 14))
    assert wire.unpack(wire.pack({"text": text}))["text"] == text


def test_bytes_in_the_other_order_are_turned():
    assert wire.unpack(wire.pack({"a": np.arange(3, dtype=">i4")}))["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("thing", [{1, 2}, np.array([None]), np.zeros(2, "c8"), np.array(["a"]), 2**70, object()])
def test_what_cannot_be_sent_is_refused(thing):
    with pytest.raises(ValueError, match="cannot be sent"):
        wire.pack({"a": thing})


def array(data=b"\0" * 8, dtype="<f4", shape=(2,), **more):
    return msgpack.packb({b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape, **more})


def scalar(data, dtype="<f4"):
    return msgpack.packb({b"__npgeneric__": True, b"data": data, b"dtype": dtype})


def text_array(data=b"\0" * 8, dtype="<f4", shape=(2,), **more):
    return msgpack.packb({"__ndarray__": True, "data": data, "dtype": dtype, "shape": shape, **more})


def numpy_array(data=b"\0" * 8, dtype="<f4", shape=(2,), kind=b"", nd=True, **more):
    array = {b"nd": nd, b"type": dtype, b"kind": kind, b"shape": shape, b"data": data}
    return msgpack.packb(array | {name.encode(): value for name, value in more.items()})


def numpy_scalar(data=b"\0" * 4, dtype="<f4"):
    return msgpack.packb({b"nd": False, b"type": dtype, b"data": data})


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


BROKEN = {
    "nothing": (b"", "incomplete"),
    "cut off": (array()[:-3], "incomplete"),
    "more behind": (array() + b"\0", "extra data"),
    "no msgpack": (b"\xc1", "FormatError"),
    "object array": (array(dtype="|O"), "dtype '|O'"),
    "object array in numpy's other name": (array(dtype="O8"), "dtype 'O8'"),
    "structured": (array(dtype="<i4,<f4"), "dtype"),
    "void": (array(dtype="|V8"), "dtype"),
    "complex": (array(dtype="<c8"), "dtype"),
    "time": (array(dtype="<M8[s]", shape=(1,)), "dtype"),
    "text array": (array(dtype="<U2", shape=(1,)), "dtype"),
    "big endian": (array(dtype=">f4"), "dtype"),
    "dtype that is a list": (array(dtype=[["a", "<f4"]]), "dtype"),
    "too few bytes": (array(shape=(3,)), "has 12 bytes"),
    "too many bytes": (array(shape=(1,)), "has 4 bytes"),
    "declared huge": (array(shape=(8000, 8000, 8000)), "has 2048000000000 bytes"),
    "declared beyond any memory": (array(shape=(2**40,)), "numbers from 0"),
    "nothing of a huge thing": (array(b"", shape=(0, 2**62)), "numbers from 0"),
    "negative side": (array(shape=(-2,)), "numbers from 0"),
    "side that is a float": (array(shape=(2.0,)), "numbers from 0"),
    "side that is a bool": (array(b"\0" * 4, shape=(True,)), "numbers from 0"),
    "too many dimensions": (array(shape=(2, 1, 1, 1, 1)), "at most 4"),
    "shape that is a number": (array(shape=2), "a list"),
    "data that is text": (array("\0" * 8), "has 8 bytes"),
    "bool of 2": (array(b"\0\2", dtype="|b1"), "other bytes"),
    "entry too many": (array(more=1), "other entries"),
    "scalar of a text": (scalar("1"), "cannot hold a str"),
    "scalar object": (scalar(b"", "|O"), "dtype '|O'"),
    "scalar too large": (scalar(300, "|u1"), "cannot hold 300"),
    "float too large": (scalar(1e300), "cannot hold 1e"),
    "float a little too large": (scalar(3.402823467e38), "cannot hold 3.4"),
    "text keys: object array": (text_array(dtype="|O"), "dtype '|O'"),
    "text keys: too few bytes": (text_array(shape=(3,)), "has 12 bytes"),
    "text keys: entry too many": (text_array(more=1), "other entries"),
    "text keys: mark of 1": (msgpack.packb({"__ndarray__": 1, "data": b"", "dtype": "|u1", "shape": [0]}), "not 1"),
    "both kinds of keys": (msgpack.packb({"__ndarray__": True, b"data": b"", "dtype": "|u1", "shape": [0]}), "entries"),
    "msgpack-numpy: pickled objects": (numpy_array(dtype=[["", "|O"]], kind=b"O"), "nothing is unpickled"),
    "msgpack-numpy: objects without their kind": (numpy_array(dtype="|O"), "dtype '|O'"),
    "msgpack-numpy: objects in a structure": (numpy_array(dtype=[["", "|O"]]), "dtype"),
    "msgpack-numpy: structured": (numpy_array(dtype=[["a", "<f4"]], kind=b"V"), "kind b'V'"),
    "msgpack-numpy: big endian": (numpy_array(dtype=">f4"), "dtype '>f4'"),
    "msgpack-numpy: too many bytes": (numpy_array(shape=(1,)), "has 4 bytes"),
    "msgpack-numpy: declared huge": (numpy_array(shape=(8000, 8000, 8000)), "has 2048000000000 bytes"),
    "msgpack-numpy: entry too many": (numpy_array(more=1), "other entries"),
    "msgpack-numpy: neither array nor scalar": (numpy_array(nd=None), "other entries"),
    "msgpack-numpy: scalar too short": (numpy_scalar(b"\0"), "has 4 bytes"),
    "msgpack-numpy: scalar object": (numpy_scalar(dtype="|O"), "dtype '|O'"),
    "msgpack-numpy: complex": (msgpack.packb({b"complex": True, b"data": "1j"}), "not a string but b'complex'"),
    "list too long": (msgpack.packb([0] * 1025), "max_array_len"),
    "list declared too long": (b"\xdd\xff\xff\xff\xff", "max_array_len"),
    "map too long": (msgpack.packb({str(i): 0 for i in range(1025)}), "max_map_len"),
    "too many entries": (msgpack.packb([[0] * 1000] * 11), "10000 entries"),
    "text too long": (msgpack.packb("a" * (wire.MAX_TEXT + 1)), "max_str_len"),
    "too deep": (b"\x91" * 7 + b"\xc0", "more than 6"),
    "too deep for msgpack": (b"\x91" * 100_000 + b"\xc0", "StackError"),
    "extension": (msgpack.packb(msgpack.ExtType(5, b"")), "extension type 5"),
    "time stamp": (msgpack.packb(msgpack.Timestamp(0, 0)), "max_ext_len"),
    "key that is bytes": (msgpack.packb({b"a": 1}), "not a string"),
    "key that is a list": (b"\x81\x90\xc0", "map key"),
    "no UTF-8": (b"\xa1\xff", "utf-8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_messages_are_refused(name):
    data, reason = BROKEN[name]
    with pytest.raises(ValueError) as caught:
        wire.unpack(data)
    assert reason in str(caught.value) and len(str(caught.value)) < 300


def test_more_bytes_than_allowed():
    data = wire.pack({"a": np.zeros(1000, np.uint8)})
    assert len(wire.unpack(data, len(data))["a"]) == 1000
    with pytest.raises(ValueError, match="bytes, at most"):
        wire.unpack(data, len(data) - 1)


def test_nothing_is_unpickled(tmp_path):
    bomb = pickle.dumps(Bomb(str(tmp_path / "marker")))
    objects = [["", "|O"]]
    for data in (
        *(bomb, array(bomb, "|O", (1,)), array(bomb, "O8", (1,)), scalar(bomb, "|O"), text_array(bomb, "|O", (1,))),
        *(numpy_array(bomb, dtype, (1,), kind) for dtype in ("|O", objects) for kind in (b"O", b"", b"V", "O")),
        numpy_scalar(bomb, "|O"),
    ):
        with pytest.raises(ValueError):
            wire.unpack(data)
    assert wire.unpack(msgpack.packb({"data": bomb})) == {"data": bomb}
    assert not (tmp_path / "marker").exists()
    pickle.loads(bomb)
    assert (tmp_path / "marker").exists(), "the bomb is one"


def test_random_damage_is_a_value_error_or_a_message():
    rng = np.random.default_rng(0)
    good = wire.pack(message())
    readable = 0
    for _ in range(5000):
        data = bytearray(good[: rng.integers(1, len(good) + 1)] if rng.random() < 0.3 else good)
        for _ in range(rng.integers(0, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            wire.unpack(bytes(data))
            readable += 1
        except ValueError:
            pass
    assert 500 < readable < 4500
