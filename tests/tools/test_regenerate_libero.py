"""tools/regenerate_libero.py: replays that survive kills, what is kept of a demo, and one real demonstration."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import DemoFile, DemoWriter, verify_demo_file
from libs.demo_hdf5.schema import Demo
from libs.errors import BadInput
from libs.libero_sim import LiberoEnv, get_task, replay
from libs.libero_sim.recording import StartVariation, observe_states, record_expert
from libs.libero_sim.regeneration import FileJob, RegenerationWorker, without_noops
from libs.libero_sim.replay import replay_demos
from tools.regenerate_libero import main

pytestmark = pytest.mark.libero  # a published file's task is looked up in it
ROOT = Path(__file__).resolve().parents[2]
TASK = "pick_up_the_tomato_sauce_and_place_it_in_the_basket"
INSTRUCTION = "pick up the tomato sauce and place it in the basket"
OTHER_TASK = "pick_up_the_milk_and_place_it_in_the_basket"
LOG, FAULTS = "TEST_REGENERATION_LOG", "TEST_REGENERATION_FAULTS"  # environment variables that the workers inherit
STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])
STEP = np.array([0.25, 0, 0, 0, 0, 0, -1.0])


class FakeEnv:
    """A state (time, x, gripper). The first action value moves x, the second gives it a speed that stays until the
    next reset; the task is solved while x is 1 or more."""

    robosuite_env = SimpleNamespace(control_freq=20)

    def __init__(self, settings):
        self.task = SimpleNamespace(instruction=INSTRUCTION, bddl_file=__file__)  # LIBERO takes a second to import
        self.resolution, self.render_setting = settings.resolution, settings.render

    def reset(self, seed, init_state=None):
        self.speed = 0.0
        if init_state is not None:
            self.set_sim_state(init_state)

    def set_sim_state(self, state, gripper_action=-1.0):
        if state.shape != (3,):
            raise BadInput(f"a state has shape (3,), not {state.shape}")
        self.state = state.copy()

    def settle(self, num_settle_steps):
        self.state[0] += num_settle_steps
        return self.observation(("agentview", "eye_in_hand"))

    def step(self, action, views=()):
        self.speed += action[1]
        self.state += [1, action[0] + self.speed, action[-1] - self.state[2]]
        return self.observation(views), self.state[1] >= 1

    def observation(self, views):
        picture = np.zeros((self.resolution, self.resolution, 3), np.uint8)
        picture[0] = 100 + 100 * self.state[1]
        picture[1] = 50
        return {"views": dict.fromkeys(views, picture)}

    def render(self, views):
        return self.observation(views)["views"]

    def sim_state(self):
        return self.state.copy()

    def proprio_dict(self):
        sizes = {"gripper_states": 2, "joint_states": 7, "ee_pos": 3, "ee_ori": 3, "ee_states": 6, "robot_states": 9}
        return {name: np.full(size, self.state[1]) for name, size in sizes.items()}

    observed_proprio = proprio_dict

    def model_xml(self):
        return "<mujoco/>"

    def close(self):
        pass


class FakeWorker(RegenerationWorker):
    """Replays without a simulator; it notes what it replays, and has the faults it is told to have, once each."""

    def __init__(self, settings):
        self.settings, self.env = settings, FakeEnv(settings)

    def attempt(self, source, demo, path):
        log = Path(os.environ[LOG])
        with log.open("a") as file:
            file.write(f"{demo}\n")
        time.sleep(float(os.environ.get("TEST_REGENERATION_SECONDS", 0)))
        if log.read_text().split().count(demo) == 1:
            fault = json.loads(os.environ.get(FAULTS, "{}")).get(demo)
            if fault == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault == "hang":
                time.sleep(1000)
        return super().attempt(source, demo, path)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The file in which the fake workers note the demos they replay."""
    path = tmp_path / "log"
    monkeypatch.setattr(FileJob, "WORKER", "tests.tools.test_regenerate_libero:FakeWorker")
    monkeypatch.setattr("libs.robosuite_sim.pool.tell_gl", lambda: None)
    monkeypatch.setenv(LOG, str(path))
    return path


