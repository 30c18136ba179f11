"""Demonstrations of cube stacking that a policy begins, see takeover.py."""

from dataclasses import asdict, dataclass
from pathlib import Path

from libs.stack_sim.collection import StackJob, StackSettings, StackWorker
from rv_eval.envs.stack import DESCRIPTION
from rv_eval.envs.takeover import Takeover, about_policy


@dataclass(frozen=True)
class TakeoverSettings(StackSettings):
    """See `about_policy`."""

    takeover: float
    model_path: str
    weights_sha256: str


class TakeoverWorker(Takeover, StackWorker):
    """Makes the attempts at stacking."""


class TakeoverJob(StackJob):
    """The attempts of the stacking expert."""

    WORKER = "rv_eval.envs.stack_takeover:TakeoverWorker"


def with_policy(job: StackJob, out: Path, takeover: float, model_path: str) -> StackJob:
    """The same job, a share `takeover` of whose attempts the policy of `model_path` begins; BadInput as
    `about_policy`."""
    about = about_policy(DESCRIPTION, job.settings.render, takeover, model_path)
    return TakeoverJob(job.task, TakeoverSettings(**asdict(job.settings), **about), job.num_demos, out)
