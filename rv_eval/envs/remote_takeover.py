"""Demonstrations that a policy begins, see takeover.py, in an environment that lives elsewhere."""

from dataclasses import asdict, dataclass

import numpy as np

from rv_eval.envs.base import Description, Reply
from rv_eval.envs.remote import RemoteEnvironment
from rv_eval.envs.takeover import ByPolicy, WithPolicy, act, draw_steps
from rv_eval.playing.demonstrations import Begin, DemoSettings, NoDemo, TaskRecorder
from rv_eval.policy import Policy


@dataclass(frozen=True)
class TakeoverSettings(ByPolicy, DemoSettings):
    """Everything a demonstration depends on but its task and number."""


class TakeoverRecorder(WithPolicy, TaskRecorder):
    """Records demonstrations some of which a policy begins."""

    settings: TakeoverSettings

    def takeover(self, env: RemoteEnvironment, rng: np.random.Generator) -> Begin | None:
        if not self.policy_begins(rng):
            return None
        return lambda reply: begin_by_policy(env, self.policy, reply, rng, self.timeout_s)


def with_policy(settings: DemoSettings, env: Description, takeover: float, model_path: str) -> TakeoverSettings:
    """The settings, with the policy; BadInput as `ByPolicy.find`."""
    about = ByPolicy.find(env, settings.render, settings.resolution, takeover, model_path)
    return TakeoverSettings(**asdict(settings), **asdict(about))


def begin_by_policy(
    env: RemoteEnvironment, policy: Policy, reply: Reply, rng: np.random.Generator, timeout_s: float
) -> tuple[Reply, int]:
    """Let the policy act for a random while; see `Begin`."""
    num_steps, gone = draw_steps(rng, env.task.max_steps), 0

    def step(action, views):
        nonlocal reply, gone
        gone += 1
        env.act(action, env.description.views if views or gone == num_steps else ())
        reply = env.wait(timeout_s)
        return reply.observation, reply.success

    if act(policy, env.description.actions, reply.observation, step, num_steps, rng) is None:
        raise NoDemo("the policy solved the task")
    return reply, gone
