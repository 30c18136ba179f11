"""Demonstrations that a policy begins, see takeover.py, in the simulators that robosuite makes."""

from typing import Any

import numpy as np

from libs.robosuite_sim.env import RobosuiteEnv
from libs.robosuite_sim.recording import Start
from rv_eval.envs.base import PANDA_ACTIONS
from rv_eval.envs.takeover import WithPolicy, act, draw_steps
from rv_eval.policy import Policy


class Takeover(WithPolicy):
    """Of an ExpertWorker some of whose attempts a policy begins."""

    env: Any

    def takeover(self, rng: np.random.Generator) -> Start | None:
        if not self.policy_begins(rng):
            return None
        return lambda: start_by_policy(self.env, self.policy, rng)


def start_by_policy(env: RobosuiteEnv, policy: Policy, rng: np.random.Generator) -> float | None:
    """Let the policy act for a random while; see `Start`."""
    observation = env.settle(1, policy.views)
    action = act(policy, PANDA_ACTIONS, observation, env.step, draw_steps(rng, env.task.max_steps), rng)
    return None if action is None else float(action[-1])
