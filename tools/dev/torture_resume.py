"""Kill a training run at random moments, resume it each time, and compare it with one that nobody touched.

    python tools/dev/torture_resume.py --kills 30 --seed 0 --out FOLDER

The run is tiny, but has everything that has a state: two CPU ranks with loader processes, gradient accumulation,
augmentation, a moving average of the weights, validation, rotation of checkpoints. Each SIGKILL hits the parent, a
rank, a loader process or everything at once; during start-up, training or the writing of a checkpoint. At the end every
checkpoint that is kept (weights, optimizer, average, generators) and the curves must be equal bit by bit.

Eight minutes on two cores. Exit code: 0 identical, 1 not, or the run failed or left processes behind, 2 bad input.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libs.cli import Parser, cli_errors
from libs.demo_hdf5.synthetic import write_synthetic_demo_file
from libs.errors import BadInput
from rv_train.checkpoint import checkpoints
from rv_train.difference import compare_runs, read_curves
from tools.dev.processes import TortureFailed, kill, processes, run_torture, wait_for_nobody

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "configs/tiny.yaml"
VICTIMS = ("parent", "rank", "loader", "all")
MOMENTS = ("start-up", "training", "saving")
MARK = "TORTURE_RESUME"  # environment variable by which every process of a run is found, whoever its parent is
PATIENCE_S = 90.0  # for a run to end after one of its processes was killed

OPTS = {
    "DATA.NUM_WORKERS": 1,
    "DATA.VAL_SHARE": 0.25,
    "TRAIN.grad_accum": 2,
    "TRAIN.ema": 0.9,
    "TRAIN.save_every": 2,
    "TRAIN.keep_last": 2,
    "TRAIN.keep_every": 10,
    "VALID.loss_every": 0.3,
    "VALID.loss_batches": 4,
    "VALID.gen_every": 1.0,
    "VALID.gen_samples": 4,
}


class Attempt:
    """One start of the trainer, watched from outside: its console, its run folder, its processes."""

    def __init__(self, run: Path, opts: Mapping[str, object], resume: bool, log: Path, mark: str) -> None:
        self.run, self.log, self.mark = run, log, f"{MARK}={mark}"  # "." at its end: 1 is not the beginning of 11
        self._stale = self._unfinished()
        pairs = {**OPTS, **opts, "EXP.DIR": str(run.parent), "EXP.ID": run.name}
        command = [sys.executable, "-m", "rv_train.train", "--nproc", "2", "--cfg", str(ROOT / RECIPE)]
        command += ["--resume"] * resume + [str(part) for pair in pairs.items() for part in pair]
        environment = {**os.environ, MARK: mark, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self.began = time.monotonic()
        with log.open("wb") as console:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=console, stderr=subprocess.STDOUT
            )

    def _unfinished(self):
        """Checkpoints that are not renamed yet → when they were last touched."""
        found = {}
        for path in self.run.glob("step_*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # renamed in between
                found[path.name] = path.stat().st_ctime_ns
        return found

    def step(self) -> int | None:
        """The last step on the console, None before the first."""
        steps = re.findall(r"step\s+(\d+)/", self.log.read_text(errors="replace"))
        return int(steps[-1]) if steps else None

    def saving(self) -> bool:
        """Whether a checkpoint is being written; the remains of the attempt before do not count."""
        return any(self._stale.get(name) != touched for name, touched in self._unfinished().items())

    def phase(self) -> str:
        return "saving" if self.saving() else "start-up" if self.step() is None else "training"

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """False where the run ends before."""
        while not condition():
            if self.process.poll() is not None:
                return False
            time.sleep(0.002)
        return self.process.poll() is None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def pids(self, victim: str) -> list[int]:
        """Living processes of a role, one of VICTIMS; the parent where there is none of the role yet."""
        living = processes(self.mark)
        ranks = [pid for pid, (parent, command) in living.items() if parent == self.process.pid and is_worker(command)]
        loaders = [pid for pid, (parent, command) in living.items() if parent in ranks and is_worker(command)]
        roles = {"parent": [self.process.pid], "rank": ranks, "loader": loaders, "all": list(living)}
        return roles[victim] or roles["parent"]


def is_worker(command: bytes) -> bool:
    """Whether a command line is that of a rank; a loader process, forked from one, has the same."""
    return b"multiprocessing.spawn" in command


@dataclass
class Tempo:
    """How long things take in the run that nobody kills, seconds: the random delays are spread over them."""

    startup: float
    step: float
    save: float


def run_whole(run: Path, opts: Mapping[str, object], log: Path, mark: str) -> Tempo:
    """The uninterrupted run; returns its Tempo. TortureFailed where it fails."""
    attempt = Attempt(run, opts, False, log, f"{mark}.whole.")
    startup = save = 0.0
    began = None  # of the checkpoint being written
    while attempt.process.poll() is None:
        if not startup and attempt.step():
            startup = attempt.seconds()
        saving = attempt.saving()
        if saving and began is None:
            began = time.monotonic()
        elif not saving and began is not None:
            save, began = max(save, time.monotonic() - began), None
        time.sleep(0.002)
    if attempt.process.returncode != 0:
        raise TortureFailed(f"the uninterrupted run failed:\n{attempt.tail()}")
    return Tempo(startup, (attempt.seconds() - startup) / (attempt.step() or 1), save)


def run_killed(
    run: Path,
    opts: Mapping[str, object],
    log_folder: Path,
    mark: str,
    kills: int,
    tempo: Tempo,
    rng: np.random.Generator,
) -> None:
    """The same run with SIGKILLs, each followed by a resume. TortureFailed where it ends in another way."""
    attempt = None
    for count in range(kills + 1):
        if not checkpoints(run):  # the next attempt begins anew, while nobody may be about to write a checkpoint
            wait_for_nobody(f"{MARK}={mark}")
        # Else at once: what is left of the attempt before is the trainer's business.
        resume = bool(checkpoints(run))
        former = attempt
        attempt = Attempt(run, opts, resume, log_folder / f"attempt_{count:03d}.log", f"{mark}.{count}.")
        if count == kills or not wait_for_moment(attempt, MOMENTS[rng.integers(3)], tempo, rng):
            if attempt.process.wait() != 0:
                raise TortureFailed(f"attempt {count} failed by itself:\n{attempt.tail()}")
            if count < kills:
                raise TortureFailed(f"the run was done after {count} kills: give more --steps")
            return
        victim = VICTIMS[rng.integers(4)]
        pids = attempt.pids(victim)
        pids = pids if victim == "all" else [pids[rng.integers(len(pids))]]
        victim = "parent" if pids == [attempt.process.pid] else victim
        phase, step, seconds = attempt.phase(), attempt.step(), attempt.seconds()
        kill(pids)
        try:
            attempt.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise TortureFailed(f"attempt {count} hangs after its {victim} was killed:\n{attempt.tail()}") from None
        left = wait_for_nobody(former.mark) if former else 0
        if left:
            raise TortureFailed(f"{left} processes of attempt {count - 1} went on without the killed one")
        newest = [folder.name for folder in checkpoints(run)[-1:]]
        print(
            f"{count + 1:>4}  {victim:<7} {phase:<9} {step or '-':>4} {seconds:>8.2f}  {newest[0] if newest else '-'}",
            flush=True,
        )


def wait_for_moment(attempt: Attempt, moment: str, tempo: Tempo, rng: np.random.Generator) -> bool:
    """Sleep to a random moment of an attempt, of few steps however fast they are; False where it ends before."""
    condition, longest = {
        "start-up": (lambda: True, tempo.startup),
        "training": (lambda: attempt.step() is not None, 3 * tempo.step),
        "saving": (attempt.saving, 1.2 * tempo.save),
    }[moment]
    if not attempt.wait_until(condition):
        return False
    deadline = time.monotonic() + rng.uniform(0, longest)
    last_step = (attempt.step() or 0) + 2 if moment != "start-up" else float("inf")
    return attempt.wait_until(lambda: time.monotonic() >= deadline or (attempt.step() or 0) >= last_step)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--kills", type=int, default=30, help="how often")
    parser.add_argument(
        "--seed", type=int, default=0, help="of victims and moments; where they hit also depends on time"
    )
    parser.add_argument("--steps", type=int, help="optimizer steps of the run (default: 5 a kill and 10)")
    parser.add_argument("--out", type=Path, help="keep both runs and all consoles here (default: a temporary folder)")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    steps = 5 * args.kills + 10 if args.steps is None else args.steps
    if args.kills < 1 or steps < 4:
        raise BadInput(f"--kills must be at least 1 and --steps at least 4, got {args.kills} and {steps}")
    rng = np.random.default_rng(args.seed)
    run_torture(MARK, args.out, "identical", lambda out, mark: torture(out, mark, args.kills, steps, rng))


def torture(out: Path, mark: str, kills: int, steps: int, rng: np.random.Generator) -> list[str]:
    """Both runs; returns what differs, one line each."""
    for number in range(2):
        write_synthetic_demo_file(out / f"demos/{number}_demo.hdf5", 4, 12, 64, seed=10 * number)
    opts = {"DATA.FILES": [str(out / "demos")], "TRAIN.max_steps": steps}
    whole, killed = out / "whole", out / "killed"
    began = time.monotonic()
    tempo = run_whole(whole, opts, out / "whole.log", mark)
    print(
        f"uninterrupted: {steps} steps in {time.monotonic() - began:.0f} s (first step after {tempo.startup:.1f} s, "
        f"then {tempo.step:.2f} s each; a checkpoint takes up to {tempo.save:.2f} s)\n\n"
        "kill  victim  during     step  seconds  newest checkpoint",
        flush=True,
    )
    began = time.monotonic()
    run_killed(killed, opts, out, mark, kills, tempo, rng)
    print(f"\nkilled {kills} times, done after {time.monotonic() - began:.0f} s", flush=True)
    left = wait_for_nobody(f"{MARK}={mark}")
    found = [f"{left} processes were left behind"] if left else compare_runs(whole, killed)
    if not found:
        kept = ", ".join(folder.name for folder in checkpoints(whole))
        print(f"identical: {kept}; curves {', '.join(read_curves(whole))}")
    return found


if __name__ == "__main__":
    main()
