"""Many demonstrations of a task: numbered attempts of its scripted expert, the first successes by number."""

import abc
import json
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from libs.demo_hdf5 import DemoFile, merge_files
from libs.demo_hdf5.schema import json_object
from libs.errors import BadInput
from libs.robosuite_sim.env import RobosuiteEnv
from libs.robosuite_sim.pool import Job
from libs.robosuite_sim.recording import Recording, Start

ATTEMPTS_PER_DEMO = 5  # an expert that succeeds more rarely is broken
ATTEMPT_TIMEOUT_S = 600.0


class ExpertWorker(abc.ABC):
    """Runs in a simulator process: makes the attempts of one task's expert.

    settings: a dataclass with `seed` and `render`: everything that a demo depends on but its number.
    """

    def __init__(self, env: RobosuiteEnv, settings: Any) -> None:
        self.env, self.settings = env, settings

    @abc.abstractmethod
    def entropy(self) -> tuple[int, ...]:
        """Numbers that tell the task from every other one."""

    @abc.abstractmethod
    def record(self, seed: int, rng: np.random.Generator) -> tuple[int, Recording | None]:
        """Make the attempt. seed: of 32 bits, drawn for the reset. Returns the seed that it used."""

    def takeover(self, rng: np.random.Generator) -> Start | None:
        """Where this attempt begins instead of where the settings say: nowhere, unless a worker knows better."""
        return None

    @abc.abstractmethod
    def write(self, path: str, data_attrs: dict, recording: Recording, attrs: dict) -> None:
        """Write a demo file of one demo, more attributes of the layout included."""

    def attempt(self, number: int, path: str) -> bool:
        """Make attempt `number`; a success is written to `path` as a demo file of one demo."""
        suite_number = zlib.crc32(self.env.task.suite.encode())
        entropy = (self.settings.seed, suite_number, *self.entropy(), number)
        placement, variation = np.random.SeedSequence(entropy).spawn(2)
        drawn = int(placement.generate_state(1)[0])
        seed, recording = self.record(drawn, np.random.default_rng(variation))
        if recording is None:
            return False
        attrs = {"start_gripper": recording.start_gripper, "seed": seed, "attempt": number}
        self.write(path, {"collection": json.dumps(asdict(self.settings))}, recording, attrs)
        return True

    def close(self) -> None:
        self.env.close()


class ExpertJob(Job):
    """The attempts of one expert. The demo file holds the first `num_demos` successes by attempt number.

    A finished attempt is a part NUMBER.hdf5 or, for a failure, NUMBER.failed; its result is its success. A file says
    in its attribute "collection" with which settings it was made.
    """

    PIECE = "attempt"

    def __init__(self, task: Any, settings: Any, num_demos: int, out: Path) -> None:
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
