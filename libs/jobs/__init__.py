"""Long work in a folder: one process at a time holds the folder, its independent jobs run in as many as wanted."""

import concurrent.futures
import contextlib
import fcntl
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TextIO, TypeVar

from libs.errors import BadInput
from libs.files import make_folder, named_path

T = TypeVar("T")

LOCK = "lock"
KILL_S = 10.0
AHEAD = 4  # jobs per process that are handed out in advance


@contextlib.contextmanager
def held_folder(folder: Path | str, in_use: str) -> Iterator[Path]:
    """The folder, made where it does not exist, and held: no other process is in here with it at the same time.

    in_use: what is said where another process holds it, which is BadInput.
    """
    folder = make_folder(folder)
    with lock(folder, in_use):
        yield folder


def lock(folder: Path | str, in_use: str, wait_s: float = 0.0) -> TextIO:
    """Take a folder for this process: an open file, closing it gives the folder back.

    The lock is the kernel's (POSIX), so it goes with its process, however that ends, and child processes do not inherit
    it. File systems without locks go without.

    wait_s: how long another process that holds it is waited for; then BadInput, which says `in_use`. BadInput, too,
    where this process may not write there.
    """
    with named_path(folder, "written"):
        file = open(Path(folder) / LOCK, "a")  # noqa: SIM115 - it is what the caller gets
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                file.close()
                raise BadInput(in_use) from None
            time.sleep(0.1)
        except OSError:
            return file


def run_jobs(
    function: Callable[[T], object], jobs: Iterable[T], workers: int, done: Callable[[T], object], where: object
) -> None:
    """`function(job)` of every job, in their order with one worker, else in that many processes.

    Args:
        function, jobs: can be pickled; jobs are handed out in order, the function goes to each process once.
        done: called here with each job that is finished.
        where: what is being made, for the message when a process dies.

    Raises:
        What `function` raises. RuntimeError: a process died. KeyboardInterrupt: at once; what the processes were at is
            given up.
    """
    if workers == 1:
        for job in jobs:
            function(job)
            done(job)
        return
    context = multiprocessing.get_context("spawn")
    given_up, give_up = context.Pipe(duplex=False)
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_worker, initargs=(function, given_up)
    )
    with given_up, give_up, pool:
        try:
            _hand_out(pool, jobs, workers * AHEAD, done)
        except KeyboardInterrupt:
            give_up.close()  # a job may take hours, and the pool waits for those that run
            raise
        except concurrent.futures.process.BrokenProcessPool as error:
            raise RuntimeError(f"{where}: a process died ({error}); the same command continues") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _hand_out(pool, jobs, most, done):
    running: dict = {}
    todo = iter(jobs)
    while True:
        while len(running) < most and (job := next(todo, None)) is not None:
            running[pool.submit(_do, job)] = job
        if not running:
            return
        finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in finished:
            future.result()
            done(running.pop(future))


def _do(job):
    """In a worker."""
    _do.function(job)  # type: ignore[attr-defined]  # what this process was begun with


def _begin_worker(function, given_up):
    _do.function = function  # type: ignore[attr-defined]  # see `_do`
    follow_parent(given_up)


def await_killed(child: subprocess.Popen) -> None:
    """Wait for a child process that was killed. One that is stuck in the kernel, in a driver, nobody ends: it is given
    up after KILL_S."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(KILL_S)


def follow_parent(given_up: Connection | None = None) -> None:
    """In a process of `multiprocessing`: Ctrl-C is the parent's to handle, and if that was killed, or closed its end of
    `given_up`, this process ends at once, not at its next job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this process was begun by another one"

    def end_with_parent():
        wait([parent.sentinel, *([given_up] if given_up else ())])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
