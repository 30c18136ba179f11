"""Many demonstrations of a LIBERO task by its scripted expert, in LIBERO's layout."""

from dataclasses import dataclass

import numpy as np

from libs.libero_sim.env import LiberoEnv
from libs.libero_sim.recording import StartVariation, file_attrs, observe_states, record_expert, write_demo
from libs.libero_sim.suites import get_task
from libs.robosuite_sim.collection import ExpertJob, ExpertWorker
from libs.robosuite_sim.recording import Recording


@dataclass(frozen=True)
class Settings:
    """Everything the content of a demo file depends on, except the number of demos."""

    task_suite: str
    task_id: int
    resolution: int
    render: str
    seed: int
    start_noise: float
    start_near: float
    start_late: float


class DemoWorker(ExpertWorker):
    """Makes the attempts of one LIBERO task."""

    env: LiberoEnv

    def __init__(self, settings: Settings) -> None:
        task = get_task(settings.task_suite, settings.task_id)
        super().__init__(LiberoEnv(task, settings.resolution, settings.render), settings)

    def entropy(self) -> tuple[int, ...]:
        return (self.settings.task_id,)

    def record(self, seed: int, rng: np.random.Generator) -> tuple[int, Recording | None]:
        start = StartVariation(self.settings.start_noise, self.settings.start_near, self.settings.start_late)
        return seed, record_expert(self.env, seed, rng, start, self.takeover(rng))

    def write(self, path: str, data_attrs: dict, recording: Recording, attrs: dict) -> None:
        attrs = {"model_file": self.env.model_xml(), "init_state": recording.states[0], **attrs}
        obs = observe_states(self.env, recording.states)
        write_demo(path, file_attrs(self.env) | data_attrs, recording.actions, recording.states, obs, attrs)


class TaskJob(ExpertJob):
    """The attempts of a LIBERO task's expert."""

    WORKER = "libs.libero_sim.collection:DemoWorker"
