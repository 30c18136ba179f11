"""tools/inspect_demos.py: what it says of files, its exit codes, its video."""

import json
import shlex
import shutil

import h5py
import imageio
import numpy as np
import pytest

from tests.demo_files import (
    pack_by_filter,
    write_synthetic_demo_file,
    write_synthetic_isaac_file,
    write_synthetic_robomimic_file,
)
from tests.lerobot_sets import FOLDER, copied, edit_column, edited_info
from tests.manifests import build, edit_lines, write_foreign
from tools.inspect_demos import main
from tools.inspection.text import pair, table


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
    assert "not replayed: the simulator is not installed" in out


def test_problems_are_listed_and_exit_code_is_1(path, capsys):
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            del demo.attrs["model_file"]
        file["data/demo_2/actions"][1:, 3] = np.nan
        for key in ("actions", "obs/agentview_rgb"):
            file["data/demo_1"][key][:] = file["data/demo_0"][key][:]
        file["data"].attrs["macros_image_convention"] = "opencv"
    with pytest.raises(SystemExit) as stop:
        main([str(path), "--verify"])
    assert stop.value.code == 1
    assert capsys.readouterr().out.split("verified     ")[1].splitlines()[:5] == [
        "4 problems",
        "    demo_0 and 2 more: attribute model_file is missing",
        f"    {path}: pictures stored as 'opencv', expected 'opengl': they would stand on their heads",
        "    demo_2: dimension 3 of the action at frame 1 is nan, not a finite number (4 such frames): mend the demo "
        "or leave it out",
        f"    1 demo of 3 repeats another one, actions and first picture: {path}, demo_1 has those of demo_0; it "
        "counts twice, and with DATA.VAL_SHARE a copy may be held out of what is trained on",
    ]


def test_what_a_starting_run_says_is_said_before(path, tmp_path, capsys):
    """Remarks do not make a file bad: the range of a single wild value, noise, another instruction in the name."""
    named = path.rename(tmp_path / "wipe_the_table_demo.hdf5")
    with h5py.File(named, "r+") as file:
        file["data/demo_1/actions"][2, 1] = 0.9
        for number, demo in enumerate(file["data"].values()):
            demo["actions"][:, 4] *= 0.01
            demo["actions"][:, 1] = np.where(demo["actions"][:, 1] == 0.9, 0.9, 0.001 * np.arange(5) / (number + 1))
            demo["actions"][:, 3] = 0.57 + 1e-7 * np.arange(5)
    main([str(named), "--verify"])
    out = capsys.readouterr().out
    remarks = [line[15:] for line in out.splitlines() if line.startswith("  remark")]
    assert "verified     no problems" in out and "never change" in out and len(remarks) == 4
    for remark, start in zip(remarks, ("two instructions: ", "dimension 3", "dimension 6", "dimension 1"), strict=True):
        assert remark.startswith(start)
    assert f"is 0.9 in {named}, demo_1, frame 2; the other 93 % of the values" in remarks[3]


def test_the_instruction_that_training_takes_stands_beside_the_stated_one(path, tmp_path, capsys):
    main([str(path.rename(tmp_path / "turn_on_the_stove_demo.hdf5"))])
    said = "instruction  turn on the stove (LIBERO's, by the file's name; it states 'pick up the stripe')"
    assert said in capsys.readouterr().out


def test_video_plays_the_demos_of_files_of_different_shapes(path, tmp_path, capsys):
    other = tmp_path / "other.hdf5"
    write_synthetic_demo_file(other, 2, 4, 32, seed=9, instruction="pick up the stripe " * 6)
    with h5py.File(other, "r+") as file:
        for demo in file["data"].values():
            del demo["obs/eye_in_hand_rgb"]
    out = tmp_path / "new" / "demos.mp4"
    main([str(path), str(other), "--video", str(out), "--num_demos", "2"])
    assert f"{out}  18 frames" in capsys.readouterr().out
    frames = imageio.mimread(out, memtest=False)
    assert len(frames) == 2 * 5 + 2 * 4 and list(out.parent.iterdir()) == [out]
    top, below = frames[0][8], frames[0][200]
    assert top[..., 0].mean() > 150 and below[..., 0].mean() < 200  # upright: the red is at the top
    assert frames[-1][:200, 300:].max() < 40  # one view only


def test_video_runs_at_the_rate_that_a_file_states(path, tmp_path, capsys):
    other = shutil.copy(path, tmp_path / "other.hdf5")
    with h5py.File(other, "r+") as file:
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 5}})
    out = tmp_path / "demos.mp4"
    for files, rate in (([path], 20), ([other], 5)):
        main([*map(str, files), "--video", str(out), "--num_demos", "1"])
        with imageio.get_reader(out) as video:
            assert video.get_meta_data()["fps"] == pytest.approx(rate)
        out.unlink()
    with pytest.raises(SystemExit):
        main([str(path), str(other), "--video", str(out)])
    assert "several frames per second" in capsys.readouterr().err and not out.exists()


