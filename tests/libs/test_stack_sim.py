"""libs.stack_sim: seeds, one real simulator for placement, pictures, states and success, and the expert in it."""

import numpy as np
import pytest

from libs.demo_hdf5 import KeyMap
from libs.stack_sim import PROPRIO_DIMS, VIEWS, StackEnv, StackProcess, StackTask, init_seed
from libs.stack_sim.expert import stack_actions
from libs.stack_sim.recording import observe_states, record_expert
from libs.stack_sim.task import demo_seed

ACTIONS = np.array([[0.3, -0.2, -0.5, 0, 0, 0.2, -1 if i < 4 else 1] for i in range(8)])
RED, GREEN = slice(9, 12), slice(16, 19)  # positions of the cubes in qpos: after 7 arm joints and 2 fingers


def test_no_demo_starts_from_an_init_state():
    evaluated = {init_seed(i) for i in range(StackTask().num_init_states)}
    assert len(evaluated) == StackTask().num_init_states
    drawn = [demo_seed(number) for number in (0, 1, 49, 2**31 - 1, 2**31, 2**32 - 1)]
    assert not evaluated & set(drawn) and max(drawn) < 2**32, "numpy takes 32 bits"
    with pytest.raises(ValueError, match="init states 0 to 49, not 50"):
        init_seed(50)


def test_the_observation_is_what_the_key_map_reads():
    key_map = KeyMap.find("isaac_cosmos")
    assert {part: place.dim for part, place in key_map.proprio.items()} == PROPRIO_DIMS
    assert tuple(key_map.views) == VIEWS


@pytest.fixture(scope="module")
def env():
    env = StackEnv(StackTask(), resolution=64, render="fast")
    yield env
    env.close()


def run_some(env, seed, views=()):
    """States from a reset and a few actions on, and the last observation."""
    env.reset(seed)
    states = [env.settle(3, views) and env.sim_state()]
    for action in ACTIONS:
        observation, _ = env.step(action, views)
        states.append(env.sim_state())
    return np.array(states), observation


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_placement_is_a_function_of_the_seed(env):
    states, observation = run_some(env, 3, VIEWS)
    run_some(env, 4)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    again, _ = run_some(env, 3)  # without pictures, after another episode
    np.testing.assert_array_equal(again, states)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    other, _ = run_some(env, 4)
    assert np.abs(other[0, 1:][RED] - states[0, 1:][RED]).max() > 0.005
    with StackProcess(env.task, resolution=64, render="fast") as process:  # and in a process of its own
        process.reset(3)
        process.settle(3, ())
        for action in ACTIONS:
            remote, _ = process.step(action, VIEWS)
        np.testing.assert_array_equal(process.sim_state(), states[-1])
    for view in VIEWS:
        np.testing.assert_array_equal(remote["views"][view], observation["views"][view])
    for part, size in PROPRIO_DIMS.items():
        assert observation["proprio"][part].shape == (size,)
        np.testing.assert_array_equal(remote["proprio"][part], observation["proprio"][part])


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_proprio_means_what_isaac_labs_means(env):
    env.reset(0)
    proprio = env.settle()["proprio"]
    w, x, y, z = proprio["eef_quat"]
    down = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]  # the hand's z axis in the world
    np.testing.assert_allclose(down, [0, 0, -1], atol=0.2)
    assert (proprio["joint_pos"][7:] > 0.038).all(), "both fingers count from closed"
    np.testing.assert_array_equal(proprio["gripper_pos"], proprio["joint_pos"][7:] * [1, -1])
    up = [0, 0, 1, 0, 0, 0, -1]
    for _ in range(5):
        moved = env.step(up)[0]["proprio"]
    assert moved["eef_pos"][2] > proprio["eef_pos"][2] + 0.05
    assert np.abs(moved["joint_vel"][:7]).max() > 0.1


def red_centre(env):
    """Mean (row, column) of the red pixels of the table camera."""
    picture = env.render(("table_cam",))["table_cam"].astype(int)
    red = (picture[..., 0] > 90) & (picture[..., 1:].max(axis=2) < 80)
    return np.argwhere(red).mean(axis=0)


def place(env, red, green=(0.0, 0.0, 0.825)):
    """Put the cubes, unturned and at rest, somewhere."""
    state = env.sim_state()
    qpos = state[1 : 1 + env.robosuite_env.sim.model.nq]
    qpos[RED], qpos[GREEN] = red, green
    qpos[12:16] = qpos[19:23] = [1, 0, 0, 0]
    state[1 + len(qpos) :] = 0
    env.set_sim_state(state)


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_pictures_are_upright_and_not_mirrored(env):
    env.reset(0)
    place(env, (0.0, 0.1, 0.82), green=(0.0, -0.2, 0.825))
    row, column = red_centre(env)
    place(env, (0.0, 0.1, 0.87), green=(0.0, -0.2, 0.825))
    higher_row, _ = red_centre(env)
    place(env, (0.0, 0.16, 0.82), green=(0.0, -0.2, 0.825))
    _, right_column = red_centre(env)  # the camera looks from the front: the robot's left is to its right
    assert higher_row < row - 2 and right_column > column + 2


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_success_is_a_cube_that_rests_on_the_other(env):
    env.reset(0)
    for red, rests in (
        ((0.0, 0.0, 0.8696), True),  # pressed in by 0.4 mm: they touch
        ((0.015, 0.015, 0.8696), True),
        ((0.03, 0.0, 0.8696), False),  # its middle is over the edge
        ((0.0, 0.0, 0.90), False),  # above
        ((0.0446, 0.0, 0.845), False),  # touches the side while it falls past: robosuite counts that
        ((0.1, 0.0, 0.82), False),
    ):
        place(env, red)
        assert env.check_success() is rests, red
    place(env, (0.0446, 0.0, 0.845))
    assert env.robosuite_env._check_success()


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_the_expert_stacks_also_after_a_push(env):
    for seed, late in ((demo_seed(0), 0.0), (demo_seed(5), 1.0)):
        recording = record_expert(env, seed, np.random.default_rng(seed), late)
        assert len(recording.actions) < 130 and np.abs(recording.actions).max() <= 1
        assert env.check_success() and env.proprio_dict()["eef_pos"][2] > 0.9, "let go, and away"
        np.testing.assert_array_equal(recording.actions[:, 3:5], 0.0)
    obs = observe_states(env, recording.states[:2])
    assert obs["cube_positions"].shape == (2, 6) and obs["cube_orientations"].shape == (2, 8)
    assert obs["table_cam"].shape == (2, 64, 64, 3)


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_an_expert_that_has_to_begin_again(env):
    """The red cube is taken away while the hand closes: the grasp is planned anew."""
    env.reset(demo_seed(1), ())
    env.settle(10, ())
    taken = False
    for steps, action in enumerate(stack_actions(env), start=1):
        _, success = env.step(action)
        if action[6] > 0 and not taken:
            state, taken = env.sim_state(), True
            red = state[1:][RED]
            red[1] += 0.06 if red[1] < 0 else -0.06
            env.set_sim_state(state, 1.0)
        if steps == env.task.max_steps:
            break
    assert taken and success


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_wrong_requests_are_named(env):
    with pytest.raises(ValueError, match="7 finite numbers"):
        env.step(np.zeros(6))
    with pytest.raises(ValueError, match="7 finite numbers"):
        env.step([np.nan] * 7)
    with pytest.raises(ValueError, match="known are table_cam, wrist_cam"):
        env.render(("agentview",))
    with pytest.raises(ValueError, match="has shape"):
        env.set_sim_state(np.zeros(3))
