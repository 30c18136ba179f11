"""libs.libero_sim: suites, and one real simulator for what needs it: pictures, states, processes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from libs.demo_hdf5 import LIBERO
from libs.libero_sim import (
    VIEWS,
    LiberoEnv,
    LiberoProcess,
    find_task,
    get_task,
    init_states,
    list_suites,
    num_tasks,
)
from libs.libero_sim.recording import StartVariation, observe_states, record_expert
from libs.robosuite_sim.stepping import compute_once
from tools.dev.benchmarks.timed_env import TimedEnv

ACTIONS = np.array([[0.2, 0.1 * i, -0.4, 0, 0, 0.1, -1 if i < 5 else 1] for i in range(8)])


@pytest.mark.libero
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


@pytest.mark.libero
def test_rephrased_suites_have_their_own_instruction():
    plain, rephrased = get_task("libero_object", 0), get_task("libero_object_lan", 0)
    assert plain.name == rephrased.name and plain.instruction != rephrased.instruction


@pytest.mark.libero
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
@pytest.mark.libero
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
@pytest.mark.libero
def test_what_is_computed_once_is_what_robosuite_computes_three_times(env, monkeypatch):
    """States, pictures and the robot's state of a short episode with contacts, to the bit, in fewer computations."""
    import mujoco

    calls = Counter()
    for name in ("mj_forward", "mj_step"):
        compute = getattr(mujoco, name)
        monkeypatch.setattr(mujoco, name, lambda *a, name=name, compute=compute: (calls.update([name]), compute(*a)))

    def whole():
        calls.clear()
        states, pictures = play(env, lambda i: VIEWS if i == 7 else ())
        return states, pictures, env.observed_proprio(), calls.total()

    once = whole()
    TimedEnv.as_it_comes(env)
    thrice = whole()
    compute_once(env.robosuite_env)
    assert np.array_equal(once[0], thrice[0])
    for some, others in zip(once[1:3], thrice[1:3], strict=True):
        assert some and all(np.array_equal(some[key], others[key]) for key in others)
    assert once[3] < 0.6 * thrice[3]


@pytest.mark.sim
@pytest.mark.libero
def test_a_reset_draws_what_is_asked_for(env, monkeypatch):
    sim, state, drawn = env.robosuite_env.sim, init_states(env.task)[0], []
    draw = sim.render
    monkeypatch.setattr(sim, "render", lambda **more: (drawn.append(more["camera_name"]), draw(**more))[1])
    assert env.reset(7, state)["views"] == {} and not drawn
    one = env.reset(7, state, ("agentview",))["views"]
    assert set(drawn) == {"agentview"} and list(one) == ["agentview"]
    both = env.reset(7, state, VIEWS)["views"]
    assert np.array_equal(one["agentview"], both["agentview"]) and both["eye_in_hand"].any()
    with pytest.raises(ValueError, match="unknown views"):
        env.reset(7, state, ("front",))


@pytest.mark.sim
@pytest.mark.libero
def test_observation_is_upright_and_complete(env):
    observation = env.reset(7, init_states(env.task)[0], VIEWS)
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
@pytest.mark.libero
def test_wrong_arguments_are_refused(env):
    with pytest.raises(ValueError, match="7 finite numbers"):
        env.step([0.0] * 6)
    with pytest.raises(ValueError, match="unknown views"):
        env.step(ACTIONS[0], ("front",))
    with pytest.raises(ValueError, match=r"shape \(110,\)"):
        env.reset(7, np.zeros(3))


@pytest.mark.sim
@pytest.mark.libero
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
@pytest.mark.libero
def test_fast_pictures_in_a_process_of_its_own(env):
    """Same physics as the standard setting, similar pictures."""
    with LiberoProcess(env.task, resolution=64, render="fast") as process:
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
