"""The rollout against the plain loop: one episode in this process, every picture rendered, no queue."""

import numpy as np
import pytest

from libs.action_form import Rotations
from libs.libero_sim import VIEWS, LiberoEnv, get_task, init_states
from libs.libero_sim.experts import expert_actions
from rv_eval.agent import AgentSettings
from rv_eval.envs.base import Episode
from rv_eval.envs.libero import LiberoEnvironment
from rv_eval.playing.rollout import Rollout
from rv_train.policies.base import Prediction

HORIZON = 8
INIT_STATE = 1
SEED = 7


class Replay:
    """A policy that knows the actions beforehand, and keeps what it was shown."""

    horizon, views, batch_rows, rotations = HORIZON, VIEWS, 1, Rotations()

    def __init__(self, actions):
        self.actions = np.concatenate([actions, np.tile(actions[-1], (HORIZON, 1))])
        self.shown = []

    def predict_detailed(self, observations):
        start = len(self.shown) * HORIZON
        self.shown += observations
        chunk = self.actions[None, start : start + HORIZON]
        return Prediction(chunk, np.array([True]), np.array([False]), [""])


def plain_loop(task):
    """The expert's actions and, from before each of them, the observation with its pictures."""
    env = LiberoEnv(task, resolution=64, render="fast")
    try:
        env.reset(SEED, init_states(task)[INIT_STATE])
        observations, actions = [env.settle(views=VIEWS)], []
        for action in expert_actions(env, np.random.default_rng(0)):
            actions.append(np.array(action))
            observation, success = env.step(action, VIEWS)
            if success:
                return np.array(actions), observations
            observations.append(observation)
    finally:
        env.close()
    raise AssertionError("the expert failed")


@pytest.mark.sim
@pytest.mark.libero
def test_rollout_is_the_plain_loop():
    task = get_task("libero_object", 5)
    actions, observations = plain_loop(task)
    policy = Replay(actions)
    rollout = Rollout(policy, lambda task: LiberoEnvironment(task, 64, "fast"), AgentSettings(), video_every=4)
    (result,) = rollout.run([Episode(task, INIT_STATE, SEED, task.max_steps, num_settle_steps=10)])
    assert result.success and result.steps == len(actions) and not result.incidents
    assert len(policy.shown) == result.queries == -(-len(actions) // HORIZON)
    for shown, expected in zip(policy.shown, observations[::HORIZON], strict=True):
        for part, values in expected["proprio"].items():
            np.testing.assert_array_equal(shown["proprio"][part], values)
        for view in VIEWS:
            np.testing.assert_array_equal(shown["views"][view], expected["views"][view])
    for step, views in result.frames:
        if step < len(observations):
            np.testing.assert_array_equal(views["agentview"], observations[step]["views"]["agentview"])