def publish(path, trajectories, bddl_file_name="chiliocosm/bddl_files/libero_object/old_name.bddl", num_state=3):
    """A file as LIBERO publishes them: `trajectories` (T, 7) from x = 0, no word about rendering or seeds."""
    info = {"problem_name": "libero_floor_manipulation", "language_instruction": list('"some words"')}
    env_args = {"type": 1, "env_name": "Libero_Floor", "env_kwargs": {"camera_heights": 128, "camera_widths": 128}}
    attrs = {
        "env_name": "Libero_Floor",
        "problem_info": json.dumps(info),
        "bddl_file_name": bddl_file_name,
        "bddl_file_content": "(define)",
        "env_args": json.dumps(env_args),
        "tag": "libero-v1",
    }
    with DemoWriter(path, attrs) as writer:
        for number, actions in enumerate(trajectories):
            actions = np.array(actions, dtype=np.float64)
            length = len(actions)
            states, obs = np.zeros((length, num_state)), {"agentview": np.zeros((length, 8, 8, 3), np.uint8)}
            states[:, 0] = number / 100
            flags = np.arange(length) == length - 1
            writer.add(Demo(actions, states, np.zeros((length, 9)), flags, flags, obs, {"model_file": "<old/>"}))
    return path


def regenerate(*arguments):
    """The exit code of the command, 0 if it ends without one."""
    try:
        main([*map(str, arguments), "--resolution", "8", "--render", "fast"])
    except SystemExit as stop:
        return stop.code
    return 0


def trajectories(count):
    """Demos of 4 to 6 useful actions with no-ops in between; number 2, 5, ... goes the wrong way."""
    found = []
    for number in range(count):
        actions = [STILL, STILL, *[STEP] * 3, STILL, *[STEP] * (1 + number % 3), STILL]
        found.append(np.stack(actions) * ([-1] * 6 + [1] if number % 3 == 2 else [1] * 7))
    return found


@pytest.mark.parametrize(
    ("grippers", "moves", "kept"),
    [
        ([-1, -1, -1, -1], [0, 1, 0, 1], [1, 3]),  # the first one counts by its motion alone
        ([1, -1, -1, 1], [0, 0, 0, 0], []),  # nothing was kept before it, so the gripper's command is not compared
        ([-1, 1, 1, -1], [1, 0, 0, 0], [0, 1, 3]),  # a change of the gripper stays
        ([-1, 1, -1, -1], [1, 1e-5, 1e-5, 1e-3], [0, 1, 2, 3]),
        ([-1, -1], [1, 9.9e-5], [0]),
    ],
)
def test_what_counts_as_a_no_op(grippers, moves, kept):
    actions = np.zeros((len(moves), 7))
    actions[:, 2], actions[:, 6] = moves, grippers
    assert np.array_equal(without_noops(actions), actions[kept])


def test_pictures_come_before_actions_and_no_ops_are_gone(tmp_path, log):
    path = publish(tmp_path / "published" / f"{TASK}_demo.hdf5", trajectories(2))
    assert regenerate(path.parent, "--out", tmp_path / "new") == 0
    new = tmp_path / "new" / path.name
    demos = DemoFile(new)
    assert demos.demos == ["demo_0", "demo_1"] and demos.num_frames("demo_1") == 5
    actions = demos.actions("demo_1")
    assert np.array_equal(actions, [STEP] * 5)
    x = np.cumsum(actions[:, 0]) - actions[:, 0]  # before each action
    brightness = [demos.frame("demo_1", t, "agentview")[0, 0, 0] for t in range(5)]
    np.testing.assert_array_equal(brightness, 100 + 100 * x)
    np.testing.assert_array_equal(demos.robot_states("demo_1")[:, 0], x)
    np.testing.assert_array_equal(demos.states("demo_1")[:, 1], x)
    assert demos.states("demo_1")[0, 0] == 0.01 + 10  # after settling
    with h5py.File(new) as file:
        assert list(file["data/demo_1/dones"]) == [0, 0, 0, 0, 1] == list(file["data/demo_1/rewards"])
    assert verify_demo_file(new) == []


THROW = STILL + np.array([0, 0.125, 0, 0, 0, 0, 0])


def test_what_is_still_moving_at_the_end_is_waited_for_where_that_is_asked(tmp_path, log, capsys):
    """The first demo waits at its end, by no-ops; the second is never solved."""
    demos = [[STEP] * 3 + [THROW] + [STILL] * 5, [STEP]]
    path = publish(tmp_path / "published" / f"{TASK}_demo.hdf5", demos)
    assert regenerate(path, "--out", tmp_path / "strict") == 1
    said = capsys.readouterr().out
    assert "demo_0: the replay succeeds 1 steps after its last action (--wait 1 would keep it)" in said
    assert "demo_1: the replay does not succeed" in said
    assert regenerate(path, "--out", tmp_path / "new", "--wait", 1) == 0
    found = DemoFile(tmp_path / "new" / path.name)
    assert found.demos == ["demo_0"] and np.array_equal(found.actions("demo_0"), [STEP] * 3 + [THROW])


