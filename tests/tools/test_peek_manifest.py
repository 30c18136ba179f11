"""tools/peek_manifest.py: what is shown of a manifest, and every kind of bad line by its number."""

import json
import shutil

import numpy as np
import pytest

from libs.manifest.pictures import encode_picture
from tests.demo_files import write_synthetic_demo_file
from tests.manifests import build, edit_lines, write_foreign
from tools.peek_manifest import main


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifests")
    write_synthetic_demo_file(folder / "a_demo.hdf5", 3, 5, 64, seed=0)
    return build(folder / "png", folder / "a_demo.hdf5")


@pytest.fixture
def mine(built, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(built, tmp_path / "mine")


def peek(capsys, *args, expect=0):
    """The lines that are printed."""
    try:
        main([str(arg) for arg in args])
        code = 0
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert code == expect, captured
    return (captured.out if expect < 2 else captured.err).splitlines()


def test_samples_are_shown_and_everything_is_checked(built, capsys):
    lines = peek(capsys, built, "--num_samples", 2)
    first = json.loads((built / "manifest.jsonl").read_text().splitlines()[0])
    assert lines[:6] == [
        f"{built}/manifest.jsonl",
        "  2 x 7 integers from 0 to 100, views agentview, eye_in_hand",
        "line 1: a_demo, demo_0, 0",
        "  instruction  pick up the stripe",
        f"  agentview    64 x 64 x 3  {built}/frames/a_demo/demo_0/000000_agentview.png",
        f"  eye_in_hand  64 x 64 x 3  {built}/frames/a_demo/demo_0/000000_eye_in_hand.png",
    ]
    assert lines[6] == f"  text         {first['target_action_text']}" and lines[7].startswith("  first action ")
    assert lines[7].endswith(" 1.000") and len(lines[7].split()) == 2 + 7  # the gripper closes
    assert lines[8] == "line 2: a_demo, demo_0, 1" and len(lines) == 2 + 2 * 6 + 1
    assert lines[-1] == "15 good samples, 0 bad lines, 30 pictures, 30 of them checked by SHA-256"
    assert peek(capsys, built / "manifest.jsonl", "--num_samples", 0, "--workers", 1)[2:] == lines[-1:]


def test_every_bad_line_is_listed_with_its_number(mine, capsys):
    frames = mine / "frames/a_demo/demo_0"

    def damage(lines):
        good = json.loads(lines[0])
        lines[1] = lines[1][:80]
        lines[2] = json.dumps({**good, "target_action_text": "1 2 3"})
        lines[3] = json.dumps({**good, "target_action_text": good["target_action_text"].rsplit(" ", 1)[0] + " 101"})
        lines[5] = json.dumps({**good, "D": 8})
        lines[6] = json.dumps({key: value for key, value in good.items() if key != "instruction"})
        lines[7] = lines[7].replace("frames/a_demo/demo_1/", "frames/a_demo/demo_7/")

    edit_lines(mine, damage)
    content = bytearray((frames / "000004_eye_in_hand.png").read_bytes())
    content[-1] ^= 1  # behind the last pixel: it opens, but is not what was written
    (frames / "000004_eye_in_hand.png").write_bytes(content)
    (mine / "frames/a_demo/demo_2/000001_agentview.png").write_bytes(b"no picture")
    (mine / "frames/a_demo/demo_2/SHA256SUMS").unlink()
    other = mine / "frames/a_demo/demo_2/000003_agentview.png"
    other.write_bytes(encode_picture(np.zeros((32, 32, 3), np.uint8), "png", 0))
    lines = peek(capsys, mine, "--num_samples", 0, expect=1)
    found = [line.replace(str(mine), "") for line in lines[2:]]
    for number, reason in {
        2: "not valid JSON (Unterminated string",
        3: "3 integers, not 2 x 7 = 14",
        4: "101 lies outside 0 to 100",
        5: "picture /frames/a_demo/demo_0/000004_eye_in_hand.png is not what was written",
        6: "D is 8, not 7",
        7: "no instruction",
        8: "picture /frames/a_demo/demo_7/000002_agentview.png does not exist",
        12: "picture /frames/a_demo/demo_2/000001_agentview.png is damaged, or no picture",
        14: "picture /frames/a_demo/demo_2/000003_agentview.png has 32 pixels a side, the first one 64",
    }.items():
        line = found.pop(0)
        assert line.startswith(f"line {number}: {reason}"), line
    assert found.pop(0) == "problem: manifest.jsonl is not what was written beside SHA256SUMS"
    assert found == ["6 good samples, 9 bad lines, 12 pictures, 6 of them checked by SHA-256"]
    assert peek(capsys, mine, "--num_samples", 0, "--skip_bad") == lines


def test_a_manifest_that_was_cut_off_is_noticed(mine, capsys):
    edit_lines(mine, lambda lines: lines.pop())
    lines = peek(capsys, mine, "--num_samples", 0, expect=1)
    assert lines[2:4] == [
        "problem: 14 lines, manifest_info.json says 15",
        "problem: manifest.jsonl is not what was written beside SHA256SUMS",
    ]
    edit_lines(mine, lambda lines: lines.__setitem__(slice(None), ["no"] * 3))
    assert peek(capsys, mine, "--skip_bad", expect=1)[-1].startswith("0 good samples, 3 bad lines")


def test_somebody_elses_manifest(tmp_path, capsys):
    texts = ["50 " * 13 + "50", "5X X 100 0 100 1XX 7 " + "5 " * 7]
    folder = write_foreign(tmp_path / "theirs", [("go", 2)], text=texts.__getitem__)
    lines = peek(capsys, folder)
    assert lines[1] == "  2 x 7 integers from 0 to 1000, views image"
    assert lines[7:11] == [
        "line 2",
        "  instruction  go",
        f"  image        64 x 64 x 3  {folder}/frame_000001.png",
        "  text         5X X 100 0 100 1XX 7 5 5 5 5 5 5 5",
    ]
    assert (
        lines[-1]
        == "2 good samples, 1 of them with hidden digits (X), 0 bad lines, 2 pictures, 0 of them checked by SHA-256"
    )
    lines = peek(capsys, folder, "--num_bins", 100)
    assert lines[11] == "  first action X X 1.000 -1.000 1.000 X -0.860"
    (folder / "frame_000000.png").write_bytes(b"no picture")
    assert any("line 1: picture" in line and "is damaged" in line for line in peek(capsys, folder, expect=1))
    (folder / "action_stats.npz").unlink()
    lines = peek(capsys, folder, "--skip_bad")
    assert lines[0].startswith("no statistics, so the integers cannot be read as actions: ")


def test_nothing_to_read_costs_one_line(built, tmp_path, capsys):
    (tmp_path / "manifest.jsonl").write_text('{"a": 1}\n')
    for arguments, message in (
        ([tmp_path / "no"], "no does not exist"),
        ([built / "frames"], "frames holds no manifest.jsonl"),
        ([tmp_path], "no line says H and D"),
        ([built, "--workers", "0"], "--workers must be at least 1"),
        ([built, "--stats", tmp_path / "no.json"], "no.json does not exist"),
    ):
        (error,) = peek(capsys, *arguments, expect=2)
        assert error.startswith("error: ") and message in error
