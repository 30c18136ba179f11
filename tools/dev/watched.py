"""An evaluation and servers that are started to be killed, watched from outside: for tools/dev/torture_eval.py."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rv_eval.results.records import ResultsFile
from rv_train.distributed import free_port
from tools.dev.processes import TortureFailed, processes

ROOT = Path(__file__).resolve().parents[2]
MARK = "TORTURE_EVAL"  # environment variable by which every process is found, whoever its parent is


class Attempt:
    """One start of the evaluation, watched from outside: its console, its results, its processes."""

    def __init__(
        self, arguments: Sequence[str], log_dir: Path, log: Path, mark: str, standing: "Sequence[Server]" = ()
    ) -> None:
        self.standing = standing  # simulators that are none of its children
        self.results, self.log, self.mark = ResultsFile(log_dir / "results.jsonl"), log, f"{MARK}={mark}"
        self.simulators_killed = 0
        self.incidents_due = 0  # of them, those that certainly played an episode
        self.had = self.count()
        command = [sys.executable, *arguments, "--log_dir", str(log_dir)]
        self.process = start(command, log, mark)
        self.began = time.monotonic()

    def count(self) -> int:
        """Results written so far, those of earlier attempts among them."""
        return len(self.results.read())

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def records(self) -> list[dict]:
        """What this attempt has written."""
        return self.results.read()[self.had :]

    def simulators(self) -> list[int]:
        """Its simulator processes that live; of those that stand elsewhere nobody knows whether they are in use."""
        if self.standing:
            return [server.process.pid for server in self.standing] if self.count() > self.had else []
        return [
            pid
            for pid, (parent, command) in processes(self.mark).items()
            if parent == self.process.pid and (b"robosuite_sim.remote" in command or b"--child" in command)
        ]

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = float("inf")) -> bool:
        """False where the evaluation ends before. TortureFailed: nothing of it for `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise TortureFailed(f"the evaluation hangs:\n{self.tail()}")
            time.sleep(0.005)
        return self.process.poll() is None

    def wait_for_end(self, patience_s: float) -> int:
        """Exit code. TortureFailed: it hangs."""
        seen = -1

        def another_came():
            return self.count() > seen

        while another_came() and self.process.poll() is None:
            seen = self.count()
            self.wait_until(another_came, patience_s)
        return self.process.wait()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


class Server:
    """A command that serves at a port of its own, started again whenever it was killed."""

    def __init__(self, command: Sequence[str], log: Path, mark: str) -> None:
        self.port, self.log, self.mark = free_port(), log, mark
        self.command = [*command, "--port", str(self.port)]
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        log = self.log.with_name(f"{self.log.stem}_{self.starts:03d}.log")
        self.process = start(self.command, log, f"{self.mark}.server.")

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.1)
        raise TortureFailed(f"a server does not start, see {self.log.parent}")

    def start_again(self) -> None:
        """Where it was killed."""
        if self.process.poll() is not None:
            self.start()
            self.wait_until_ready()


def start(command: Sequence[str], log: Path, mark: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as console:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=console, stderr=subprocess.STDOUT)