def test_a_demonstration_of_this_project_is_played_as_it_was_recorded(tmp_path, log):
    actions = np.array([STEP] * 3 + [THROW] + [STILL])  # the last one waits
    path = publish(tmp_path / "ours" / f"{TASK}_demo.hdf5", [actions])
    states = np.column_stack([np.arange(5.0), [0, 0.25, 0.5, 0.75, 0.875], [1, -1, -1, -1, -1]])
    with h5py.File(path, "r+") as file:
        file["data/demo_0/states"][:] = states
        file["data/demo_0"].attrs.update({"seed": 77, "start_gripper": 1.0})
    assert regenerate(path, "--out", tmp_path / "new") == 0
    found = DemoFile(tmp_path / "new" / path.name)
    attrs = found.demo_attrs("demo_0")
    assert (attrs["seed"], attrs["start_gripper"]) == (77, 1.0) and "num_settle_steps" not in attrs
    assert np.array_equal(found.actions("demo_0"), actions) and np.array_equal(found.states("demo_0"), states)
    brightness = [found.frame("demo_0", t, "agentview")[0, 0, 0] for t in range(5)]
    np.testing.assert_array_equal(brightness, np.uint8(100 + 100 * states[:, 1]))


def test_attributes_of_a_regenerated_file(tmp_path, log):
    path = publish(tmp_path / "published" / f"{TASK}_demo.hdf5", [[STEP] * 2, [STEP] * 4])
    regenerate(path, "--out", tmp_path / "new")
    demos = DemoFile(tmp_path / "new" / path.name)
    assert demos.instruction == INSTRUCTION  # what an evaluation will say
    assert (demos.render, demos.attrs["resolution"], demos.attrs["num_demos"], demos.attrs["total"]) == (
        "fast",
        8,
        1,
        4,
    )
    assert demos.attrs["bddl_file_name"].endswith("old_name.bddl") and demos.attrs["tag"] == "libero-v1"
    env_args = json.loads(demos.attrs["env_args"])
    assert env_args["env_name"] == "Libero_Floor" and env_args["env_kwargs"] == {
        "camera_heights": 8,
        "camera_widths": 8,
    }
    attrs = demos.demo_attrs("demo_0")
    assert (attrs["source_file"], attrs["source_demo"], attrs["seed"]) == (path.name, "demo_1", 1)
    assert list(attrs["init_state"]) == [0.01, 0, 0] and attrs["model_file"] == "<mujoco/>"


@pytest.mark.slow
def test_the_summary_accounts_for_every_demo_and_frame(tmp_path, log, capsys):
    publish(tmp_path / "published" / "a" / f"{TASK}_demo.hdf5", trajectories(4))
    publish(tmp_path / "published" / "b" / f"{OTHER_TASK}_demo.hdf5", [[STEP] * 4, [STILL] * 3], "no such file")
    assert regenerate(tmp_path / "published", "--out", tmp_path / "new", "--workers", 2) == 0
    summary = json.loads((tmp_path / "new" / "summary.json").read_text())
    first, second = summary["files"]
    assert (first["file"], first["task_suite"], first["task_id"]) == (f"{TASK}_demo.hdf5", "libero_object", 5)
    assert first["dropped"] == {"demo_2": "the replay does not succeed"}
    assert second["dropped"] == {"demo_1": "every action is a no-op"}
    assert (first["demos_in"], first["demos_kept"], first["frames_in"], first["frames_kept"]) == (4, 3, 35, 13)
    assert (first["noops_removed"], first["frames_of_dropped_demos"], first["frames_cut"]) == (12, 10, 0)
    total = summary["total"]
    assert (total["demos_in"], total["demos_kept"], total["frames_kept"]) == (6, 4, 17)
    assert summary["packages"]["mujoco"] and summary["settings"]["resolution"] == 8
    printed = capsys.readouterr().out
    assert "4 of 6" in printed and f"dropped: {TASK}_demo.hdf5 demo_2: the replay does not succeed" in printed
    log.unlink()
    assert regenerate(tmp_path / "published", "--out", tmp_path / "new") == 0
    again = json.loads((tmp_path / "new" / "summary.json").read_text())
    assert again["files"] == summary["files"] and again["replayed_demos"] == 0 and not log.exists()


