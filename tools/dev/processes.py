"""Processes found by a mark in their environment, whoever their parent is: for tools that kill, and tests of them."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from libs.errors import BadInput
from libs.files import make_folder

STRAGGLERS_S = 30.0  # for the processes of a run to be gone after one of them was killed


class TortureFailed(Exception):
    """What was started does not work as it must for the test to go on."""


def processes(mark: str) -> dict[int, tuple[int, bytes]]:
    """{pid: (parent's pid, command line)} of the living processes whose environment holds `mark`."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # gone, or somebody else's
                if mark.encode() in (folder / "environ").read_bytes():
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    found[int(folder.name)] = int(parent), (folder / "cmdline").read_bytes()
    return found


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def run_torture(variable: str, out: Path | None, wanted: str, torture: Callable[[Path, str], list[str]]) -> None:
    """Run `torture(folder, mark)`, which starts processes with the environment variable `variable` set to `mark` and
    returns what it found wrong, a list of lines; none of its processes outlives it.

    out: the folder, empty or new; None: a temporary one, removed where nothing is wrong. What is found (or raised as
    TortureFailed) is printed under "NOT {wanted}", and the exit code is 1. BadInput: the folder is not empty.
    """
    if out and any(make_folder(out).iterdir()):
        raise BadInput(f"--out {out} is not empty")
    folder = out.resolve() if out else Path(tempfile.mkdtemp(prefix=f"{variable.lower()}_"))
    mark = f"{uuid.uuid4()}"
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended below
    try:
        found = torture(folder, mark)
    except TortureFailed as error:
        found = [str(error)]
    finally:
        kill(processes(f"{variable}={mark}"))
        signal.signal(signal.SIGTERM, before)
    if found:
        print("\n".join(found[:40]), f"NOT {wanted}: see {folder}", sep="\n", file=sys.stderr)
        raise SystemExit(1)
    if not out:
        shutil.rmtree(folder)


def wait_for_nobody(mark: str) -> int:
    """Until no process with the mark lives; those that will not go are killed. Returns how many that were."""
    deadline = time.monotonic() + STRAGGLERS_S
    while (living := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill(living)
    return len(living)
