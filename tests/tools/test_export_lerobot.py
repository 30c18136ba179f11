"""tools/export_lerobot.py: a LeRobot set that holds what the demonstration files hold."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import DemoFile, KeyMap
from libs.lerobot_data import LeRobotSet, read_layout
from libs.lerobot_data.checks import check_set
from libs.lerobot_data.rows import read_rows
from tests.demo_files import write_synthetic_demo_file, write_synthetic_isaac_file, write_synthetic_robomimic_file
from tests.refusal import refusal
from tests.tiny import ROOT
from tools.export_lerobot import main, stated_rate, stated_robot

KWARGS = {"robots": ["Panda"], "control_freq": 20}
ENV = json.dumps({"type": 1, "env_name": "x", "env_kwargs": KWARGS})


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    write_synthetic_demo_file(folder / "a_demo.hdf5", 12, 4, 32, seed=0, env_args=ENV)  # demo_10 comes last
    write_synthetic_demo_file(folder / "sub/b_demo.hdf5", 2, 5, 32, seed=50, instruction="another", env_args=ENV)
    return folder


def export(out, *args):
    main([*map(str, args), "--out", str(out)])
    layout = read_layout(out)
    assert check_set(layout, read_rows(layout, list(layout.vectors)), decode=True) == []
    return LeRobotSet(out, list(layout.vectors), list(layout.cameras))


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_same(data, files, parts):
    """That a lossless set holds the files' demos, one after another."""
    episodes = iter(data.episodes)
    for file in files:
        for demo in file.demos:
            episode = next(episodes)
            np.testing.assert_array_equal(data.vector(episode, "action"), np.float32(file.actions(demo)))
            if parts:
                np.testing.assert_array_equal(data.vector(episode, "observation.state"), file.proprio(demo, parts))
            for frame in range(file.num_frames(demo)):
                assert data.instruction(episode, frame) == file.instruction_of(demo)
                for view in file.views:
                    picture = data.picture(episode, frame, f"observation.images.{view}")
                    np.testing.assert_array_equal(picture, file.frame(demo, frame, view))
    assert next(episodes, None) is None


@pytest.mark.slow
def test_libero(demos, tmp_path, capsys):
    data = export(tmp_path / "set", demos)
    assert (data.fps, data.layout.robot, len(data.episodes)) == (20, "panda", 14)
    assert data.layout.tasks == {0: "pick up the stripe", 1: "another"}
    assert data.layout.vectors["observation.state"].names[5:7] == ("ee_states_5", "gripper_states_0")
    files = [DemoFile(demos / "a_demo.hdf5"), DemoFile(demos / "sub/b_demo.hdf5")]
    check_same(data, files, ["ee_states", "gripper_states"])
    printed = capsys.readouterr().out
    assert (
        "set  14 episodes, 58 frames, 20 fps, observation.images.agentview 32 x 32, observation.images.eye" in printed
    )
    export(tmp_path / "again", demos, "--workers", 2)
    assert content(tmp_path / "again") == content(tmp_path / "set")


def test_robomimic_and_isaac_lab(tmp_path):
    write_synthetic_robomimic_file(tmp_path / "lift.hdf5", 3, 6, 32, seed=1)
    data = export(tmp_path / "lift", tmp_path / "lift.hdf5", "--fps", 20, "--instruction", "lift the cube")
    file = DemoFile(tmp_path / "lift.hdf5", KeyMap.find("robomimic"), "lift the cube")
    check_same(data, [file], list(file.key_map.proprio))
    assert data.layout.vectors["observation.state"].dim == 25
    write_synthetic_isaac_file(tmp_path / "stack.hdf5", 2, 6, 32, seed=2)
    arguments = (
        "--key_map",
        "isaac_cosmos",
        "--fps",
        12.5,
        "--proprio",
        "eef_pos",
        "gripper_pos",
        "--robot_type",
        "franka",
    )
    data = export(tmp_path / "stack", tmp_path / "stack.hdf5", *arguments, "--views", "wrist_cam")
    assert (data.fps, data.layout.robot, list(data.layout.cameras)) == (
        12.5,
        "franka",
        ["observation.images.wrist_cam"],
    )
    assert data.layout.vectors["observation.state"].names == tuple(
        [f"eef_pos_{n}" for n in range(3)] + [f"gripper_pos_{n}" for n in range(2)]
    )
    data = export(tmp_path / "bare", tmp_path / "stack.hdf5", "--fps", 20, "--proprio")
    assert list(data.layout.vectors) == ["action"]


