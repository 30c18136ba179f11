"""Demonstrations that begin where a policy got to: the expert takes over and shows the way from there.

A policy that learned from an expert alone does not know what its own mistakes look like. Demonstrations from the states
that it reaches itself teach it to mend them: DAgger, Ross et al. 2011 (arXiv:1011.0686).
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libs.libero_sim.collection import DemoWorker, Settings, TaskJob
from libs.robosuite_sim.env import RobosuiteEnv
from libs.robosuite_sim.experts.motion import OPEN
from libs.robosuite_sim.recording import LATE_STEPS, Start
from libs.stack_sim.collection import StackJob, StackSettings, StackWorker
from rv_eval.agent import ChunkAgent
from rv_eval.envs.base import PANDA_ACTIONS
from rv_eval.envs.libero import DESCRIPTION as LIBERO
from rv_eval.envs.stack import DESCRIPTION as STACK
from rv_eval.policy import Policy, model_fingerprint

LATEST = 0.5  # of a task's step limit: a policy that fails has mostly done so by then


@dataclass(frozen=True)
class PolicySettings(Settings):
    """takeover: share of the attempts that begin where the policy of `model_path` got to."""

    takeover: float
    model_path: str
    weights_sha256: str


@dataclass(frozen=True)
class StackPolicySettings(StackSettings):
    """As PolicySettings."""

    takeover: float
    model_path: str
    weights_sha256: str


def libero_jobs(jobs: Sequence[TaskJob], out: Path, takeover: float, model_path: str) -> list[TaskJob]:
    """The same jobs; in a fraction `takeover` of the attempts the policy of `model_path` begins. BadInput: there is no
    policy, or one for other cameras or other pictures."""
    about = _about_policy(LIBERO, jobs[0].settings.render, takeover, model_path)
    return [TakeoverJob(job.task, PolicySettings(**asdict(job.settings), **about), job.num_demos, out) for job in jobs]


def stack_job(job: StackJob, out: Path, takeover: float, model_path: str) -> StackJob:
    """As libero_jobs."""
    about = _about_policy(STACK, job.settings.render, takeover, model_path)
    return StackTakeoverJob(job.task, StackPolicySettings(**asdict(job.settings), **about), job.num_demos, out)


def _about_policy(env, render, takeover, model_path):
    policy = Policy.from_checkpoint(model_path, device="cpu")
    policy.check_environment(env.views, env.action_dim, render, env.proprio)
    weights = model_fingerprint(policy.folder)["weights_sha256"]
    return {"takeover": takeover, "model_path": model_path, "weights_sha256": weights}


class _Takeover:
    """Of a worker some of whose attempts a policy begins."""

    env: Any
    settings: Any

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


class TakeoverWorker(_Takeover, DemoWorker):
    """Of a LIBERO task."""


class StackTakeoverWorker(_Takeover, StackWorker):
    """Of cube stacking."""


class TakeoverJob(TaskJob):
    """The attempts of a LIBERO task's expert, with PolicySettings."""

    WORKER = "rv_eval.envs.takeover:TakeoverWorker"


class StackTakeoverJob(StackJob):
    """The attempts of the stacking expert, with StackPolicySettings."""

    WORKER = "rv_eval.envs.takeover:StackTakeoverWorker"