@pytest.mark.parametrize(("arguments", "demos"), [((), []), (("--stop_at_success",), ["demo_0"])])
def test_a_success_that_is_lost_again(tmp_path, log, arguments, demos):
    path = publish(tmp_path / f"{TASK}_demo.hdf5", [[*[STEP] * 4, -STEP * 2]])
    code = regenerate(path, "--out", tmp_path / "new", *arguments)
    summary = json.loads((tmp_path / "new" / "summary.json").read_text())
    assert (code, summary["total"]["demos_kept"]) == ((0, 1) if demos else (1, 0))
    if demos:
        assert DemoFile(tmp_path / "new" / path.name).num_frames("demo_0") == summary["total"]["frames_kept"] == 4
        assert summary["total"]["frames_cut"] == 1


def test_a_file_of_which_nothing_is_left(tmp_path, log, capsys):
    publish(tmp_path / "old" / f"{OTHER_TASK}_demo.hdf5", [[STEP] * 4], num_state=4)
    publish(tmp_path / "old" / f"{TASK}_demo.hdf5", [[STEP] * 4])
    for _ in range(2):
        assert regenerate(tmp_path / "old", "--out", tmp_path / "new") == 1
        assert f"no demo of {tmp_path}/old/{OTHER_TASK}_demo.hdf5 succeeds" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "new").glob("*.hdf5")] == [f"{TASK}_demo.hdf5"]
        summary = json.loads((tmp_path / "new" / "summary.json").read_text())
        assert summary["files"][0]["dropped"] == {"demo_0": "a state has shape (3,), not (4,)"}
    assert log.read_text().split() == ["demo_0", "demo_0"]  # one of each file: the second call replayed nothing


