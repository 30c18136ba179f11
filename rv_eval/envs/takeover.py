"""Demonstrations that begin where a policy got to: the expert takes over and shows the way from there.

A policy that learned from an expert alone does not know what its own mistakes look like. Demonstrations from the states
that it reaches itself teach it to mend them: DAgger, Ross et al. 2011 (arXiv:1011.0686).
"""

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from libs.errors import BadInput
from rv_eval.agent import ChunkAgent
from rv_eval.envs.base import ActionPart, Description
from rv_eval.picture_sizes import shape_remark
from rv_eval.policy import Policy, model_fingerprint

EARLIEST = 5  # steps that a policy acts at least
LATEST = 0.5  # of a task's step limit: a policy that fails has mostly done so by then


@dataclass(frozen=True, kw_only=True)
class ByPolicy:
    """What the settings of demonstrations say besides of the policy of `model_path`, which begins a share `takeover` of
    the attempts."""

    takeover: float
    model_path: str
    weights_sha256: str

    @classmethod
    def find(cls, env: Description, render: str, resolution: int, takeover: float, model_path: str) -> "ByPolicy":
        """Says on stderr where the policy is shown pictures of another size or shape than it was trained on.

        render, resolution: how pictures are drawn. BadInput: there is no policy, or one for other cameras or another
        render setting.
        """
        policy = Policy.from_checkpoint(model_path, device="cpu")
        policy.check_environment(env.views, env.action_dim, render, env.proprio)
        assert policy.pictures is not None  # of one that was loaded here
        remark = shape_remark(policy.pictures, dict.fromkeys(policy.views, (resolution, resolution)), "the environment")
        if resolution != policy.resolution and not remark:
            remark = f"--resolution is {resolution}, and the policy is trained and evaluated with {policy.resolution}"
        if remark:
            print(f"warning: {remark}", file=sys.stderr)
        sha256 = model_fingerprint(policy.folder)["weights_sha256"]
        return cls(takeover=takeover, model_path=model_path, weights_sha256=sha256)

    def load(self) -> Policy:
        """The policy, for one observation at a time beside a simulator on the same core. BadInput: it is another one by
        now."""
        torch.set_num_threads(1)
        policy = Policy.from_checkpoint(self.model_path, device="cpu", batch_rows=1)
        if model_fingerprint(policy.folder)["weights_sha256"] != self.weights_sha256:
            raise BadInput(
                f"--model_path: {self.model_path} holds other weights than when this began, as a run does that is "
                "still being trained: name a step of it"
            )
        return policy


class WithPolicy:
    """Of what makes attempts some of which a policy begins."""

    settings: Any  # a simulator's own, which are a ByPolicy besides

    @functools.cached_property
    def policy(self) -> Policy:
        return self.settings.load()

    def policy_begins(self, rng: np.random.Generator) -> bool:
        """Whether it begins the next attempt."""
        return rng.random() < self.settings.takeover


def draw_steps(rng: np.random.Generator, max_steps: int) -> int:
    """How long a policy acts in an episode of at most `max_steps`."""
    end = max(round(LATEST * max_steps), 2)
    return int(rng.integers(min(EARLIEST, end - 1), end))


def act(
    policy: Policy,
    actions: Sequence[ActionPart],
    observation: dict[str, Any],
    step: Callable[[np.ndarray, Sequence[str]], tuple[dict[str, Any], bool]],
    num_steps: int,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Let the policy act `num_steps` times, at least once; its draws are the generator's.

    Args:
        actions: of the environment's description.
        observation: of the beginning, with the policy's views.
        step: (action (A,), views to look at) -> (observation, whether the task is solved).

    Returns:
        The last action (A,), as it was executed; None where the policy solved the task.
    """
    agent = ChunkAgent(policy.horizon, policy.preset, actions, rotations=policy.rotations)
    for _ in range(num_steps):
        if agent.needs_observation:
            key = tuple(int(number) for number in rng.integers(2**31, size=2))
            agent.add_answer(policy.predict_detailed([observation | agent.told() | {"random_key": key}]), 0)
        action = agent.next_action()
        observation, success = step(action, policy.views if agent.needs_observation else ())
        if success:
            return None
    return action