def rows_of(capsys, *arguments, code=0):
    """{first word or two of a line: the rest} of what is said of one file, and the exit code as expected."""
    if code:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        assert stop.value.code == code
    else:
        main(list(arguments))
    lines = [line for line in capsys.readouterr().out.splitlines()[1:] if line]
    return {line[2:15].strip(): line[15:] for line in reversed(lines)}, lines


def test_a_file_of_isaac_labs_layout(tmp_path, capsys):
    path = tmp_path / "isaac.hdf5"
    demos = write_synthetic_isaac_file(path, 2, 5, 16, seed=0)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["obs/joint_vel"][:], demo["obs/eef_quat"][:, 1:3] = 0, 0.5
            demo["actions"][:, 3] = 0
    rows, lines = rows_of(capsys, str(path), "--verify")
    assert rows["key map"].startswith("isaac_cosmos (fits): ") and "keys" not in rows
    assert rows["instruction"].endswith(" (the key map's)") and rows["views"] == "table_cam 16 x 16, wrist_cam 16 x 16"
    position = next(n for n, line in enumerate(lines) if "eef_pos " in line)
    for line, name in ((lines[position], "min"), (lines[position + 1], "max")):
        expected = [getattr(np.concatenate([demo.proprio["eef_pos"] for demo in demos]), name)(axis=0)]
        np.testing.assert_allclose([[float(value) for value in line.split(name)[1].split()]], expected, atol=6e-4)
    assert rows["never change"] == "joint_vel; eef_quat 1, 2; actions roll"
    assert (rows["replay"], rows["verified"]) == ("not replayed: not LIBERO's simulator", "no problems")


def test_a_file_of_robomimics_layout_needs_an_instruction_and_plays(tmp_path, capsys):
    path, out = tmp_path / "robomimic.hdf5", tmp_path / "demos.mp4"
    write_synthetic_robomimic_file(path, 2, 3, 16, seed=0)
    rows, lines = rows_of(capsys, str(path), "--key_map", "robomimic", "--video", str(out))
    assert rows["key map"].startswith("robomimic (given)") and lines[-1] == f"{out}  6 frames"
    assert rows["instruction"] == "not stated: set DATA.INSTRUCTION"
    top, below = (imageio.mimread(out, memtest=False)[0][row] for row in (8, 200))
    assert top[..., 0].mean() > 150 and below[..., 0].mean() < 200  # upright: the red is at the top


def test_missing_and_misshapen_keys_are_reported_and_a_file_without_pictures_is_unusable(tmp_path, capsys):
    path = tmp_path / "isaac.hdf5"
    write_synthetic_isaac_file(path, 3, 5, 16, seed=0)
    with h5py.File(path, "r+") as file:
        for number in (0, 2):
            del file[f"data/demo_{number}/obs/eef_quat"]
        del file["data/demo_1/obs/joint_pos"]
        file["data/demo_1/obs/joint_pos"] = np.zeros((5, 7))
    rows, lines = rows_of(capsys, str(path))  # enough for a policy that is given neither
    found = lines.index(next(line for line in lines if line.startswith("  keys")))
    assert [line[15:] for line in lines[found : found + 2]] == [
        "obs/eef_quat (proprio eef_quat): missing in demo_0 and 1 more",
        "obs/joint_pos (proprio joint_pos): float64 (5, 7), wanted numbers (5, 9), in demo_1",
    ]
    assert rows["demos"] == "3" and not any("eef_quat  " in line or "joint_pos  " in line for line in lines)
    with h5py.File(path, "r+") as file:
        del file["data/demo_2/obs/table_cam"]
    rows, lines = rows_of(capsys, str(path), "--verify", "--video", str(tmp_path / "o.mp4"), code=1)
    assert any(line.endswith("obs/table_cam (view table_cam): missing in demo_2") for line in lines)
    assert rows["unusable"].endswith("demo_2: no obs/table_cam; render the pictures first") and "demos" not in rows
    assert not (tmp_path / "o.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video", "out.avi"], "must end in .mp4"),
        (["--num_demos", "0"], "--num_demos must be at least 1"),
        (["missing.hdf5"], "missing.hdf5 does not exist"),
        (["--key_map", "droid"], "no key map 'droid': there are aloha, isaac_cosmos, libero, robomimic"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(path, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(path), *arguments])
    said = capsys.readouterr()
    assert stop.value.code == 2 and message in said.err and said.err.count("\n") == 1 and said.out == ""


