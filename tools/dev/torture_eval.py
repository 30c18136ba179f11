"""Kill an evaluation at random moments, continue it each time, and compare it with one that nobody touched.

    python tools/dev/torture_eval.py [--kills 10] [--seed 0] [--served] [--out DIR]

Each SIGKILL hits the evaluation, one of its simulator processes, the policy's server (--served; else the policy lives
in the evaluation), or everything at once; at start-up, in the middle of episodes, or right after a result was written.
A killed evaluation is started again with --skip_evaluated, a killed server on the same port; a killed simulator is the
evaluation's own business. The last kill is a simulator's: the evaluation that comes to its end has survived one.

At the end every episode must be there exactly once, as in the undisturbed evaluation, with its video; simulators that
were killed are incidents, never failures; no process and no unfinished file may be left.

Ten minutes on two cores. Exit code: 0 equal, 1 not, or an evaluation failed or hung, 2 bad input.
"""

import argparse
import contextlib
import functools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libs.cli import cli_errors
from libs.errors import BadInput
from rv_eval.playing.rollout import MAX_INCIDENTS
from rv_eval.results.records import ResultsFile
from rv_train.checkpoint import find_model_folder
from tools.compare_evals import compare_evals
from tools.dev.processes import TortureFailed, kill, processes, run_torture, wait_for_nobody

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = ("start-up", "episodes", "result")
MARK = "TORTURE_EVAL"  # environment variable by which every process is found, whoever its parent is
PATIENCE_S = 120.0  # without a new result, beside what start-up and an episode take undisturbed


