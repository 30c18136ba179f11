"""Where time goes: phases inside a process, CPU seconds of processes, and what the rest of the machine does."""

import contextlib
import functools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class PhaseClock:
    """Seconds and CPU seconds (all threads of the process) per phase.

    A phase inside another one is counted as itself alone. Not for several threads.
    """

    def __init__(self) -> None:
        self._phases = {}  # name → [seconds, CPU seconds, times entered]
        self._stack = []
        self._last = (0.0, 0.0)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._book()
        self._stack.append(name)
        self._phases.setdefault(name, [0.0, 0.0, 0])[2] += 1
        try:
            yield
        finally:
            self._book()
            self._stack.pop()

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count every call of `owner.method` from now on as phase `name`."""
        call = getattr(owner, method)

        @functools.wraps(call)
        def watched(*args, **kwargs):
            with self.phase(name):
                return call(*args, **kwargs)

        setattr(owner, method, watched)

    def take(self) -> dict:
        """{phase: {"wall_s", "cpu_s", "count"}} since the last call of `take`."""
        taken, self._phases = self._phases, {}
        return {name: {"wall_s": wall, "cpu_s": cpu, "count": count} for name, (wall, cpu, count) in taken.items()}

    def _book(self):
        """What went by since the last event belongs to the innermost phase."""
        now = (time.perf_counter(), time.process_time())
        if self._stack:
            phase = self._phases[self._stack[-1]]
            phase[0] += now[0] - self._last[0]
            phase[1] += now[1] - self._last[1]
        self._last = now


def add_phases(all_phases: Iterable[Mapping[str, Mapping[str, float]]]) -> dict:
    """Sum of what several clocks took."""
    total = {}
    for phases in all_phases:
        for name, numbers in phases.items():
            into = total.setdefault(name, dict.fromkeys(numbers, 0))
            for key, value in numbers.items():
                into[key] += value
    return total


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a living process (all its threads) has used, to 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S  # utime, stime


def machine_cpu_seconds() -> float:
    """CPU seconds that all processes of this machine have used."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split(maxsplit=4)[1:4])
    return (user + nice + system) * TICK_S


class CpuMeter:
    """Seconds, CPU seconds of some processes, and CPU seconds of everybody else, between start and `read`."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.pids = pids
        self._before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        self._machine = machine_cpu_seconds()
        self._start = time.perf_counter()

    def read(self) -> dict:
        """{"wall_s", "cpu_s": {name: seconds}, "others_cpu_s"}"""
        wall = time.perf_counter() - self._start
        used = {name: round(cpu_seconds(pid) - self._before[name], 2) for name, pid in self.pids.items()}
        others = machine_cpu_seconds() - self._machine - sum(used.values())
        return {"wall_s": wall, "cpu_s": used, "others_cpu_s": round(max(0.0, others), 2)}
