"""Numbered pieces of work in simulator processes, finished ones on disk, merged in the end.

A piece depends on its number and the settings only, and a file on its pieces in the order of their numbers, so
the result depends neither on interruptions nor on how many processes there are.
"""

import abc
import contextlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from libs.errors import BadInput
from libs.files import make_folder, read_json_object
from libs.jobs import lock
from libs.robosuite_sim.gl import tell_gl
from libs.robosuite_sim.remote import RemoteObject, SimCrash, SimStartFailed, SimTimeout

MAX_INCIDENTS = 3  # crashes and hangs of the simulator that one piece may survive
RECYCLE_AFTER = 200  # pieces after which a simulator process is replaced: renderers wear out


class Job(abc.ABC):
    """One demo file and the numbered pieces that it needs: which are finished (on disk), which run, which are missing.

    settings: a dataclass, everything that the pieces depend on but their numbers. num_demos: demos that are wanted; for
    the progress only. WORKER: "module:class" of the object, made with `settings` in a simulator process, whose
    `attempt(*request)` does a piece and writes its part. Parts stand in `parts` until the file is complete; BadInput
    where they, or the file, were made with other settings.
    """

    WORKER: str
    PIECE: str  # what a piece is called in messages

    def __init__(self, path: Path, settings: Any, num_demos: int) -> None:
        self.path, self.settings, self.num_demos = path, settings, num_demos
        self.name = path.stem.removesuffix("_demo")
        self.parts = path.parent / ".parts" / self.name
        self.running: set[int] = set()
        self.finished: dict[int, Any] = {}  # number -> what its worker returned
        self.complete = path.exists()
        if self.complete:
            self.read_file()
        elif self.parts.exists():
            self.check_same(read_json_object(self.parts / "settings.json"), self.parts)
            self.finished = self.read_parts()

    @property
    @abc.abstractmethod
    def num_done(self) -> int:
        """Demos that are done, of `num_demos`."""

    @property
    @abc.abstractmethod
    def num_failed(self) -> int:
        """Finished pieces that brought no demo."""

    @abc.abstractmethod
    def read_file(self) -> None:
        """Check that the complete file is what this job would make, and learn what is needed of it."""

    @abc.abstractmethod
    def read_parts(self) -> dict:
        """The finished pieces on disk: number -> result."""

    @abc.abstractmethod
    def next_number(self) -> int | None:
        """The next piece to start, None if no further one is needed now."""

    @abc.abstractmethod
    def request(self, number: int) -> tuple:
        """The arguments of the worker's `attempt`."""

    @abc.abstractmethod
    def time_limit_s(self, number: int) -> float:
        """A piece that takes longer hangs."""

    @abc.abstractmethod
    def keep(self, number: int, result: Any) -> None:
        """Put on disk what is to be known of a finished piece besides the part that its worker wrote."""

    @abc.abstractmethod
    def merge(self) -> bool:
        """Make the file of the parts; False if there is none to be made."""

    def begin(self) -> None:
        """Make the folder of the parts (with its settings, at once), or end what a kill left nearly done."""
        if not self.complete and not self.parts.exists():
            beside = self.parts.with_name(self.parts.name + ".tmp")
            make_folder(beside)
            (beside / "settings.json").write_text(json.dumps(asdict(self.settings)))
            beside.rename(self.parts)
        self._end_if_possible()

    def part(self, number: int, suffix: str = ".hdf5") -> Path:
        return self.parts / f"{number:05d}{suffix}"

    def finish(self, number: int, result: Any) -> None:
        """Piece `number` ended and its part is on disk. The last one brings the demo file."""
        self.running.discard(number)
        self.keep(number, result)
        self.finished[number] = result
        self._end_if_possible()

    def check_same(self, found: dict, where: Path) -> None:
        """BadInput, naming what differs, where `found` are other settings than this job's."""
        wanted = asdict(self.settings)
        different = [
            f"{key} {found.get(key)!r}, not {wanted.get(key)!r}"
            for key in {**wanted, **found}
            if found.get(key) != wanted.get(key)
        ]
        if different:
            raise BadInput(f"{where} was made with {'; '.join(different)}: choose another --out")

    def _end_if_possible(self) -> None:
        """Make the file if every piece it depends on is finished, and remove the parts of a complete one."""
        if not self.complete and not self.running and self.next_number() is None:
            self.complete = self.merge()
        if self.complete:
            shutil.rmtree(self.parts, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.parts.parent.rmdir()  # unless other files still need it


def run_jobs(
    jobs: Sequence[Job],
    num_workers: int,
    progress: Callable[[Job], None],
    make_worker: Callable[[Job], RemoteObject] | None = None,
) -> None:
    """Work in `num_workers` simulator processes until no job needs a further piece.

    progress: called with its job after each piece. make_worker: Job -> RemoteObject; None makes the job's own.
    What a job or a worker raises as BadInput ends the call; so does, as BadInput, another process that is at one of the
    jobs, or a worker that cannot be made before any has done a piece, and, as RuntimeError, a piece during which the
    simulator crashed or hung again and again. Stopped by an exception, it leaves the finished pieces for another call.
    """
    slots, held = [_Slot(make_worker or _own_worker) for _ in range(num_workers)], contextlib.ExitStack()
    incidents: dict[tuple[Path, int], int] = {}  # (job's path, number) -> crashes and hangs so far
    proven = False  # simulators can be started here
    try:
        for job in jobs:
            job.begin()
            if not job.complete:
                held.enter_context(lock(job.parts, f"{job.path} is in use: another process makes it"))
        while busy := [slot for slot in slots if slot.busy or slot.assign(jobs)]:
            # whatever has a fileno can be waited for
            wait(busy, timeout=max(0.0, min(slot.deadline for slot in busy) - time.monotonic()))  # type: ignore[arg-type]
            for slot in busy:
                try:
                    ended = slot.receive()
                except (SimCrash, SimTimeout) as error:
                    if isinstance(error, SimStartFailed) and not proven:
                        raise BadInput(f"the simulator cannot be started: {error}") from error
                    _count_incident(incidents, slot, error)
                else:
                    if ended is not None:
                        proven = True
                        progress(ended)
    finally:
        for slot in slots:
            slot.close()
        held.close()


def run_with_bar(jobs: Sequence[Job], num_workers: int) -> None:
    """run_jobs for a command line: OpenGL made ready, a progress bar, Ctrl-C without a traceback (exit code 130)."""
    if any(job.next_number() is not None for job in jobs):
        tell_gl()
    total = sum(job.num_demos for job in jobs)
    done = sum(job.num_done for job in jobs)
    with tqdm(total=total, initial=done, unit="demo", smoothing=0, dynamic_ncols=True) as bar:

        def progress(_):
            bar.set_postfix(failed=sum(job.num_failed for job in jobs), refresh=False)
            bar.update(sum(job.num_done for job in jobs) - bar.n)

        try:
            run_jobs(jobs, num_workers, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command continues") from None


def _own_worker(job: Job) -> RemoteObject:
    return RemoteObject(job.WORKER, {"settings": job.settings})


def _count_incident(incidents: dict, slot: "_Slot", error: RuntimeError) -> None:
    """The piece is done again in a new process, a few times."""
    job, number = slot.give_up()
    key = job.path, number
    incidents[key] = incidents.get(key, 0) + 1
    if incidents[key] >= MAX_INCIDENTS:
        raise RuntimeError(
            f"{job.name}, {job.PIECE} {number}: the simulator failed {incidents[key]} times, last: {error}"
        ) from error


class _Slot:
    """One simulator process and the piece it is busy with."""

    def __init__(self, make_worker: Callable[[Job], RemoteObject]):
        self._make_worker = make_worker
        self._remote: RemoteObject | None = None
        self._job: Job | None = None
        self._number: int | None = None
        self._used = 0
        self._limit_s = self.deadline = 0.0

    @property
    def busy(self) -> bool:
        return self._number is not None

    def fileno(self) -> int:
        return self._work[0].fileno()

    @property
    def _work(self) -> tuple[RemoteObject, Job, int]:
        """The process, and the piece that it is busy with."""
        assert self._remote is not None and self._job is not None and self._number is not None
        return self._remote, self._job, self._number

    def assign(self, jobs: Sequence[Job]) -> bool:
        """Start a piece of the present job, else of the one with the fewest helpers; False if none is needed now."""
        for job in sorted(jobs, key=lambda job: (job is not self._job, len(job.running))):
            if (number := job.next_number()) is not None:
                self._start(job, number)
                return True
        return False

    def receive(self) -> Job | None:
        """The job of a piece that ended just now, else None. SimCrash or SimTimeout if it failed."""
        remote, job, number = self._work
        if not wait([remote], timeout=0.0):  # type: ignore[list-item]  # it has a fileno
            if time.monotonic() < self.deadline:
                return None
            raise SimTimeout(f"no answer within {self._limit_s:g} s")
        result = remote.recv()
        self._number = None
        job.finish(number, result)
        return job

    def give_up(self) -> tuple[Job, int]:
        """Kill the process; the piece that it was busy with is no longer running."""
        _, job, number = self._work
        self._number = None
        job.running.discard(number)
        self.close()
        return job, number

    def close(self) -> None:
        if self._remote is not None:
            self._remote.kill()
        self._remote = None

    def _start(self, job: Job, number: int) -> None:
        if self._remote is None or self._job is not job or self._used >= RECYCLE_AFTER:
            self._renew(job)
        self._job, self._number = job, number
        self._limit_s = job.time_limit_s(number)
        self.deadline = time.monotonic() + self._limit_s
        job.running.add(number)
        try:
            self._work[0].send("attempt", *job.request(number))
        except SimCrash:  # the process died while it had nothing to do
            self._renew(job)
            self._work[0].send("attempt", *job.request(number))
        self._used += 1

    def _renew(self, job: Job) -> None:
        self.close()
        self._remote = self._make_worker(job)
        self._used = 0
