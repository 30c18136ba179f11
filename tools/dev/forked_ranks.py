"""CPU ranks without their start: forked from a process that has imported everything, and how much memory they take."""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch

from rv_train import distributed

T = TypeVar("T")

FORK = multiprocessing.get_context("fork")


def run_ranks(
    worker: Callable[..., T],
    number: int,
    *args: Any,
    meanwhile: Callable[[Sequence[BaseProcess]], None] = lambda processes: None,
) -> dict[int, tuple[T, int]]:
    """`worker(Rank, *args)` in so many forked processes; {rank: (what it returned, peak bytes of memory)}.

    meanwhile: called with the processes once they run. A rank that dies is missing among the results.
    """
    address = f"tcp://127.0.0.1:{distributed.free_port()}"
    told = FORK.SimpleQueue()
    given = (number, address, worker, args, told)
    processes = [FORK.Process(target=_rank, args=(n, *given), daemon=True) for n in range(number)]
    for process in processes:
        process.start()
    meanwhile(processes)
    results = {}
    while len(results) < number and (any(p.is_alive() for p in processes) or not told.empty()):
        if told.empty():
            time.sleep(0.05)
        else:
            rank, result, peak = told.get()
            results[rank] = result, peak
    for process in processes:
        process.join()
    return results


def _rank(rank, number, address, worker, args, told):
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    result = distributed._run(rank, number, torch.device("cpu"), address, worker, args)
    told.put((rank, result, memory()["VmHWM"]))


def memory() -> dict[str, int]:
    """Bytes of this process: VmHWM, the most in memory so far; RssAnon, its own now."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0].rstrip(":"): 1024 * int(line[1]) for line in lines if line[0] in ("VmHWM:", "RssAnon:")}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What runs print goes nowhere, the forked processes' too."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
