"""Demonstrations of LIBERO that a policy begins, see takeover.py."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from libs.libero_sim.collection import DemoWorker, Settings, TaskJob
from rv_eval.envs.libero import DESCRIPTION
from rv_eval.envs.takeover import Takeover, about_policy


@dataclass(frozen=True)
class TakeoverSettings(Settings):
    """See `about_policy`."""

    takeover: float
    model_path: str
    weights_sha256: str


class TakeoverWorker(Takeover, DemoWorker):
    """Makes the attempts of one LIBERO task."""


class TakeoverJob(TaskJob):
    """The attempts of a LIBERO task's expert."""

    WORKER = "rv_eval.envs.libero_takeover:TakeoverWorker"


def with_policy(jobs: Sequence[TaskJob], out: Path, takeover: float, model_path: str) -> list[TaskJob]:
    """The same jobs, a share `takeover` of whose attempts the policy of `model_path` begins; BadInput as
    `about_policy`."""
    about = about_policy(DESCRIPTION, jobs[0].settings.render, takeover, model_path)
    return [
        TakeoverJob(job.task, TakeoverSettings(**asdict(job.settings), **about), job.num_demos, out) for job in jobs
    ]
