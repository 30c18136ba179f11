"""Demonstrations of cube stacking that a policy begins, see takeover.py."""

from dataclasses import asdict, dataclass

from libs.stack_sim.collection import StackJob, StackSettings, StackWorker
from rv_eval.envs.robosuite_takeover import Takeover
from rv_eval.envs.stack import DESCRIPTION
from rv_eval.envs.takeover import ByPolicy


@dataclass(frozen=True)
class TakeoverSettings(ByPolicy, StackSettings):
    """Everything the content of a demo file depends on, except the number of demos."""


class TakeoverWorker(Takeover, StackWorker):
    """Makes the attempts at stacking."""


class TakeoverJob(StackJob):
    """The attempts of the stacking expert."""

    WORKER = "rv_eval.envs.stack_takeover:TakeoverWorker"


def with_policy(settings: StackSettings, takeover: float, model_path: str) -> StackSettings:
    """The settings, with the policy; BadInput as `ByPolicy.find`."""
    about = ByPolicy.find(DESCRIPTION, settings.render, settings.resolution, takeover, model_path)
    return TakeoverSettings(**asdict(settings), **asdict(about))
