"""libs.files: a file is whole or not there."""

import os
import subprocess
import sys

import pytest

from libs.errors import BadInput
from libs.files import read_yaml, whole_file, write_whole


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "before")
    with pytest.raises(RuntimeError), whole_file(path) as beside:
        beside.write_text("half")
        assert path.read_text() == "before" and beside.suffix == ".json"
        raise RuntimeError
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.json"]


def test_bytes_text_and_what_is_synced(tmp_path):
    write_whole(tmp_path / "a", b"\x00\xff", sync=True)
    write_whole(tmp_path / "b", "größer")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "größer".encode()


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "page.html"
    code = "import sys; from libs.files import write_whole; write_whole(sys.argv[1], 'theirs', contested=True)"
    with whole_file(path, contested=True) as beside:
        beside.write_text("ours")
        subprocess.run([sys.executable, "-c", code, path], check=True)
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours"
    assert os.listdir(tmp_path) == ["page.html"]


def test_what_a_kill_left_is_replaced(tmp_path):
    path = tmp_path / "a.json"
    with whole_file(path) as beside:
        beside.write_text("cut off")
        left = beside
    left.write_text("cut off")
    write_whole(path, "whole")
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_name_stands_once_in_a_mapping_of_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &one {x: 1, y: 2}\nb: {<<: *one, y: 3}\nc: [{x: 1}, {x: 2}]\n1: int\n'1': text\n")
    assert read_yaml(path) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": [{"x": 1}, {"x": 2}],
        1: "int",
        "1": "text",
    }
    for text, said in (("a: 1\n\na: 2", "'a' stands there twice, in lines 1 and 3"), ("- {b: {c: 1, c: 1}}", "'c'")):
        path.write_text(text)
        with pytest.raises(BadInput, match=f"^{path}: {said}"):
            read_yaml(path)
