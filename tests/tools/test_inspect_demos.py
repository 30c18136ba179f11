"""tools/inspect_demos.py: what it says of files, its exit codes, its video."""

import h5py
import imageio
import numpy as np
import pytest

from tests.demo_files import write_synthetic_demo_file
from tools.inspect_demos import main


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_synthetic_demo_file(path, 3, 5, 16, seed=0)
    return path


def test_says_what_is_in_a_file(path, capsys):
    main([str(path)])
    lines = capsys.readouterr().out.splitlines()
    rows = {line[2:15].strip(): line[15:] for line in lines[1:] if line}
    assert lines[0] == str(path)
    assert (rows["instruction"], rows["task"]) == ("pick up the stripe", "synthetic.bddl")
    assert (rows["demos"], rows["frames"]) == ("3", "15  (per demo: 5 to 5, mean 5.0)")
    assert rows["views"] == "agentview 16 x 16, eye_in_hand 16 x 16" and rows["render"] == "fast"
    assert rows["storage"].startswith("gzip 1, chunks of 1, ") and "of 1.5 kB" in rows["storage"]
    assert rows["actions"].split() == ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
    with h5py.File(path, "r") as file:
        actions = np.concatenate([demo["actions"][()] for demo in file["data"].values()])
    for name, values in (("min", actions.min(0)), ("mean", actions.mean(0)), ("max", actions.max(0))):
        np.testing.assert_allclose([float(value) for value in rows[name].split()], values, atol=6e-4)
    assert len({len(lines[i]) for i in range(-5, 0) if lines[i]}) == 1  # the columns stand under each other


def test_a_good_file_verifies(path, capsys):
    main([str(path), "--verify"])
    out = capsys.readouterr().out
    assert "verified     no problems" in out
    assert "not replayed: " in out and "nor the file's name is a known task" in out


def test_problems_are_listed_and_exit_code_is_1(path, capsys):
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            del demo.attrs["model_file"]
        file["data/demo_2/actions"][0, 0] = np.nan
    with pytest.raises(SystemExit) as stop:
        main([str(path), "--verify"])
    assert stop.value.code == 1
    assert capsys.readouterr().out.split("verified     ")[1].splitlines()[:3] == [
        "2 problems",
        "    demo_0 and 2 more: attribute model_file is missing",
        "    demo_2: actions has NaN or infinity, first at step 0",
    ]


def test_video_plays_the_demos_of_files_of_different_shapes(path, tmp_path, capsys):
    other = tmp_path / "other.hdf5"
    write_synthetic_demo_file(other, 2, 4, 32, seed=9, instruction="pick up the stripe " * 6)
    with h5py.File(other, "r+") as file:
        for demo in file["data"].values():
            del demo["obs/eye_in_hand_rgb"]
    out = tmp_path / "new" / "demos.mp4"
    main([str(path), str(other), "--video", str(out), "--demos", "2"])
    assert f"{out}  18 frames" in capsys.readouterr().out
    frames = imageio.mimread(out, memtest=False)
    assert len(frames) == 2 * 5 + 2 * 4 and list(out.parent.iterdir()) == [out]
    top, below = frames[0][8], frames[0][200]
    assert top[..., 0].mean() > 150 and below[..., 0].mean() < 200  # upright: the red is at the top
    assert frames[-1][:200, 300:].max() < 40  # one view only


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video", "out.avi"], "must end in .mp4"),
        (["--demos", "0"], "--demos must be at least 1"),
        (["missing.hdf5"], "missing.hdf5 does not exist"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(path, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(path), *arguments])
    said = capsys.readouterr()
    assert stop.value.code == 2 and message in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_truncated_file_is_one_line_and_leaves_no_video(path, tmp_path, capsys):
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SystemExit) as stop:
        main([str(path), "--video", str(tmp_path / "new" / "o.mp4")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "truncated" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]