class Attempt:
    """One start of the evaluation, watched from outside: its console, its results, its processes."""

    def __init__(self, arguments: Sequence[str], log_dir: Path, log: Path, mark: str) -> None:
        self.results, self.log, self.mark = ResultsFile(log_dir / "results.jsonl"), log, f"{MARK}={mark}"
        self.simulators_killed = 0
        self.incidents_due = 0  # of them, those that certainly played an episode
        self.had = self.count()
        command = [sys.executable, str(ROOT / "tools/eval_libero.py"), *arguments, "--log_dir", str(log_dir)]
        self.process = start(command, log, mark)
        self.began = time.monotonic()

    def count(self) -> int:
        """Results written so far, those of earlier attempts among them."""
        return len(self.results.read())

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def records(self) -> list[dict[str, Any]]:
        """What this attempt has written."""
        return self.results.read()[self.had :]

    def simulators(self) -> list[int]:
        """Its simulator processes that live."""
        return [
            pid
            for pid, (parent, command) in processes(self.mark).items()
            if parent == self.process.pid and b"robosuite_sim.remote" in command
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
        count = -1
        while count < self.count() and self.process.poll() is None:
            count = self.count()
            self.wait_until(functools.partial(self._has_more_than, count), patience_s)
        return self.process.wait()

    def _has_more_than(self, count: int) -> bool:
        return self.count() > count

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


class Server:
    """tools/serve_policy.py on a port of its own, started again whenever it was killed."""

    def __init__(self, model_path: Path | str, log: Path, mark: str) -> None:
        self.port, self.log, self.mark = free_port(), log, mark
        self.command = [sys.executable, str(ROOT / "tools/serve_policy.py"), "--model_path", str(model_path)]
        self.command += ["--port", str(self.port)]
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
        raise TortureFailed(f"the policy server does not start, see {self.log.parent}")


def start(command: Sequence[str], log: Path, mark: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as console:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=console, stderr=subprocess.STDOUT)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Torture:
    """Both evaluations. out: folder for everything; mark: of all processes; server: None, or the policy's Server."""

    def __init__(
        self,
        out: Path,
        mark: str,
        arguments: Sequence[str],
        episodes: int,
        num_envs: int,
        server: Server | None,
        rng: np.random.Generator,
    ) -> None:
        self.out, self.mark, self.arguments = out, mark, arguments
        self.episodes, self.num_envs, self.server, self.rng = episodes, num_envs, server, rng
        self.victims = ("evaluation", "simulator", "all") + (("server",) if server else ())
        self.startup_s = self.episode_s = 0.0
        self.problems = []

    def run_whole(self) -> None:
        """The undisturbed evaluation; it also tells how long things take. TortureFailed where it fails."""
        attempt = Attempt(self.arguments, self.out / "whole", self.out / "whole.log", f"{self.mark}.whole.")
        attempt.wait_until(lambda: attempt.count() > 0)
        first_s = attempt.seconds()
        if attempt.process.wait() != 0:
            raise TortureFailed(f"the undisturbed evaluation failed:\n{attempt.tail()}")
        last = attempt.records()[-1]  # its simulator ran before, if there are more episodes than simulators
        self.episode_s = last["policy_s"] + last["sim_s"]
        self.startup_s = max(1.0, first_s - self.episode_s)
        self.check_incidents(attempt, 0)

    def run_killed(self, kills: int) -> None:
        """The same with SIGKILLs. TortureFailed where it ends in another way than it should."""
        attempt = None
        for number in range(kills):
            if attempt is None:
                attempt = self.start_attempt(number)
            moment = self.wait_for_moment(attempt, number, kills)
            if attempt.process.poll() is not None:
                raise TortureFailed(
                    f"after {number} kills the evaluation ended with code {attempt.process.returncode}"
                    f" (if it is done: give more --episodes):\n{attempt.tail()}"
                )
            victim = self.kill_something(attempt, is_last=number == kills - 1)
            seconds, results = attempt.seconds(), attempt.count()
            print(f"{number + 1:>4}  {victim:<10}  {moment:<8}  {seconds:>7.1f}  {results:>7}", flush=True)
            if victim in ("evaluation", "all"):
                self.see_off(attempt, victim)
                attempt = None
            if victim in ("server", "all") and self.server:
                self.server.process.wait()
                self.server.start()
        attempt = attempt or self.start_attempt(kills)
        if attempt.wait_for_end(self.startup_s + self.episode_s + PATIENCE_S) != 0:
            raise TortureFailed(f"the evaluation failed by itself:\n{attempt.tail()}")
        self.check_incidents(attempt, attempt.incidents_due)

    def start_attempt(self, number: int) -> Attempt:
        if self.server:
            self.server.wait_until_ready()
        log = self.out / f"attempt_{number:03d}.log"
        return Attempt([*self.arguments, "--skip_evaluated"], self.out / "killed", log, f"{self.mark}.{number}.")

    def wait_for_moment(self, attempt: Attempt, number: int, kills: int) -> str:
        """Sleep to a random moment, such that the results last for all kills. Returns its name."""
        moment = MOMENTS[self.rng.integers(len(MOMENTS))]
        enough = (number + 1) * max(1, self.episodes - self.num_envs) / (kills + 1)
        before = attempt.count()
        if before >= enough:
            moment = "start-up"
        started = attempt.began + self.startup_s
        now = time.monotonic()
        if moment == "result":
            attempt.wait_until(lambda: attempt.count() > before, self.startup_s + self.episode_s + PATIENCE_S)
            time.sleep(self.rng.uniform(0, 0.02))
            return moment
        if moment == "start-up":  # of the evaluation; where it is over, of the simulator or server that was killed last
            deadline = self.rng.uniform(attempt.began, started) if now < started else now + self.rng.uniform(0, 1)
        else:
            deadline = max(now, started) + self.rng.uniform(0, self.episode_s)
        attempt.wait_until(lambda: time.monotonic() >= deadline or attempt.count() >= max(enough, before + 1))
        return moment

    def kill_something(self, attempt: Attempt, is_last: bool) -> str:
        victim = self.victims[self.rng.integers(len(self.victims))]
        if is_last:
            victim = "simulator"
            attempt.wait_until(lambda: bool(attempt.simulators()), self.startup_s + PATIENCE_S)
        elif victim == "simulator" and attempt.simulators_killed == MAX_INCIDENTS:
            victim = "evaluation"  # an episode with bad luck would be given up
        simulators = attempt.simulators()
        if victim in ("simulator", "server") and not simulators:
            victim = "evaluation"  # it has no simulators yet, and may not have met the server
        if victim == "simulator":
            attempt.simulators_killed += 1
            attempt.incidents_due += self.episodes - attempt.count() > self.num_envs
            kill([simulators[self.rng.integers(len(simulators))]])
        elif victim == "evaluation":
            kill([attempt.process.pid])
        elif victim == "server":
            assert self.server is not None, "a victim that there is"
            kill([self.server.process.pid])
        else:
            kill(processes(f"{MARK}={self.mark}"))
        return victim

    def see_off(self, attempt: Attempt, victim: str) -> None:
        """Wait until nothing of a killed attempt lives."""
        attempt.process.wait()
        left = wait_for_nobody(attempt.mark)
        if left:
            raise TortureFailed(f"{left} processes lived on after {victim} was killed:\n{attempt.tail()}")
        self.check_incidents(attempt, 0)  # the episode may have been lost with the evaluation

    def check_incidents(self, attempt: Attempt, at_least: int) -> None:
        """A simulator's death is an incident of the one episode it played; nothing else is one."""
        found, at_most = sum(record["incidents"] for record in attempt.records()), attempt.simulators_killed
        if not at_least <= found <= at_most:
            self.problems.append(f"{attempt.log.name}: {found} incidents, expected {at_least} to {at_most}")

    def check(self) -> list[str]:
        """What is wrong at the end, one line each."""
        self.problems += compare_evals(self.out / "whole", self.out / "killed")
        self.problems += unfinished_files(self.out / "killed")
        self.problems += differing_videos(self.out / "whole", self.out / "killed")
        return self.problems


def unfinished_files(folder: Path) -> list[str]:
    names = [path for path in sorted(folder.rglob("*")) if ".part" in path.name or path.suffix == ".tmp"]
    return [f"left behind: {path}" for path in names]


def differing_videos(whole: Path, killed: Path) -> list[str]:
    """Videos that are missing, left over, or not as long as the undisturbed evaluation's."""
    import imageio.v2 as imageio

    lengths = []
    for folder in (whole, killed):
        named = {record["video"] for record in ResultsFile(folder / "results.jsonl").read()}
        there = {str(path.relative_to(folder)) for path in (folder / "videos").glob("*.mp4")}
        if named != there:
            return [f"videos of {folder}: {', '.join(sorted(named ^ there))} is not both in the results and there"]
        readers: dict[str, Any] = {name: imageio.get_reader(folder / name) for name in sorted(named)}
        lengths.append({name: reader.count_frames() for name, reader in readers.items()})
    return [
        f"{name}: {lengths[0].get(name)} and {lengths[1].get(name)} frames"
        for name in sorted({*lengths[0], *lengths[1]})
        if lengths[0].get(name) != lengths[1].get(name)
    ]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--kills", type=int, default=10)
    add("--seed", type=int, default=0, help="of victims and moments; where they hit also depends on time")
    add("--model_path", default="checkpoints/quickstart")
    add("--task_suite", default="libero_object")
    add("--task_id", type=int, default=0)
    add("--episodes", type=int, default=16)
    add("--num_steps", type=int, help="step limit per episode (default: the suite's)")
    add("--num_envs", type=int, default=4)
    add("--served", action="store_true", help="the policy in a server of its own, which is killed too")
    add("--out", type=Path, help="keep both evaluations and all consoles here (default: a temporary folder)")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.kills < 1 or args.episodes < 1 or args.num_envs < 1:
        numbers = f"{args.kills}, {args.episodes} and {args.num_envs}"
        raise BadInput(f"--kills, --episodes and --num_envs must be at least 1, got {numbers}")
    find_model_folder(args.model_path)  # else its absence would stand in a console's file
    run_torture(MARK, args.out, "equal", lambda out, mark: torture(args, out, mark))


def torture(args: argparse.Namespace, out: Path, mark: str) -> list[str]:
    """Both evaluations; returns what is wrong, one line each."""
    server = Server(args.model_path, out / "server.log", mark) if args.served else None
    model_path = f"ws://127.0.0.1:{server.port}" if server else args.model_path
    arguments = ["--model_path", str(model_path), "--task_suite", args.task_suite, "--task_id", str(args.task_id)]
    arguments += ["--episodes", str(args.episodes), "--num_envs", str(args.num_envs)]
    arguments += ["--num_steps", str(args.num_steps)] if args.num_steps is not None else []
    rng = np.random.default_rng(args.seed)
    test = Torture(out, mark, arguments, args.episodes, args.num_envs, server, rng)
    if server:
        server.wait_until_ready()
    began = time.monotonic()
    test.run_whole()
    print(
        f"undisturbed: {args.episodes} episodes in {time.monotonic() - began:.0f} s (start-up {test.startup_s:.0f} s, "
        f"an episode {test.episode_s:.1f} s)\n\nkill  victim      moment    seconds  results",
        flush=True,
    )
    began = time.monotonic()
    test.run_killed(args.kills)
    print(f"\nkilled {args.kills} times, done after {time.monotonic() - began:.0f} s", flush=True)
    if server:
        kill([server.process.pid])
        server.process.wait()
    left = wait_for_nobody(f"{MARK}={mark}")
    found = [f"{left} processes were left behind"] if left else test.check()
    if not found:
        records = ResultsFile(out / "killed/results.jsonl").read()
        incidents = sum(record["incidents"] for record in records)
        solved = sum(record["success"] for record in records)
        print(f"equal: {len(records)} episodes, {solved} of them solved; {incidents} incidents")
    return found


if __name__ == "__main__":
    main()
