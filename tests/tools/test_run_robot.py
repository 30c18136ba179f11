"""tools/run_robot.py with a policy of paper behind a real server, and a robot of a file."""

import dataclasses
import json
import math
import re

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import DemoFile, KeyMap
from rv_eval.serving.robot_log import RobotLog
from tests.full_disk import small_files
from tests.rv_eval.servers import PicturePolicy, running
from tools import inspect_demos
from tools.run_robot import main, parse_args

ROBOT = """
import json
import numpy as np
told = []

class Robot:
    def observe(self):
        picture = np.full((40, 40, 3), len(told), np.uint8)
        return {"views": {"agentview": picture, "eye_in_hand": picture}, "proprio": {"joints": np.zeros(7)}}
    def act(self, action):
        told.append(action.tolist())
    def hold(self):
        told.append("hold")
    def close(self):
        with open(%r, "w") as file:
            json.dump(told, file)

def make_robot():
    return Robot()
"""
LIMITS = {"low": [-1e5] * 7, "high": [1e5] * 7, "max_change": None, "position": None, "rotations": None}


class ReadablePolicy(PicturePolicy):
    """All of its answers can be executed."""

    def predict_detailed(self, observations):
        prediction = super().predict_detailed(observations)
        whole = np.ones(len(observations), bool)
        return dataclasses.replace(prediction, valid=whole, repaired=~whole)


@pytest.fixture
def robot(tmp_path):
    """(arguments of a run but for the policy, function: what the robot was told)"""
    (tmp_path / "robot.py").write_text(ROBOT % str(tmp_path / "told.json"))
    (tmp_path / "limits.json").write_text(json.dumps(LIMITS))
    arguments = ["--robot", str(tmp_path / "robot.py"), "--limits", str(tmp_path / "limits.json"), "--rate", "50"]
    arguments += ["--seconds", "0.6", "--instruction", "put it there", "--yes"]
    return arguments, lambda: json.loads((tmp_path / "told.json").read_text())


def test_a_run_and_its_log(robot, tmp_path, capsys):
    arguments, told = robot
    log = tmp_path / "logs.hdf5"
    with running(ReadablePolicy()) as server:
        main(["--model_path", server.url, *arguments, "--log", str(log)])
    assert len(told()) == 31 and told()[-1] == "hold"
    actions = [entry for entry in told() if entry != "hold"]
    assert actions and all(len(action) == 7 for action in actions)
    printed = capsys.readouterr().out
    assert f"30 steps: {len(actions)} actions, 0 of them limited" in printed and str(log) in printed
    demos = DemoFile(log, KeyMap.find(tmp_path / "logs.json"))
    assert demos.instruction == "put it there" and demos.key_map.dim(["joints"]) == 7
    with h5py.File(log) as file:
        record = json.loads(file["data/demo_0"].attrs["record"])
        assert file["data/demo_0/obs/agentview"].shape[1:] == (32, 32, 3), "as large as in the training data"
    assert record["result"]["done"] and record["policy"]["model_folder"] == "runs/pictures"
    assert record["run"]["execution"] == "splice" and record["limits"]["low"][0] == -1e5
    inspect_demos.main([str(log), "--key_map", str(tmp_path / "logs.json")])
    assert f"{len(actions)}" in capsys.readouterr().out


def test_pictures_of_another_shape_are_told_before_the_arm_moves(robot, capsys):
    arguments, _ = robot
    about = {"fit": "crop", "crop": 1.0, "size": [28, 28]}
    for size, told in (([480, 640], "the robot shows agentview 40 x 40, eye_in_hand 40 x 40"), ([64, 64], "")):
        cameras = {"agentview": size, "eye_in_hand": size}
        with running(ReadablePolicy(pictures={"cameras": cameras, **about})) as server:
            main(["--model_path", server.url, *arguments])
        printed = capsys.readouterr().err
        assert ("480 x 640" in printed and told in printed) if told else "warning" not in printed


def test_a_full_disk_costs_the_log_and_not_the_words_about_the_run(robot, tmp_path, capsys):
    arguments, told = robot
    with running(ReadablePolicy()) as server, small_files(3000), pytest.raises(SystemExit) as end:
        main(["--model_path", server.url, *arguments, "--log", str(tmp_path / "log.hdf5")])
    printed = capsys.readouterr()
    assert end.value.code == 1 and told()[-1] == "hold" and "30 steps: " in printed.out
    assert re.search(r"^error: the log could not be written: .*File too large: '.*log\.part\.hdf5'$", printed.err, re.M)
    assert not list(tmp_path.glob("log*"))


def test_without_a_log_nothing_is_kept_in_memory(robot, monkeypatch):
    arguments, told = robot
    kept = []
    for name in ("add_action", "add_answer"):
        monkeypatch.setattr(RobotLog, name, lambda _, *what: kept.append(what))
    with running(ReadablePolicy()) as server:
        main(["--model_path", server.url, *arguments])
    assert not kept and any(entry != "hold" for entry in told())


def test_a_policy_that_fails_ends_the_run(robot, capsys):
    arguments, told = robot
    with running(PicturePolicy(), report=lambda line: None) as server, pytest.raises(SystemExit) as stop:
        main(["--model_path", server.url, *arguments, "--instruction", "fail"])
    printed = capsys.readouterr()
    assert stop.value.code == 1 and set(map(str, told())) == {"hold"}
    assert "error: stopped: the policy does not answer: PolicyFailed" in printed.err


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and len(printed.err.splitlines()) == 1
    return printed.err


def test_wrong_input_is_one_line(robot, tmp_path, capsys, monkeypatch):
    arguments, _ = robot
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "lame.py").write_text("def make_robot():\n    return object()\n")
    (tmp_path / "short.json").write_text(json.dumps(LIMITS | {"low": [0], "high": [1]}))
    with running(PicturePolicy()) as server:
        run = ["--model_path", server.url, *arguments]
        for more, message in (
            (["--robot", str(tmp_path / "empty.py")], "no function make_robot()"),
            (["--robot", str(tmp_path / "lame.py")], "has no observe()"),
            (["--robot", "nowhere.py"], "nowhere.py does not exist"),
            (["--robot", "nowhere"], "ws://host:port, or a Python file (.py)"),
            (["--robot", "ws://127.0.0.1:1"], "nobody answers"),
            (["--limits", str(tmp_path / "no.json")], "does not exist"),
            (["--limits", str(tmp_path / "short.json")], "limits: 1 numbers, but the policy's actions have 7"),
            (["--rate", "0"], "a robot's rate"),
            (["--seconds", "0"], "at least 1 step"),
            (["--patience", "0"], "more than 0 s"),
            (["--log", str(tmp_path / "log.txt")], "a log is a .hdf5 file"),
            (["--action_horizon", "9"], "action horizon 9"),
            (["--device", "cpu"], "--device is decided where the policy is"),
        ):
            assert message in refused([*run, *more], capsys), more
        monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
        run.remove("--yes")
        assert "give --yes" in refused(run, capsys)
    monkeypatch.setattr("tools.evaluation.SERVER_WAIT_S", 0)
    assert "no policy server answers" in refused(["--model_path", "ws://127.0.0.1:1", *arguments], capsys)


def test_one_robot_needs_one_row():
    given = ["--robot", "x", "--limits", "y", "--rate", "1", "--instruction", "z"]
    assert parse_args(["--model_path", "run", *given]).policy_batch == 1
    assert parse_args(["--model_path", "ws://there", *given]).policy_batch is None
    assert math.isclose(parse_args(["--model_path", "run", *given]).patience, 3.0)
