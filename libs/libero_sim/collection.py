"""Many demonstrations: numbered attempts in simulator processes, finished ones on disk, merged in the end.

An attempt depends on its number and the settings only, and a file holds the first successes by number, so
the result depends neither on interruptions nor on how many processes there are.
"""

import contextlib
import json
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from libs.demo_hdf5 import Demo, DemoFile, DemoWriter, merge_files
from libs.libero_sim.env import LiberoEnv
from libs.libero_sim.recording import StartVariation, observe_states, record_expert
from libs.libero_sim.remote import RemoteObject, SimCrash, SimTimeout
from libs.libero_sim.suites import LiberoTask, get_task

ATTEMPTS_PER_DEMO = 5  # an expert that succeeds more rarely is broken
ATTEMPT_TIMEOUT_S = 600.0
MAX_INCIDENTS = 3  # crashes and hangs of the simulator that one attempt may survive
RECYCLE_AFTER = 200  # attempts after which a simulator process is replaced: renderers wear out


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
        last = np.zeros(len(recording.actions), dtype=np.uint8)
        last[-1] = 1
        demo = Demo(
            actions=recording.actions,
            states=recording.states,
            robot_states=obs.pop("robot_states"),
            rewards=last,
            dones=last,
            obs=obs,
            attrs=attrs,
        )
        with DemoWriter(path, self._file_attrs()) as writer:
            writer.add(demo)
        return True

    def close(self) -> None:
        self.env.close()

    def _file_attrs(self) -> dict:
        name = type(self.env.robosuite_env).__name__
        camera = {"camera_heights": self.settings.resolution, "camera_widths": self.settings.resolution}
        robot = {"robots": ["Panda"], "control_freq": self.env.robosuite_env.control_freq}
        info = {"problem_name": name.lower(), "language_instruction": self.task.instruction}
        bddl = Path(self.task.bddl_file)
        env_args = {"type": 1, "env_name": name, "bddl_file": bddl.name, "env_kwargs": {**robot, **camera}}
        return {
            "env_name": name,
            "problem_info": json.dumps(info),
            "bddl_file_name": f"bddl_files/{bddl.parent.name}/{bddl.name}",
            "bddl_file_content": bddl.read_text(),
            "env_args": json.dumps(env_args),
            "render": self.settings.render,
            "resolution": self.settings.resolution,
            "collection": json.dumps(asdict(self.settings)),
        }