@pytest.mark.slow
def test_a_killed_run_continues_and_workers_make_no_difference(tmp_path, log, monkeypatch):
    path = publish(tmp_path / "old" / f"{TASK}_demo.hdf5", trajectories(8))
    regenerate(path, "--out", tmp_path / "whole", "--workers", 1)
    regenerate(path, "--out", tmp_path / "three", "--workers", 3)
    whole = tmp_path / "whole" / path.name
    assert (tmp_path / "three" / path.name).read_bytes() == whole.read_bytes()
    code = (
        "import sys; from tests.tools.test_regenerate_libero import FileJob, regenerate;"
        "import libs.robosuite_sim.pool;"
        "FileJob.WORKER = 'tests.tools.test_regenerate_libero:FakeWorker'; libs.robosuite_sim.pool.tell_gl = print;"
        "regenerate(*sys.argv[1:], '--workers', 2)"
    )
    out, parts = tmp_path / "killed", tmp_path / "killed" / ".parts" / TASK
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path), "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "TEST_REGENERATION_SECONDS": "0.3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while len(list(parts.glob("0*.json"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    child.kill()
    child.wait()
    done = {f"demo_{int(part.stem)}" for part in parts.glob("0*.json")}
    assert done and not (out / path.name).exists()
    monkeypatch.setenv(LOG, str(tmp_path / "log2"))
    regenerate(path, "--out", out)
    assert (out / path.name).read_bytes() == whole.read_bytes() and not parts.parent.exists()
    repeated = set((tmp_path / "log2").read_text().split())
    assert not repeated & done and repeated | done == {f"demo_{number}" for number in range(8)}


@pytest.mark.slow
def test_a_simulator_that_crashes_or_hangs_is_no_failed_demo(tmp_path, log, monkeypatch):
    path = publish(tmp_path / "old" / f"{TASK}_demo.hdf5", trajectories(2))
    monkeypatch.setattr(FileJob, "time_limit_s", lambda self, number: 4.0)
    monkeypatch.setenv(FAULTS, json.dumps({"demo_0": "hang", "demo_1": "crash"}))
    assert regenerate(path, "--out", tmp_path / "new", "--workers", 2) == 0
    assert len(DemoFile(tmp_path / "new" / path.name).demos) == 2
    assert sorted(log.read_text().split()) == ["demo_0", "demo_0", "demo_1", "demo_1"]


def test_other_settings_and_other_sources_are_refused(tmp_path, log, capsys):
    path = publish(tmp_path / "old" / f"{TASK}_demo.hdf5", trajectories(2))
    regenerate(path, "--out", tmp_path / "new")
    assert regenerate(path, "--out", tmp_path / "new", "--stop_at_success") == 2
    assert "stop_at_success False, not True: choose another --out" in capsys.readouterr().err
    publish(path, trajectories(3))
    assert regenerate(path, "--out", tmp_path / "new") == 2
    assert "source_sha256" in capsys.readouterr().err


def without_states(path):
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/states"]


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (lambda path: path.rename(path.with_name("x.hdf5")), ["old"], "name the file <task name>_demo.hdf5"),
        (without_states, ["old"], "demo_0: no states"),
        (lambda path: publish(path.parent / "more" / path.name, [[STEP]]), ["old"], "have the same name"),
        (lambda path: path.write_bytes(b"x"), ["old"], "not HDF5, it begins with b'x'"),
        (lambda path: path.rename(path.with_name("file")), ["old"], "but others such as file"),
        (lambda path: None, ["nowhere.hdf5"], "does not exist"),
        (lambda path: None, ["old", "--workers", "0"], "--workers must be at least 1"),
        (lambda path: None, ["old", "--wait", "-1"], "--wait must be at least 0"),
        (lambda path: None, [f"old/{TASK}_demo.hdf5", "--out", "old"], "stands in --out"),
        (lambda path: None, ["old", "--out", "old"], "stands in --out"),
        (lambda path: regenerate(path, "--out", "made"), ["made"], "regenerated already"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(prepare, arguments, message, tmp_path, log, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prepare(publish(tmp_path / "old" / f"{TASK}_demo.hdf5", [[STEP] * 4]))
    capsys.readouterr()
    assert regenerate("--out", "new", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not Path("new").exists()


def published_expert(env, path):
    """A file in the published layout: an expert's demo, idle now and then, the same one with its actions negated, and
    the expert's own recording, which says how it began.

    Nobody's hand is perfectly still, so where the expert waits for its fingers the arm moves a little: an exact
    zero would count as a no-op, and without the waiting the grasp fails. Returns the actions but for the first idle
    ones, the proprioception after each published action, and the recording.
    """
    recording = record_expert(env, 3, np.random.default_rng(0), StartVariation())
    actions = recording.actions.copy()
    actions[np.linalg.norm(actions[:, :6], axis=1) < 1e-4, 0] = 0.002
    idle = np.concatenate([np.zeros((2, 6)), np.tile(actions[29, 6:], (2, 1))], axis=1)
    actions = np.concatenate([[STILL] * 7, actions[:30], idle, actions[30:]])
    env.reset(3)
    env.set_sim_state(recording.states[0])
    states = [env.sim_state()]
    for action in actions:
        env.step(action)
        states.append(env.sim_state())
    after, attrs = observe_states(env, np.stack(states[6:]), ()), {"model_file": env.model_xml()}
    publish(path, [actions[5:], actions[5:] * ([-1] * 6 + [1]), recording.actions])
    with h5py.File(path, "r+") as file:
        for name, demo in file["data"].items():
            del demo["states"]
            demo["states"] = recording.states if name == "demo_2" else np.stack(states[5:-1])
            demo.attrs.update({**attrs, "init_state": states[0]})
        file["data/demo_2"].attrs.update({"seed": 3, "start_gripper": recording.start_gripper})
    return actions[7:], after, recording


@pytest.mark.sim
def test_a_real_demonstration(tmp_path, monkeypatch):
    env = LiberoEnv(get_task("libero_object", 5), resolution=32, render="fast")
    path = tmp_path / "libero_object" / f"{TASK}_demo.hdf5"
    actions, after, recording = published_expert(env, path)
    main([str(path.parent), "--out", str(tmp_path / "new"), "--resolution", "32", "--render", "fast"])
    summary = json.loads((tmp_path / "new" / "summary.json").read_text())
    assert summary["files"][0]["dropped"] == {"demo_1": "the replay does not succeed"}
    kept = len(actions) - 2 + len(recording.actions)
    assert (summary["total"]["noops_removed"], summary["total"]["frames_kept"]) == (4, kept)
    demos = DemoFile(tmp_path / "new" / path.name)
    assert np.array_equal(demos.actions("demo_0"), without_noops(actions))
    still = (np.abs(recording.actions[:, :6]) < 1e-4).all(axis=1)
    assert still[-1] and np.array_equal(demos.actions("demo_1"), recording.actions)  # it waits, at the end at least
    with h5py.File(demos.path) as file:
        joints = file["data/demo_0/obs/joint_states"][()]
    # published: after each action; new: before the next one. The first two are idle, then 30 until the next idle ones
    np.testing.assert_allclose(joints[1:30], after["joint_states"][2:31], atol=0.005)
    assert np.abs(joints[:29] - after["joint_states"][2:31]).max() > 0.02
    assert verify_demo_file(demos.path) == []
    monkeypatch.setattr(replay, "LiberoEnv", lambda *_: env)
    for _, result in replay_demos(demos, env.task, ["demo_0", "demo_1"]):
        assert result.problems() == [] and result.success and result.state_max == result.robot_state_max == 0
        assert result.picture_max == {"agentview": 0, "eye_in_hand": 0}
