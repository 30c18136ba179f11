"""libs.libero_sim: suites, OpenGL choice, pictures, processes, and one real simulator for what needs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from libs.demo_hdf5 import LIBERO
from libs.libero_sim import (
    VIEWS,
    LiberoEnv,
    RemoteObject,
    SimCrash,
    SimProcess,
    SimTimeout,
    find_task,
    get_task,
    init_states,
    list_suites,
    num_tasks,
)
from libs.libero_sim.recording import StartVariation, observe_states, record_expert
from libs.libero_sim.rendering import _merged_faces, get_render_setting

ROOT = Path(__file__).resolve().parents[2]
ACTIONS = np.array([[0.2, 0.1 * i, -0.4, 0, 0, 0.1, -1 if i < 5 else 1] for i in range(8)])


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def gone(pid):
    """Whether a process has ended (a zombie that waits for its parent counts as ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_importing_does_nothing():
    code = (
        "import os, sys; before = dict(os.environ); import libs.libero_sim; "
        "assert not {'mujoco', 'robosuite', 'libero'} & set(sys.modules); assert dict(os.environ) == before"
    )
    child = run_python(code)
    assert child.communicate()[0] == "" and child.returncode == 0


def test_suites_and_tasks():
    assert {"libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"} <= set(list_suites())
    assert num_tasks("libero_90") == 90
    task = get_task("libero_object", 5)
    assert task.instruction == "pick up the tomato sauce and place it in the basket"
    assert (task.max_steps, task.num_init_states) == (280, 50)
    assert Path(task.bddl_file).is_file() and init_states(task).shape[0] == 50
    assert find_task("libero_object", task.name) == task
    limits = [get_task(suite, 0).max_steps for suite in ("libero_spatial", "libero_goal_swap", "libero_10")]
    assert limits == [220, 300, 520]


def test_rephrased_suites_have_their_own_instruction():
    plain, rephrased = get_task("libero_object", 0), get_task("libero_object_lan", 0)
    assert plain.name == rephrased.name and plain.instruction != rephrased.instruction


@pytest.mark.parametrize(
    ("suite", "task_id", "message"),
    [
        ("libero_objects", 0, "libero_object"),
        ("libero_object", 10, "tasks 0 to 9"),
        ("libero_object", -1, "0 to 9"),
    ],
)
def test_unknown_tasks_are_named_with_what_exists(suite, task_id, message):
    with pytest.raises(ValueError, match=message):
        get_task(suite, task_id)


def test_unknown_render_setting():
    with pytest.raises(ValueError, match="known are standard, fast"):
        get_render_setting("pretty")


def test_merging_vertices_keeps_the_outline():
    """A flat grid of 1 mm squares in 4 mm cubes: fewer triangles, corners stay, no triangle collapses."""
    side = 33
    x, y = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    vertices = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3) * 0.001
    corner = (x[:-1, :-1] * side + y[:-1, :-1]).reshape(-1)
    faces = np.concatenate(
        [corner[:, None] + [0, 1, side], corner[:, None] + [side + 1, side, 1]]  # two per square
    )
    kept, corners = _merged_faces(vertices, faces, 0.004)
    assert len(kept) == len(corners) < len(faces) / 8
    assert (np.sort(corners, axis=1)[:, 1:] != np.sort(corners, axis=1)[:, :-1]).all()
    reach = vertices[corners.reshape(-1)]
    assert np.abs(reach.min(0) - vertices.min(0)).max() < 0.004
    assert np.abs(reach.max(0) - vertices.max(0)).max() < 0.004


def test_a_call_that_hangs_is_killed():
    remote = RemoteObject("threading:Event", {}, timeout_s=0.5)
    assert remote.call("is_set") is False
    with pytest.raises(SimTimeout, match=r"within 0\.5 s"):
        remote.call("wait", 1000)
    assert gone(remote.pid)
    with pytest.raises(SimCrash):
        remote.call("is_set")
    remote.close()


def test_errors_of_the_child():
    with RemoteObject("libs.libero_sim.suites:get_task", {"suite": "libero_object", "task_id": 99}) as remote:
        with pytest.raises(ValueError, match="unknown task id 99"):
            remote.call("anything")
        os.kill(remote.pid, signal.SIGKILL)
        with pytest.raises(SimCrash, match="code -9"):
            remote.call("anything")


