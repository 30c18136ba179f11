"""Many demonstrations of a task: numbered attempts of its scripted expert, the first successes by number."""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from libs.demo_hdf5 import DemoFile, merge_files
from libs.errors import BadInput
from libs.libero_sim.env import LiberoEnv
from libs.libero_sim.pool import Job
from libs.libero_sim.recording import (
    StartVariation,
    file_attrs,
    json_object,
    observe_states,
    record_expert,
    write_demo,
)
from libs.libero_sim.suites import get_task

ATTEMPTS_PER_DEMO = 5  # an expert that succeeds more rarely is broken
ATTEMPT_TIMEOUT_S = 600.0


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


class DemoWorker:
    """Runs in a simulator process: makes the attempts of one task."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.task = get_task(settings.task_suite, settings.task_id)
        self.env = LiberoEnv(self.task, settings.resolution, settings.render)

    def attempt(self, number: int, path: str) -> bool:
        """Make attempt `number`; a success is written to `path` as a demo file of one demo."""
        suite_number = zlib.crc32(self.settings.task_suite.encode())
        entropy = (self.settings.seed, suite_number, self.settings.task_id, number)
        placement, variation = np.random.SeedSequence(entropy).spawn(2)
        env_seed = int(placement.generate_state(1)[0])
        start = StartVariation(self.settings.start_noise, self.settings.start_near, self.settings.start_late)
        recording = record_expert(self.env, env_seed, np.random.default_rng(variation), start)
        if recording is None:
            return False
        attrs = {
            "model_file": self.env.model_xml(),
            "init_state": recording.states[0],
            "start_gripper": recording.start_gripper,
            "seed": env_seed,
            "attempt": number,
        }
        obs = observe_states(self.env, recording.states)
        data_attrs = {**file_attrs(self.env), "collection": json.dumps(asdict(self.settings))}
        write_demo(path, data_attrs, recording.actions, recording.states, obs, attrs)
        return True

    def close(self) -> None:
        self.env.close()


class ExpertJob(Job):
    """The attempts of one expert. The demo file holds the first `num_demos` successes by attempt number.

    A finished attempt is a part NUMBER.hdf5 or, for a failure, NUMBER.failed; its result is its success. A file says
    in its attribute "collection" with which settings it was made.
    """

    PIECE = "attempt"

    def __init__(self, task, settings, num_demos: int, out: Path):
        self.task = task
        super().__init__(out / f"{task.name}_demo.hdf5", settings, num_demos)

    @property
    def num_done(self) -> int:
        return self.num_demos if self.complete else min(self.num_demos, sum(self.finished.values()))

    @property
    def num_failed(self) -> int:
        return sum(not success for success in self.finished.values())

    def open_file(self) -> DemoFile:
        """The complete file."""
        return DemoFile(self.path)

    def read_file(self) -> None:
        demos = self.open_file()
        self.check_same(json_object(demos.attrs, "collection"), self.path)
        if len(demos.demos) != self.num_demos:
            raise BadInput(
                f"{self.path} exists with {len(demos.demos)} demos, not {self.num_demos}: choose another --out"
            )

    def read_parts(self) -> dict[int, bool]:
        failed = {int(path.stem): False for path in self.parts.glob("*.failed")}
        return {int(path.stem): True for path in self.parts.glob("*.hdf5")} | failed

    def next_number(self) -> int | None:
        """The lowest attempt that is needed if all running ones succeed. BadInput after too many."""
        number = hopeful = 0
        while not self.complete and hopeful < self.num_demos:
            if number >= ATTEMPTS_PER_DEMO * self.num_demos:
                raise BadInput(
                    f"the expert of {self.task.suite} task {self.task.task_id} ({self.task.name}) succeeded "
                    f"only {sum(self.finished.values())} times in {number} attempts"
                )
            if number not in self.finished and number not in self.running:
                return number
            hopeful += self.finished.get(number, True)
            number += 1
        return None

    def request(self, number: int) -> tuple:
        return number, str(self.part(number))

    def time_limit_s(self, number: int) -> float:
        return ATTEMPT_TIMEOUT_S

    def keep(self, number: int, result: bool) -> None:
        if not result:
            self.part(number, ".failed").touch()

    def merge(self) -> bool:
        successes = [number for number, success in sorted(self.finished.items()) if success]
        merge_files(self.path, [self.part(number) for number in successes[: self.num_demos]])
        return True


class TaskJob(ExpertJob):
    """The attempts of a LIBERO task's expert."""

    WORKER = "libs.libero_sim.collection:DemoWorker"
