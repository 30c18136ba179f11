"""--takeover: demonstrations that a policy begins and the expert ends."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from libs.action_form import Rotations
from libs.demo_hdf5 import DemoFile, KeyMap
from libs.libero_sim import LiberoEnv, get_task
from libs.robosuite_sim.experts.motion import OPEN
from libs.stack_sim import StackEnv, StackTask
from rv_eval.agent import AgentSettings
from rv_eval.envs.robosuite_takeover import start_by_policy
from rv_eval.envs.takeover import EARLIEST
from rv_train.policies.base import Prediction
from tests.refusal import refusal
from tests.tiny import flow_opts, make_tiny_checkpoint
from tools import collect_demos, collect_stack

LIBERO = ["--task_suite", "libero_object", "--task_ids", "5", "--num_demos", "1", "--resolution", "64"]
STACK = ["--num_demos", "2", "--resolution", "64"]
CLOSED = 1.0


class FakeEnv:
    """Solved by its action number `solved`; notes what it is sent and what is looked at."""

    task = SimpleNamespace(max_steps=80)

    def __init__(self, solved=None):
        self.solved, self.sent, self.looked = solved, [], []

    def settle(self, steps, views):
        self.looked.append(views)
        return {"views": "the first"}

    def step(self, action, views):
        self.sent.append(action)
        self.looked.append(views)
        return {"views": f"after {len(self.sent)}"}, len(self.sent) == self.solved


class FakePolicy:
    """Chunks of three actions that close the gripper; notes what it is asked."""

    horizon, views, preset, rotations = 3, ("front",), AgentSettings(), Rotations()

    def __init__(self):
        self.asked = []

    def predict_detailed(self, observations):
        self.asked += observations
        return Prediction.unwritten(np.full((1, 3, 7), 0.4, np.float32))


def begin(seed, solved=None):
    env, policy = FakeEnv(solved), FakePolicy()
    return env, policy, start_by_policy(env, policy, np.random.default_rng(seed))


def test_the_policy_acts_for_a_random_while():
    lengths = []
    for seed in range(40):
        env, policy, gripper = begin(seed)
        assert gripper == CLOSED and len(policy.asked) == -(-len(env.sent) // 3)
        lengths.append(len(env.sent))
    assert EARLIEST <= min(lengths) < 10 and 30 < max(lengths) < 40


def test_it_looks_where_it_is_asked_and_begins_alike_by_the_same_seed():
    env, policy, _ = begin(1)
    looked = [place for place, views in enumerate(env.looked) if views]
    assert looked == list(range(0, len(env.sent) + 1, 3)) and all(env.looked[place] == ("front",) for place in looked)
    assert [asked["views"] for asked in policy.asked][:2] == ["the first", "after 3"]
    again, other = begin(1)[1], begin(2)[1]
    keys = [[asked["random_key"] for asked in one.asked] for one in (policy, again, other)]
    assert keys[0] == keys[1] and keys[0][0] != keys[2][0] and len(set(keys[0])) == len(keys[0])


def test_a_task_that_it_solves_on_the_way_begins_anew():
    env, _, gripper = begin(1, solved=2)
    assert gripper is None and len(env.sent) == 2


@pytest.mark.parametrize("main, words", [(collect_demos.main, LIBERO), (collect_stack.main, STACK)])
@pytest.mark.parametrize(
    "more, message",
    [
        (["--takeover", "0.5"], "give both, or none"),
        (["--model_path", "RUN"], "give both, or none"),
        (["--takeover", "1.5", "--model_path", "RUN"], "--takeover must be between 0 and 1, not 1.5"),
        (["--takeover", "1", "--model_path", "nowhere"], "nowhere"),
        (["--takeover", "1", "--model_path", "RUN"], "render setting 'fast', the environment renders 'standard'"),
    ],
)
@pytest.mark.libero
def test_what_cannot_be_is_a_line(main, words, more, message, tmp_path, capsys):
    views = {"DATA__VIEWS": ["table_cam", "wrist_cam"]} if words is STACK else {}
    run = make_tiny_checkpoint(tmp_path, **views)
    more = [str(run) if word == "RUN" else word for word in more]
    assert message in refusal(main, capsys, *words, *more, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def replay(env, demos, demo):
    """Whether the task is solved after a demo's actions, which bring its states again."""
    attrs, states, success = demos.demo_attrs(demo), demos.states(demo), False
    env.reset(int(attrs["seed"]))
    env.set_sim_state(states[0], attrs["start_gripper"])
    for state, action in zip(states, demos.actions(demo), strict=True):
        np.testing.assert_array_equal(env.sim_state(), state)
        _, success = env.step(action)
    return success


@pytest.mark.sim
@pytest.mark.libero
def test_an_expert_takes_over_and_the_demo_replays(tmp_path, capsys):
    run = make_tiny_checkpoint(tmp_path)
    words = [*LIBERO, "--render", "fast", "--takeover", "1", "--model_path", str(run), "--out", str(tmp_path / "out")]
    collect_demos.main(words)
    task = get_task("libero_object", 5)
    demos = DemoFile(tmp_path / f"out/{task.name}_demo.hdf5")
    settings = json.loads(demos.attrs["collection"])
    assert settings["takeover"] == 1.0 and settings["model_path"] == str(run) and len(settings["weights_sha256"]) == 64
    env = LiberoEnv(task, resolution=64, render="fast")
    try:
        assert replay(env, demos, "demo_0")
        env.reset(int(demos.demo_attrs("demo_0")["seed"]))
        away = np.linalg.norm(env.proprio_dict()["ee_pos"] - demos.proprio("demo_0", ("ee_pos",))[0])
        assert away > 0.01, "the policy had moved the hand"
    finally:
        env.close()
    plain = [*LIBERO, "--render", "fast", "--out", str(tmp_path / "out")]
    told = refusal(collect_demos.main, capsys, *plain)
    assert "made with takeover 1.0, not None; model_path" in told, "what a policy began is not what an expert did"
    other = make_tiny_checkpoint(tmp_path / "other", EXP__SEED=1)
    assert "made with model_path" in refusal(collect_demos.main, capsys, *words, "--model_path", other)


@pytest.mark.sim
@pytest.mark.libero
def test_also_where_cubes_are_stacked(tmp_path):
    run = make_tiny_checkpoint(
        tmp_path, **flow_opts(DATA__KEY_MAP="isaac_cosmos", DATA__PROPRIO=[], DATA__VIEWS=["table_cam", "wrist_cam"])
    )
    more = ["--render", "fast", "--takeover", "1", "--model_path", str(run), "--out", str(tmp_path / "out")]
    collect_stack.main([*STACK, *more])
    path = tmp_path / "out/stack_the_red_cube_on_the_green_cube_demo.hdf5"
    demos = DemoFile(path, KeyMap.find("isaac_cosmos"))
    env = StackEnv(StackTask(), resolution=64, render="fast")
    try:
        assert all(replay(env, demos, demo) for demo in demos.demos)
        assert any(demos.demo_attrs(demo)["start_gripper"] != OPEN for demo in demos.demos)
    finally:
        env.close()
