"""What a person sees of a run: TensorBoard, a console line, and `run.json`."""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "h5py", "opencv-python", "yacs")


class Tracker:
    """Rank 0's eyes. Times are of the window since the last report.

    Args:
        folder: the run folder, which TensorBoard reads.
        start_step: steps done before; points written behind it by a run that was cut off are dropped.
        total_steps: of the whole run.
    """

    def __init__(self, folder, start_step, total_steps):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder, purge_step=start_step + 1)
        self.start_step, self.total_steps = start_step, total_steps
        self.began = time.monotonic()

    def text(self, tag, text):
        """A text in TensorBoard's TEXT tab."""
        self.writer.add_text(tag, "```\n" + text + "\n```", self.start_step)

    def report(self, step, scalars):
        """Write the scalars of optimizer step `step` (1-based) and print the line.

        Args:
            scalars: {"train/loss": ..., "train/lr": ..., "train/grad_norm": ..., "speed/samples_per_s": ...,
                "speed/data_wait": ...}.
        """
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, step)
        self.writer.flush()
        done = step - self.start_step
        left = (time.monotonic() - self.began) / done * (self.total_steps - step)
        print(
            f"step {step:>{len(str(self.total_steps))}}/{self.total_steps}  loss {scalars['train/loss']:.4f}"
            f"  lr {scalars['train/lr']:.2e}  grad {scalars['train/grad_norm']:.2f}"
            f"  {scalars['speed/samples_per_s']:.1f} samples/s  waiting for data {scalars['speed/data_wait']:.0%}"
            f"  left {format_time(left)}",
            flush=True,
        )

    def close(self):
        self.writer.close()


class Stopwatch:
    """Seconds per window, in total and spent waiting for data."""

    def __init__(self):
        self.restart()

    def restart(self):
        self.began, self.waited = time.monotonic(), 0.0

    def wait_for(self, batches):
        """`next(batches)`, counted as waiting."""
        began = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - began
        return batch

    @property
    def seconds(self):
        return time.monotonic() - self.began


def format_time(seconds):
    """3725 → 1:02:05"""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def versions(more=()):
    """Package name → installed version (None: not installed), of what a result can depend on and of `more` packages;
    plus Python's version and this repository's commit."""
    found = {"python": platform.python_version(), "git_commit": git_commit()}
    for package in (*PACKAGES, *more):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit():
    """The commit this code stands at, "+" behind it if files differ; None outside a git checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def write_run_json(folder, cfg, world_size, data_info, action_stats, start_step):
    """`run.json`: what somebody needs to repeat this run. A resumed run adds an entry to its `resumed` list."""
    path = Path(folder) / "run.json"
    if start_step and path.is_file():
        run = json.loads(path.read_text())
        run["resumed"].append({"step": start_step, "command": sys.argv, "versions": versions()})
        path.write_text(json.dumps(run, indent=1) + "\n")
        return
    run = {
        "seed": cfg.EXP.SEED,
        "world_size": world_size,
        "global_batch_size": cfg.TRAIN.batch_size * cfg.TRAIN.grad_accum * world_size,
        "command": sys.argv,
        "versions": versions(),
        "data": {**data_info, "num_demos": action_stats["num_demos"], "num_frames": action_stats["count"]},
        "data_fingerprint": action_stats["fingerprint"],
        "resumed": [],
    }
    path.write_text(json.dumps(run, indent=1) + "\n")
