"""Processes found by a mark in their environment, whoever their parent is: for tools that kill, and tests of them."""

import contextlib
import os
import signal
import time
from pathlib import Path

STRAGGLERS_S = 30.0  # for the processes of a run to be gone after one of them was killed


def processes(mark):
    """{pid: (parent's pid, command line)} of the living processes whose environment holds `mark`."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # gone, or somebody else's
                if mark.encode() in (folder / "environ").read_bytes():
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    found[int(folder.name)] = int(parent), (folder / "cmdline").read_bytes()
    return found


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for_nobody(mark):
    """Until no process with the mark lives; those that will not go are killed. Returns how many that were."""
    deadline = time.monotonic() + STRAGGLERS_S
    while (living := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill(living)
    return len(living)
