"""Demonstrations of LIBERO that a policy begins, see takeover.py."""

from dataclasses import asdict, dataclass

from libs.libero_sim.collection import DemoWorker, Settings, TaskJob
from rv_eval.envs.libero import DESCRIPTION
from rv_eval.envs.robosuite_takeover import Takeover
from rv_eval.envs.takeover import ByPolicy


@dataclass(frozen=True)
class TakeoverSettings(ByPolicy, Settings):
    """Everything the content of a demo file depends on, except the number of demos."""


class TakeoverWorker(Takeover, DemoWorker):
    """Makes the attempts of one LIBERO task."""


class TakeoverJob(TaskJob):
    """The attempts of a LIBERO task's expert."""

    WORKER = "rv_eval.envs.libero_takeover:TakeoverWorker"


def with_policy(settings: list[Settings], takeover: float, model_path: str) -> list[Settings]:
    """The settings of several tasks, with the policy; BadInput as `ByPolicy.find`."""
    about = asdict(ByPolicy.find(DESCRIPTION, settings[0].render, settings[0].resolution, takeover, model_path))
    return [TakeoverSettings(**asdict(one), **about) for one in settings]
