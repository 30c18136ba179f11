"""libs.libero_sim.replay: how a demo file compares with a simulator, here one that knows the file's own content."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import DemoFile
from libs.libero_sim import replay
from libs.libero_sim.replay import recorded_task, replay_demos
from tests.demo_files import write_synthetic_demo_file

T, SIDE, SEED = 5, 16, 7


class FileEnv:
    """Plays a demo back as it was recorded; reset with another seed, the pictures are brighter."""

    made = ()

    def __init__(self, demo, resolution, render):
        assert (resolution, render) == (SIDE, "fast")
        self.demo, self.closed = demo, False
        FileEnv.made = (*FileEnv.made, self)

    def reset(self, seed):
        self.seed = seed

    def set_sim_state(self, state, gripper_action=-1.0):
        (self.t,) = np.flatnonzero((self.demo.states == state).all(axis=1))
        self.gripper = gripper_action

    def sim_state(self):
        return self.demo.states[self.t]

    def render(self, views):
        light = 0 if self.seed == SEED else 30
        return {view: np.minimum(self.demo.obs[view][self.t], 255 - light) + np.uint8(light) for view in views}

    def proprio_dict(self):
        return {"robot_states": self.demo.robot_states[self.t]}

    def step(self, action):
        assert np.array_equal(action, self.demo.actions[self.t])
        self.t += 1
        return None, self.t == T and self.gripper == 1.0

    def close(self):
        self.closed = True


@pytest.fixture
def path(tmp_path, monkeypatch):
    path = tmp_path / "demo.hdf5"
    (demo,) = write_synthetic_demo_file(path, 1, T, SIDE, seed=0)
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs.update({"seed": SEED, "start_gripper": 1.0})
    monkeypatch.setattr(replay, "LiberoEnv", lambda task, resolution, render: FileEnv(demo, resolution, render))
    return path


def replayed(path):
    ((name, result),) = replay_demos(DemoFile(path), None, ["demo_0"])
    assert name == "demo_0" and FileEnv.made[-1].closed
    return result


def test_a_faithful_file_differs_in_nothing(path):
    result = replayed(path)
    assert (result.success, result.steps, result.num_frames, result.seed) == (True, T, T, SEED)
    assert result.picture_max == {"agentview": 0, "eye_in_hand": 0}
    assert result.robot_state_max == result.state_max == 0.0 and result.problems() == []


def test_a_negated_quaternion_is_the_same_rotation(path):
    with h5py.File(path, "r+") as file:
        file["data/demo_0/robot_states"][:, 5:] *= -1.0
    assert replayed(path).robot_state_max == 0.0


def test_pictures_upside_down_are_a_problem(path):
    with h5py.File(path, "r+") as file:
        pictures = file["data/demo_0/obs/agentview_rgb"]
        pictures[:] = pictures[()][:, ::-1, ::-1]
    (problem,) = replayed(path).problems()
    assert problem.startswith("agentview: stored pictures differ from rendered ones by")


def test_robot_states_of_other_moments_are_a_problem(path):
    with h5py.File(path, "r+") as file:
        states = file["data/demo_0/robot_states"]
        states[:] = np.roll(states[()], 1, axis=0)
    (problem,) = replayed(path).problems()
    assert problem.startswith("robot_states differ from the simulator's by")


def test_actions_that_fail_are_a_problem(path):
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["start_gripper"] = -1.0
    assert replayed(path).problems() == ["the actions, replayed from the first state, fail in 5 steps"]


def test_without_the_seed_of_the_reset_nothing_is_held_against_the_file(path):
    with h5py.File(path, "r+") as file:
        del file["data/demo_0"].attrs["seed"]
        del file["data/demo_0"].attrs["start_gripper"]
    result = replayed(path)
    assert result.seed is None and not result.success and result.picture_mean["agentview"] > 10
    assert result.problems() == []


def test_the_task_is_found_by_the_bddl_file():
    name = "open_the_middle_drawer_of_the_cabinet"
    file = SimpleNamespace(attrs={"bddl_file_name": f"elsewhere/bddl_files/libero_goal/{name}.bddl"})
    task = recorded_task(file)
    assert (task.suite, task.name) == ("libero_goal", name)


@pytest.mark.parametrize("name", [None, "task.bddl", "libero_object/no_such_task.bddl", "no_suite/x.bddl"])
def test_an_unknown_task_is_named(name):
    file = SimpleNamespace(attrs={} if name is None else {"bddl_file_name": name})
    with pytest.raises(ValueError, match=r"bddl_file_name does not name|unknown task"):
        recorded_task(file)