def test_the_files_of_a_folder_are_reported_around_those_that_cannot_be_read(path, tmp_path, capsys):
    disk = tmp_path / "disk"
    write_synthetic_demo_file(disk / "a.hdf5", 1, 4, 16, seed=0)
    write_synthetic_demo_file(disk / "suite/c.h5", 1, 4, 16, seed=1)
    (disk / "b.hdf5").write_text("version https://git-lfs.github.com/spec/v1\n")
    with h5py.File(path, "r+") as file:
        del file["data/demo_1"]
        file["data/demo_1"] = h5py.ExternalLink("gone.hdf5", "/data/demo_1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/disk").symlink_to(disk)
    (tmp_path / "data/z.hdf5").symlink_to(path)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "data")])
    said, folder = capsys.readouterr(), tmp_path / "data"
    assert stop.value.code == 2
    assert [line for line in said.out.splitlines() if line.startswith("/")] == [
        str(folder / "disk/a.hdf5"),
        str(folder / "disk/suite/c.h5"),
    ]
    lfs, link = said.err.splitlines()
    assert lfs.startswith(f"error: demo file {folder / 'disk/b.hdf5'} ") and "git lfs pull" in lfs
    assert "z.hdf5: data/demo_1 is a link to /data/demo_1 in another file: " in link and "gone.hdf5 does not" in link


def test_a_filter_that_is_not_installed_is_told_without_verifying(path, capsys):
    pack_by_filter(path, "data/demo_0/obs/agentview_rgb", 510)
    with pytest.raises(SystemExit) as stop:
        main([str(path)])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    for words in (f"{path}, demo_0: obs/agentview_rgb", "filter 510", "pip install hdf5plugin", "h5repack"):
        assert words in said.err


def test_a_truncated_file_is_one_line_and_leaves_no_video(path, tmp_path, capsys):
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SystemExit) as stop:
        main([str(path), "--video", str(tmp_path / "new" / "o.mp4")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "truncated" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_pairs_are_quoted_for_a_shell_and_long_names_are_numbers_in_the_table():
    for value in (["a b", "it's"], 'say "go"', "plain/path-1.0", "$HOME", 6):
        (key, said) = shlex.split(pair("KEY", value))
        assert (key, said) == ("KEY", str(value))
    assert pair("DATA.VIEWS", ["front", "wrist"]) == """DATA.VIEWS "['front', 'wrist']\""""
    actions = np.zeros((2, 7))
    assert table(actions)[0].split() == ["actions", "x", "y", "z", "roll", "pitch", "yaw", "gripper"]
    assert table(actions, tuple("abcdefg"))[0].split() == ["actions", *"abcdefg"]
    assert table(actions, (*"abcdef", "gripper.pos"))[0].split() == ["actions", *"0123456"]
    assert table(actions, (*"abcdef", "a"))[0].split() == ["actions", *"0123456"]


def test_manifests_of_one_view_are_described_whoever_wrote_them(path, tmp_path, capsys):
    mine = build(tmp_path / "mine", path, views="eye_in_hand", horizon=3)
    theirs = write_foreign(tmp_path / "theirs", [("go", 2)], text="5X" + " 50" * 6 + " X" + " 50" * 6)
    main([str(mine)])
    assert "views        eye_in_hand 16 x 16\n" in capsys.readouterr().out
    main([str(theirs), "ACTION.NUM_BINS", "100"])
    said = capsys.readouterr().out
    assert "views        image 64 x 64\n" in said and "actions      each hides a digit (X)\n" in said
    assert "ACTION.HORIZON 2\n" in said
    edit_lines(theirs, lambda lines: lines.__setitem__(0, lines[0].replace('"H": 2, ', "")))
    with pytest.raises(SystemExit, match="2"):
        main([str(theirs)])
    assert "manifest.jsonl: its first line names no picture" in capsys.readouterr().err


def test_a_lerobot_set_is_described_and_checked(tmp_path, capsys):
    root = copied("v30/libero_pi_image", tmp_path)
    main([str(root), "--verify"])
    out = capsys.readouterr().out
    assert "DATA.ACTION actions\n" in out and "DATA.PROPRIO \"['state']\"" in out and "LeRobot v3.0, robot panda" in out
    assert "harmless     actions: q01" in out and "wrong" not in out and "no problems" in out
    with edited_info(root) as info:
        info["total_frames"] = 51
    with pytest.raises(SystemExit, match="1"):
        main([str(root), "--verify"])
    assert "wrong        meta/info.json says total_frames 51, there are 50" in capsys.readouterr().out
    (file,) = (root / "data").rglob("*.parquet")
    edit_column(file, "timestamp", lambda times: [2 * time for time in times])
    with pytest.raises(SystemExit, match="2"):
        main([str(root), str(FOLDER / "v21/so_like")])
    said = capsys.readouterr()
    assert "wrong        episode 0: 8 of 9 timestamps" in said.out and "recipe       DATA.SOURCE lerobot" in said.out
    assert said.err.startswith("error: ") and "says fps 10" in said.err and said.err.count("\n") == 1