def test_every_demo_keeps_the_instruction_that_it_states(tmp_path):
    """Whether the file states another one for all, or none, without which it could not even be asked for."""
    write_synthetic_robomimic_file(tmp_path / "lift.hdf5", 3, 4, 32, seed=1)
    with h5py.File(tmp_path / "lift.hdf5", "a") as file:
        for number in range(3):
            file[f"data/demo_{number}"].attrs["goal"] = f"lift cube {number}"
    tree = json.loads((ROOT / "configs/key_maps/robomimic.json").read_text())
    for text in ("lift any", ""):
        of_demo = {"key": "", "attribute": "goal", "json_key": ""}
        tree["instruction"] = {"attribute": "", "json_key": "", "text": text, "demo": of_demo}
        key_map = tmp_path / "map.json"
        key_map.write_text(json.dumps(tree))
        data = export(tmp_path / f"set{len(text)}", tmp_path / "lift.hdf5", "--fps", 20, "--key_map", key_map)
        assert [data.instruction(episode, 3) for episode in data.episodes] == [f"lift cube {n}" for n in range(3)]


def test_videos_are_near(demos, tmp_path):
    data = export(tmp_path / "set", demos / "a_demo.hdf5", "--pictures", "h264")
    file = DemoFile(demos / "a_demo.hdf5")
    for episode, demo in zip(data.episodes, file.demos, strict=True):
        for frame in range(4):
            stored = data.picture(episode, frame, "observation.images.agentview").astype(int)
            assert (
                np.abs(stored - file.frame(demo, frame, "agentview")).mean() < 20
            )  # noise, and colours of half the size


@pytest.mark.slow
def test_a_killed_export_goes_on(demos, tmp_path):
    out = tmp_path / "set"
    command = [sys.executable, "-m", "tools.export_lerobot", demos, "--out", out]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    while not (out / ".parts/000001").is_dir() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = sorted(path.stat().st_mtime_ns for path in (out / ".parts").glob("0*/rows.parquet"))
    assert written and not (out / "meta/info.json").exists()
    main([str(demos), "--out", str(out)])
    main([str(demos), "--out", str(tmp_path / "whole")])
    assert content(out) == content(tmp_path / "whole")


refused = functools.partial(refusal, main)


def test_what_is_refused(demos, tmp_path, capsys):
    out, one = tmp_path / "set", demos / "a_demo.hdf5"
    write_synthetic_demo_file(tmp_path / "silent.hdf5", 1, 3, 32, seed=0)
    assert "silent.hdf5 does not state how many frames a second it has: --fps" in refused(
        capsys, tmp_path / "silent.hdf5", "--out", out
    )
    assert "--fps" in refused(capsys, one, "--out", out, "--fps", "-3")
    assert "no view 'front'; it has agentview" in refused(capsys, one, "--out", out, "--views", "front")
    assert "no proprio part 'hand'; it has robot_states" in refused(capsys, one, "--out", out, "--proprio", "hand")
    assert "--workers must be at least 1" in refused(capsys, one, "--out", out, "--workers", 0)
    write_synthetic_demo_file(tmp_path / "large.hdf5", 1, 3, 64, seed=0, env_args=ENV)
    sizes = r"pictures of agentview: (32, 32) in"
    assert sizes in refused(capsys, one, tmp_path / "large.hdf5", "--out", out)
    write_synthetic_demo_file(tmp_path / "slow.hdf5", 1, 3, 32, seed=0, env_args=ENV.replace("20", "10"))
    assert "frames a second: 20.0 in" in refused(capsys, one, tmp_path / "slow.hdf5", "--out", out)
    write_synthetic_demo_file(tmp_path / "nan.hdf5", 1, 3, 32, seed=0, env_args=ENV)
    with h5py.File(tmp_path / "nan.hdf5", "r+") as file:
        file["data/demo_0/actions"][1, 2] = np.nan
    assert "nan.hdf5, demo_0: episode 0: action must be 3 x 7 finite numbers" in refused(
        capsys, tmp_path / "nan.hdf5", "--out", out
    )
    begun = refused(capsys, one, "--out", out)
    assert "set holds a set that was begun with " in begun and begun.endswith("choose another folder")
    main([str(one), "--out", str(tmp_path / "done")])
    assert "done is a data set already: choose another --out" in refused(capsys, one, "--out", tmp_path / "done")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    assert "other is not empty, and nothing that" in refused(capsys, one, "--out", tmp_path / "other")


@pytest.mark.parametrize(
    "env_args", ["", "text", "[]", '{"env_kwargs": 3}', '{"env_kwargs": {"control_freq": "fast"}}']
)
def test_what_a_file_does_not_state(tmp_path, env_args):
    write_synthetic_demo_file(tmp_path / "demo.hdf5", 1, 3, 32, seed=0, env_args=env_args)
    file = DemoFile(tmp_path / "demo.hdf5")
    assert (stated_rate(file), stated_robot(file)) == (None, "")
