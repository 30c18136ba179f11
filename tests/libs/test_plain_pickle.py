"""libs.plain_pickle: what it reads, and that nothing in a pickle is run."""

import os
import pickle
import pickletools

import numpy as np
import pytest

from libs.errors import BadInput
from libs.plain_pickle import read_plain_pickle

PLAIN = {"min": [-1.0, 2], "names": ("x", None, True), "deep": {"a": [{}]}}


def written(tmp_path, content):
    path = tmp_path / "stats.pkl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_things_and_numbers_of_numpy_come_back(tmp_path, protocol):
    arrays = {
        "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.array([1, -2], dtype=">i4"),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 7)),
        "numbers": [np.float64(0.5), np.int64(-3), np.float32(0.25)],
    }
    found = read_plain_pickle(written(tmp_path, pickle.dumps(PLAIN | arrays, protocol)))
    assert {key: found[key] for key in PLAIN} == PLAIN
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
    assert found["rows"].dtype == np.float32 and found["numbers"][1].dtype == np.int64


def test_the_names_of_numpy_2_are_known(tmp_path):
    """And those of numpy 1, whichever of them writes here."""
    content, names = pickle.dumps(np.arange(3.0), 2), (b"numpy.core.multiarray", b"numpy._core.multiarray")
    (here,) = (name for name in names if name in content)
    for name in names:
        found = read_plain_pickle(written(tmp_path, content.replace(here, name)))
        np.testing.assert_array_equal(found, [0, 1, 2])


class Calls:
    """A pickle of it runs a command."""

    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps({"min": Calls()}), r"asks for posix\.mkdir, which is not run"),
        (pickle.dumps(np.array([[1], "x"], dtype=object)), r"array of 'O8'; only numbers"),
        (pickle.dumps(np.array(["x"])), "only numbers are read"),
        (pickle.dumps(np.dtype("f8")), "holds a _Note"),
        (pickle.dumps(np.ndarray), "holds a function"),
        (pickle.dumps({1, 2}), "holds a set"),
        (pickle.dumps({"a": b"x"}), "holds a bytes"),
        (pickle.dumps(1j), r"asks for builtins\.complex"),
        (pickle.dumps({(1, 2): 3}), "a key that is neither number nor text"),
        (pickle.dumps(np.arange(3.0))[:-20], "not a readable pickle"),
        (b"", "not a readable pickle"),
        (b"PK\x03\x04", "not a readable pickle"),
        (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "nested too deeply"),
        (b"\x80\x02]q\x00h\x00a.", "contains itself"),
        (pickle.dumps(np.arange(3.0)).replace(b"f8", b"O8"), "only numbers are read"),
        (pickle.dumps(np.zeros(64)).replace(b"K@", b"K\x7f"), "broken array"),
        # the state of a known name, which would become attributes of a function
        (b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00xK\x01sb.", "holds a function"),
    ],
)
def test_everything_else_is_refused_in_one_line(tmp_path, monkeypatch, content, says):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, content)
    with pytest.raises(BadInput, match=says) as caught:
        read_plain_pickle(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["stats.pkl"]


def test_what_is_named_often_is_made_once(tmp_path):
    """Thirty lists, each of the one before it twice: a thousand million of the first, written in 200 bytes."""
    found = "x"
    for _ in range(30):
        found = [found, found]
    content = pickletools.optimize(pickle.dumps(found))
    back = read_plain_pickle(written(tmp_path, content))
    assert back[0] is back[1] and back[0][0] is back[0][1]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"stats\.pkl does not exist"):
        read_plain_pickle(tmp_path / "stats.pkl")