def test_the_child_dies_with_its_parent():
    code = (
        "import time; from libs.libero_sim import RemoteObject; r = RemoteObject('threading:Event', {}); "
        "r.call('is_set'); r.send('wait', 1000); print(r.pid, flush=True); time.sleep(1000)"
    )
    parent = run_python(code)
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: gone(pid))


@pytest.fixture(scope="module")
def env():
    env = LiberoEnv(get_task("libero_object", 5), resolution=64)
    yield env
    env.close()


def play(env, views_at):
    """States and pictures of a short episode; views_at: step -> views to render."""
    env.reset(7, init_states(env.task)[0])
    env.settle(2, views=())
    states, pictures = [], {}
    for i, action in enumerate(ACTIONS):
        observation, success = env.step(action, views_at(i))
        states.append(env.sim_state())
        pictures |= {(i, view): picture for view, picture in observation["views"].items()}
        assert not success
    return np.stack(states), pictures


@pytest.mark.sim
def test_lazy_rendering_changes_nothing(env):
    """And the same seed, init state and actions give the same episode, whatever the env did before."""
    eager_states, eager = play(env, lambda i: VIEWS)
    lazy_states, lazy = play(env, lambda i: VIEWS if i == 3 else ("agentview",) if i == 7 else ())
    assert np.array_equal(eager_states, lazy_states)
    assert sorted(lazy) == [(3, "agentview"), (3, "eye_in_hand"), (7, "agentview")]
    for key, picture in lazy.items():
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        assert np.array_equal(picture, eager[key])


@pytest.mark.sim
def test_observation_is_upright_and_complete(env):
    observation = env.reset(7, init_states(env.task)[0])
    assert observation["instruction"] == env.task.instruction
    assert {name: values.shape for name, values in observation["proprio"].items()} == {
        part: (place.dim,) for part, place in LIBERO.proprio.items()
    }
    robot_states = env.proprio_dict()["robot_states"]
    np.testing.assert_allclose(observation["proprio"]["robot_states"], robot_states, atol=1e-3)
    picture = observation["views"]["agentview"].astype(float)
    assert picture[:5].std(axis=2).mean() < 5  # the grey wall is up
    assert list(observation["views"]) == list(VIEWS)


@pytest.mark.sim
def test_wrong_arguments_are_refused(env):
    with pytest.raises(ValueError, match="7 finite numbers"):
        env.step([0.0] * 6)
    with pytest.raises(ValueError, match="unknown views"):
        env.step(ACTIONS[0], ("front",))
    with pytest.raises(ValueError, match=r"shape \(110,\)"):
        env.reset(7, np.zeros(3))


@pytest.mark.sim
def test_a_recording_repeats_to_the_bit(env):
    recording = record_expert(env, 3, np.random.default_rng(0), StartVariation(noise=0.05))
    assert recording is not None
    again = record_expert(env, 3, np.random.default_rng(0), StartVariation(noise=0.05))
    assert np.array_equal(recording.states, again.states)
    assert np.array_equal(recording.actions, again.actions)
    env.set_sim_state(recording.states[0], recording.start_gripper)
    for state, action in zip(recording.states, recording.actions, strict=True):
        assert np.array_equal(env.sim_state(), state)
        _, success = env.step(action)
    assert success
    seen = observe_states(env, recording.states[:2])
    assert seen["agentview"].shape == (2, 64, 64, 3) and seen["robot_states"].shape == (2, 9)


@pytest.mark.sim
def test_fast_pictures_in_a_process_of_its_own(env):
    """Same physics as the standard setting, similar pictures."""
    with SimProcess(env.task, resolution=64, render="fast") as process:
        for request in (("reset", 7, init_states(env.task)[0]), ("settle", 2, ())):
            process.send(*request)
            process.recv()
        for action in ACTIONS:
            observation, _ = process.step(action, VIEWS)
        state = process.sim_state()
    states, pictures = play(env, lambda i: VIEWS if i == len(ACTIONS) - 1 else ())
    assert np.array_equal(state, states[-1])
    for view in VIEWS:
        difference = observation["views"][view].astype(float) - pictures[len(ACTIONS) - 1, view]
        assert 0 < np.abs(difference).mean() < 12
