"""Many stacking demonstrations by the scripted expert, in Isaac Lab's layout."""

from dataclasses import dataclass

import numpy as np

from libs.demo_hdf5 import DemoFile, KeyMap
from libs.robosuite_sim.collection import ExpertJob, ExpertWorker
from libs.robosuite_sim.recording import Recording
from libs.stack_sim.env import StackEnv
from libs.stack_sim.recording import file_attrs, observe_states, record_expert, write_demo
from libs.stack_sim.task import StackTask, demo_seed


@dataclass(frozen=True)
class StackSettings:
    """Everything the content of a demo file depends on, except the number of demos."""

    resolution: int
    render: str
    seed: int
    start_late: float


class StackWorker(ExpertWorker):
    """Makes the attempts at stacking."""

    env: StackEnv

    def __init__(self, settings: StackSettings) -> None:
        super().__init__(StackEnv(StackTask(), settings.resolution, settings.render), settings)

    def entropy(self) -> tuple[int, ...]:
        return ()

    def record(self, seed: int, rng: np.random.Generator) -> tuple[int, Recording | None]:
        seed = demo_seed(seed)
        return seed, record_expert(self.env, seed, rng, self.settings.start_late, self.takeover(rng))

    def write(self, path: str, data_attrs: dict, recording: Recording, attrs: dict) -> None:
        attrs = {"model_file": self.env.model_xml(), **attrs}
        obs = observe_states(self.env, recording.states)
        write_demo(path, file_attrs(self.env) | data_attrs, recording, obs, attrs)


class StackJob(ExpertJob):
    """The attempts of the stacking expert."""

    WORKER = "libs.stack_sim.collection:StackWorker"

    def open_file(self) -> DemoFile:
        return DemoFile(self.path, KeyMap.find("isaac_cosmos"))
