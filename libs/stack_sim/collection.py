"""Many stacking demonstrations: numbered attempts of the scripted expert, the first successes by number."""

import json
import zlib
from dataclasses import asdict, dataclass

import numpy as np

from libs.demo_hdf5 import DemoFile, KeyMap
from libs.libero_sim.collection import ExpertJob
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


class StackWorker:
    """Runs in a simulator process: makes the attempts."""

    def __init__(self, settings: StackSettings):
        self.settings = settings
        self.env = StackEnv(StackTask(), settings.resolution, settings.render)

    def attempt(self, number: int, path: str) -> bool:
        """Make attempt `number`; a success is written to `path` as a demo file of one demo."""
        entropy = (self.settings.seed, zlib.crc32(self.env.task.suite.encode()), number)
        placement, variation = np.random.SeedSequence(entropy).spawn(2)
        seed = demo_seed(int(placement.generate_state(1)[0]))
        recording = record_expert(self.env, seed, np.random.default_rng(variation), self.settings.start_late)
        if recording is None:
            return False
        attrs = {
            "model_file": self.env.model_xml(),
            "start_gripper": recording.start_gripper,
            "seed": seed,
            "attempt": number,
        }
        data_attrs = {**file_attrs(self.env), "collection": json.dumps(asdict(self.settings))}
        write_demo(path, data_attrs, recording, observe_states(self.env, recording.states), attrs)
        return True

    def close(self) -> None:
        self.env.close()


class StackJob(ExpertJob):
    """The attempts of the stacking expert."""

    WORKER = "libs.stack_sim.collection:StackWorker"

    def open_file(self) -> DemoFile:
        return DemoFile(self.path, KeyMap.find("isaac_cosmos"))
