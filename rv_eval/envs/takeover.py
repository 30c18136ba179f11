"""Demonstrations that begin where a policy got to: the expert takes over and shows the way from there.

A policy that learned from an expert alone does not know what its own mistakes look like. Demonstrations from the states
that it reaches itself teach it to mend them: DAgger, Ross et al. 2011 (arXiv:1011.0686).
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from libs.robosuite_sim.env import RobosuiteEnv
from libs.robosuite_sim.experts.motion import OPEN
from libs.robosuite_sim.recording import LATE_STEPS, Start
from rv_eval.agent import ChunkAgent
from rv_eval.envs.base import PANDA_ACTIONS, Description
from rv_eval.policy import Policy, model_fingerprint

LATEST = 0.5  # of a task's step limit: a policy that fails has mostly done so by then


@dataclass(frozen=True)
class ByPolicy:
    """What the settings of demonstrations say besides of the policy of `model_path`, which begins a share `takeover` of
    the attempts."""

    takeover: float
    model_path: str
    weights_sha256: str

    @classmethod
    def find(cls, env: Description, render: str, takeover: float, model_path: str) -> "ByPolicy":
        """BadInput: there is no policy, or one for other cameras or other pictures (render: how they are drawn)."""
        policy = Policy.from_checkpoint(model_path, device="cpu")
        policy.check_environment(env.views, env.action_dim, render, env.proprio)
        return cls(takeover, model_path, model_fingerprint(policy.folder)["weights_sha256"])


class Takeover:
    """Of an ExpertWorker some of whose attempts a policy begins."""

    env: Any
    settings: Any  # a simulator's own, which are a ByPolicy besides

    @functools.cached_property
    def policy(self) -> Policy:
        torch.set_num_threads(1)  # simulators share the cores
        return Policy.from_checkpoint(self.settings.model_path, device="cpu", batch_rows=1)

    def takeover(self, rng: np.random.Generator) -> Start | None:
        if rng.random() >= self.settings.takeover:
            return None
        return lambda: start_by_policy(self.env, self.policy, rng, round(LATEST * self.env.task.max_steps))


def start_by_policy(env: RobosuiteEnv, policy: Policy, rng: np.random.Generator, latest: int) -> float | None:
    """Let the policy act for a random while of less than `latest` steps; see `Start`."""
    agent = ChunkAgent(policy.horizon, policy.preset, PANDA_ACTIONS, rotations=policy.rotations)
    observation, gripper = env.settle(1, policy.views), OPEN
    for _ in range(rng.integers(LATE_STEPS[0], latest)):
        if agent.needs_observation:
            key = tuple(int(number) for number in rng.integers(2**31, size=2))
            agent.add_answer(policy.predict_detailed([observation | agent.told() | {"random_key": key}]), 0)
        action = agent.next_action()
        observation, success = env.step(action, policy.views if agent.needs_observation else ())
        if success:
            return None
        gripper = float(action[-1])
    return gripper