class TaskJob:
    """The attempts of one task: which are finished (on disk), which run, which are needed.

    The demo file holds the first `num_demos` successes by attempt number. A finished attempt is a file in
    `parts`: NUMBER.hdf5 or, for a failure, NUMBER.failed.
    """

    def __init__(self, task: LiberoTask, settings: Settings, num_demos: int, out: Path):
        self.task, self.settings, self.num_demos = task, settings, num_demos
        self.path = out / f"{task.name}_demo.hdf5"
        self.parts = out / ".parts" / task.name
        self.running = set()
        self.finished = {}  # attempt number -> success
        self.complete = self.path.exists()
        if self.complete:
            self._check_same(json.loads(DemoFile(self.path).attrs.get("collection", "{}")), self.path)
            count = len(DemoFile(self.path).demos)
            if count != num_demos:
                raise ValueError(f"{self.path} exists with {count} demos, not {num_demos}: choose another --out")
        elif self.parts.exists():
            self._check_same(json.loads((self.parts / "settings.json").read_text()), self.parts)
            self.finished = {int(p.stem): True for p in self.parts.glob("*.hdf5")}
            self.finished |= {int(p.stem): False for p in self.parts.glob("*.failed")}

    def begin(self) -> None:
        """Make the folder of the parts (with its settings, at once), or end what a kill left nearly done."""
        if not self.complete and not self.parts.exists():
            beside = self.parts.with_name(self.parts.name + ".tmp")
            beside.mkdir(parents=True, exist_ok=True)
            (beside / "settings.json").write_text(json.dumps(asdict(self.settings)))
            beside.rename(self.parts)
        self._merge_if_enough()
        self._tidy()

    @property
    def num_done(self) -> int:
        """Demos that are done, of `num_demos`."""
        return self.num_demos if self.complete else min(self.num_demos, sum(self.finished.values()))

    def next_attempt(self) -> int | None:
        """The lowest attempt that is needed if all running ones succeed. ValueError after too many."""
        number = hopeful = 0
        while not self.complete and hopeful < self.num_demos:
            if number >= ATTEMPTS_PER_DEMO * self.num_demos:
                raise ValueError(
                    f"the expert of {self.task.suite} task {self.task.task_id} ({self.task.name}) succeeded "
                    f"only {sum(self.finished.values())} times in {number} attempts"
                )
            if number not in self.finished and number not in self.running:
                return number
            hopeful += self.finished.get(number, True)
            number += 1
        return None

    def part(self, number: int, suffix: str = ".hdf5") -> Path:
        return self.parts / f"{number:05d}{suffix}"

    def finish(self, number: int, success: bool) -> None:
        """Attempt `number` ended; its part is on disk if it succeeded. The last one brings the demo file."""
        self.running.discard(number)
        if not success:
            self.part(number, ".failed").touch()
        self.finished[number] = success
        self._merge_if_enough()
        self._tidy()

    def _merge_if_enough(self) -> None:
        """Write the demo file if every attempt it depends on is finished."""
        if self.complete or self.running or self.next_attempt() is not None:
            return
        successes = [number for number, success in sorted(self.finished.items()) if success]
        merge_files(self.path, [self.part(number) for number in successes[: self.num_demos]])
        self.complete = True

    def _tidy(self) -> None:
        """Remove the parts of a complete file."""
        if self.complete:
            shutil.rmtree(self.parts, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.parts.parent.rmdir()  # unless other tasks still need it

    def _check_same(self, found: dict, where: Path) -> None:
        wanted = asdict(self.settings)
        different = [
            f"{key} {found.get(key)!r}, not {wanted[key]!r}" for key in wanted if found.get(key) != wanted[key]
        ]
        if different:
            raise ValueError(f"{where} was collected with {'; '.join(different)}: choose another --out")


def collect(jobs: list[TaskJob], num_workers: int, progress: Callable[[TaskJob], None], make_worker=None) -> None:
    """Make attempts in `num_workers` simulator processes until every job is complete.

    progress: called with its job after each attempt. make_worker: Settings -> RemoteObject with the method
    `attempt(number, path)`; None makes a DemoWorker. ValueError for an expert that fails too often, OSError
    for an attempt during which the simulator crashed or hung again and again. Stopped by an exception, it
    leaves the finished attempts for another call.
    """
    for job in jobs:
        job.begin()
    slots = [_Slot(make_worker or _demo_worker) for _ in range(num_workers)]
    incidents = {}  # (job's path, attempt) -> crashes and hangs so far
    try:
        while busy := [slot for slot in slots if slot.busy or slot.assign(jobs)]:
            wait(busy, timeout=max(0.0, min(slot.deadline for slot in busy) - time.monotonic()))
            for slot in busy:
                try:
                    ended = slot.receive()
                except (SimCrash, SimTimeout) as error:
                    _count_incident(incidents, slot, error)
                else:
                    if ended is not None:
                        progress(ended)
    finally:
        for slot in slots:
            slot.close()


def _demo_worker(settings: Settings) -> RemoteObject:
    factory = "libs.libero_sim.collection:DemoWorker"
    return RemoteObject(factory, {"settings": settings}, timeout_s=ATTEMPT_TIMEOUT_S)


def _count_incident(incidents: dict, slot: "_Slot", error: RuntimeError) -> None:
    """The attempt is made again in a new process, a few times."""
    job, number = slot.give_up()
    key = job.path, number
    incidents[key] = incidents.get(key, 0) + 1
    if incidents[key] >= MAX_INCIDENTS:
        raise OSError(
            f"{job.task.name}, attempt {number}: the simulator failed {incidents[key]} times, last: {error}"
        ) from error


class _Slot:
    """One simulator process and the attempt it is busy with."""

    def __init__(self, make_worker: Callable[[Settings], RemoteObject]):
        self._make_worker = make_worker
        self._remote = self._job = self._number = None
        self._used = 0
        self.deadline = 0.0

    @property
    def busy(self) -> bool:
        return self._number is not None

    def fileno(self) -> int:
        return self._remote.fileno()

    def assign(self, jobs: list[TaskJob]) -> bool:
        """Start an attempt of some job, of the present one if possible; False if none is needed now."""
        for job in sorted(jobs, key=lambda job: job is not self._job):
            if (number := job.next_attempt()) is not None:
                self._start(job, number)
                return True
        return False

    def receive(self) -> TaskJob | None:
        """The job of an attempt that ended just now, else None. SimCrash or SimTimeout if it failed."""
        if not wait([self._remote], timeout=0.0):
            if time.monotonic() < self.deadline:
                return None
            raise SimTimeout(f"no answer within {ATTEMPT_TIMEOUT_S:g} s")
        success = self._remote.recv()
        job, number = self._job, self._number
        self._number = None
        job.finish(number, success)
        return job

    def give_up(self) -> tuple[TaskJob, int]:
        """Kill the process; the attempt that it was busy with is no longer running."""
        number, self._number = self._number, None
        self._job.running.discard(number)
        self.close()
        return self._job, number

    def close(self) -> None:
        if self._remote is not None:
            self._remote.kill()
        self._remote = None

    def _start(self, job: TaskJob, number: int) -> None:
        if self._remote is None or self._job is not job or self._used >= RECYCLE_AFTER:
            self._renew(job)
        self._job, self._number = job, number
        self.deadline = time.monotonic() + ATTEMPT_TIMEOUT_S
        job.running.add(number)
        try:
            self._remote.send("attempt", number, str(job.part(number)))
        except SimCrash:  # the process died while it had nothing to do
            self._renew(job)
            self._remote.send("attempt", number, str(job.part(number)))
        self._used += 1

    def _renew(self, job: TaskJob) -> None:
        self.close()
        self._remote = self._make_worker(job.settings)
        self._used = 0
