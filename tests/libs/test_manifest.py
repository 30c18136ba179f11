"""A manifest's lines and pictures; how it is built is tested in tests/tools/test_build_manifest.py."""

import json

import cv2
import numpy as np
import pytest

from libs.manifest import BadLine, Rules, numbered_lines, read_line, read_picture
from libs.manifest.lines import LONGEST, check_pictures
from libs.manifest.pictures import decode_picture, encode_picture

RULES = Rules("/data/set", ("front", "wrist"), horizon=2, action_dim=3, num_bins=100)
GOOD = {
    "image_paths": {"wrist": "frames/1_wrist.png", "front": "/elsewhere/1_front.png"},
    "instruction": "pick it up",
    "target_action_text": "0 50 100 7 8 9",
    "H": 2,
    "D": 3,
}


def read(rules=RULES, without=(), **change):
    found = {key: value for key, value in {**GOOD, **change}.items() if key not in without}
    return read_line(json.dumps(found).encode() + b"\n", rules)


def test_a_line_by_hand():
    line = read()
    assert line.pictures == ["/elsewhere/1_front.png", "/data/set/frames/1_wrist.png"]  # in the order of the views
    assert (line.instruction, line.text) == ("pick it up", "0 50 100 7 8 9")
    assert (line.file, line.demo, line.frame, line.split) == (None, None, None, None)
    line = read(file="a", demo="demo_3", frame=12, split="valid")
    assert (line.file, line.demo, line.frame, line.split) == ("a", "demo_3", 12, "valid")
    assert read(demo=3, frame="a.png", split="test").demo == "3"  # somebody else's keys of the same names
    one = Rules("/data/set", ("any",), 2, 3, 100)
    assert read(one, without=("image_paths",), image_path="a.png").pictures == ["/data/set/a.png"]


def test_texts_get_one_form():
    assert read(target_action_text=" 00  050 100\t7 8 009\n").text == "0 50 100 7 8 9"
    hidden = read(target_action_text="X 5X 1?? _ 07 XXX")
    assert (hidden.text, hidden.numbers) == ("X 5X 1XX X 7 XXX", [None, None, None, None, 7, None])
    assert read(target_action_text="0 50 X00 7 8 9").numbers == [0, 50, None, 7, 8, 9]
    assert read().numbers == [0, 50, 100, 7, 8, 9]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"H": 2, "D"', r"not valid JSON \(Expecting ':' delimiter"),
        (b"\xff\xfe\x00\n", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b"x" * (LONGEST + 1), "longer than 1,048,576 bytes"),
    ],
)
def test_what_is_no_json_object_is_a_bad_line(raw, message):
    with pytest.raises(BadLine, match=message):
        read_line(raw, RULES)


@pytest.mark.parametrize(
    ("without", "change", "message"),
    [
        ((), {"target_action_text": "1 2 3 4 5"}, "5 integers, not 2 x 3 = 6"),
        ((), {"target_action_text": "1 2 3 4 5 6 7"}, "7 integers, not 2 x 3 = 6"),
        ((), {"target_action_text": "1 2 3 4 5 101"}, "101 lies outside 0 to 100"),
        ((), {"target_action_text": "1 2 3 4 5 2XX"}, "2XX lies outside 0 to 100"),
        ((), {"target_action_text": "1 2 3 4 5 XXXX"}, "XXXX is longer than 3 digits"),
        ((), {"target_action_text": "1 2 3 4 5 " + "9" * 9999}, "99999999999999999999 is longer than 3 digits"),
        ((), {"target_action_text": "1 2 3 4 5 -6"}, "'-6' is not an integer"),
        ((), {"target_action_text": "1 2 3 4 5 6.0"}, r"'6\.0' is not an integer"),
        ((), {"target_action_text": "1 2 3 4 5 ٣"}, "is not an integer"),
        ((), {"target_action_text": ""}, "target_action_text is '', not a text"),
        ((), {"target_action_text": [1, 2, 3, 4, 5, 6]}, "not a text"),
        ((), {"instruction": "go <|im_end|>"}, r'the instruction holds "<\|"'),
        ((), {"instruction": 5}, "instruction is 5, not a text"),
        ((), {"H": 3}, "H is 3, not 2"),
        ((), {"D": 7}, "D is 7, not 3"),
        ((), {"H": 2.0}, r"H is 2\.0, not 2"),
        ((), {"H": True}, "H is True, not 2"),
        ((), {"image_paths": {"front": "a.png"}}, "no picture of view wrist; there are front"),
        ((), {"image_paths": {"front": "a.png", "wrist": None}}, "the path of view wrist is None"),
        ((), {"image_paths": ["a.png", "b.png"]}, "image_paths is not an object"),
        (("image_paths",), {}, "no image_path"),
        (("image_paths",), {"image_path": "a.png"}, r"one picture \(image_path\), but 2 views are asked for"),
        (("H",), {}, "no H"),
        (("D",), {}, "no D"),
        (("instruction",), {}, "no instruction"),
        (("target_action_text",), {}, "no target_action_text"),
    ],
)
def test_what_is_no_sample_is_a_bad_line(without, change, message):
    with pytest.raises(BadLine, match=message):
        read(without=without, **change)


def test_lines_are_numbered_and_found_again_wherever_they_stand(tmp_path):
    long = b"x" * (3 * LONGEST + 5)
    content = b'{"a": 1}\n\n  \nshort\n' + long + b"\nwithout an end"
    (tmp_path / "m.jsonl").write_bytes(content)
    lines = list(numbered_lines(tmp_path / "m.jsonl"))
    assert [number for number, _, _ in lines] == [1, 4, 5, 6]  # blank lines count, but are no samples
    for _, offset, raw in lines:
        assert content[offset : offset + len(raw)] == raw
    assert [len(raw) for _, _, raw in lines] == [9, 6, LONGEST + 1, 14]


def test_pictures_that_are_missing_or_empty_are_bad_lines(tmp_path):
    rules = Rules(str(tmp_path), ("front",), 2, 3, 100)
    (tmp_path / "empty.png").touch()
    (tmp_path / "there.png").write_bytes(b"something")
    for name, message in (
        ("no.png", r"no\.png cannot be found \(No such file"),
        ("empty.png", "empty.png is empty"),
        ("a\0b", "cannot be found"),
    ):
        with pytest.raises(BadLine, match=message):
            check_pictures(read(rules, image_paths={"front": name}))
    check_pictures(read(rules, image_paths={"front": "there.png"}))


def test_png_keeps_every_value_and_the_order_of_the_colours(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (28, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_picture(encode_picture(picture, "png", 0)), picture)
    flat = np.full((32, 32, 3), (200, 100, 20), np.uint8)
    (tmp_path / "a.jpg").write_bytes(encode_picture(flat, "jpeg", 95))
    assert np.abs(read_picture(tmp_path / "a.jpg").astype(int) - flat).max() <= 3
    assert len(encode_picture(picture, "jpeg", 10)) < len(encode_picture(picture, "jpeg", 95))


def test_pictures_of_other_kinds_become_rgb():
    grey = np.full((8, 8), 7, np.uint8)
    for picture in (grey, grey.astype(np.uint16) * 257, np.dstack([grey] * 4)):
        content = cv2.imencode(".png", picture)[1].tobytes()
        np.testing.assert_array_equal(decode_picture(content), np.full((8, 8, 3), 7, np.uint8))


def test_damaged_pictures_are_named(tmp_path):
    path = tmp_path / "a.png"
    for content, message in ((b"", "damaged, or no picture"), (b"text", "damaged, or no picture"), (None, "cannot be")):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"picture .*a\.png .*{message}"):
            read_picture(path)
