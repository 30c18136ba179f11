"""A run killed and resumed, against one that nobody touched: bits."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from libs.demo_hdf5.synthetic import write_synthetic_demo_file
from rv_train.checkpoint import save_model_folder
from rv_train.difference import compare_runs
from rv_train.policies import build_encoder, build_policy
from tools.dev.benchmarks.samples import STATS
from tools.dev.benchmarks.train import SIZES
from tools.dev.proof.ground import ROOT, Ground

STEPS, SAVED = 6, 3


def resume(ground: Ground) -> None:
    """With TRAIN.deterministic and without, all four runs at once."""
    write_synthetic_demo_file(ground.folder / "demo.hdf5", num_demos=4, num_frames=12, resolution=64, seed=0)
    settings = (True,) if ground.tiny else (True, False)
    names = [(f"{kind}_{deterministic}", deterministic) for deterministic in settings for kind in ("whole", "killed")]
    running = {name: _start(ground, name, deterministic) for name, deterministic in names}
    try:
        for name, process in running.items():
            if name.startswith("killed"):
                _kill_after_save(ground, ground.folder / name, process)
        again = {name: _start(ground, name, fixed, "--resume") for name, fixed in names if name.startswith("killed")}
        running |= again
        codes = {name: process.wait(timeout=max(1.0, ground.left())) for name, process in running.items()}
    finally:
        for process in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    for deterministic in settings:
        name = "killed and resumed, " + ("TRAIN.deterministic" if deterministic else "default kernels")
        failed = [key for key, code in codes.items() if code and key.endswith(str(deterministic))]
        if failed:
            tail = (ground.folder / f"{failed[0]}.log").read_text(errors="replace").strip().splitlines()[-1:]
            ground.say(name, None, note=f"{failed[0]} ended with {codes[failed[0]]}: {''.join(tail)[:200]}")
            continue
        differences = compare_runs(*(ground.folder / f"{kind}_{deterministic}" for kind in ("whole", "killed")))
        note = (
            first if (first := next(iter(differences), "")) else f"weights, optimizer, generators after {STEPS} steps"
        )
        ground.say(name, not differences, "same bits", "yes" if deterministic else "", str(note)[:200])


def _start(ground, name, deterministic, *flags):
    size = "tiny" if ground.tiny else "middle"
    opts = {
        **SIZES[size],
        "MODEL.INIT": "random",
        "MODEL.VOCAB_CUT": 512,
        "DATA.FILES": [str(ground.folder / "demo.hdf5")],
    }
    opts |= {"EXP.DIR": str(ground.folder), "EXP.ID": name, "TRAIN.max_steps": STEPS, "TRAIN.save_every": SAVED}
    opts |= {"TRAIN.deterministic": deterministic, "TRAIN.batch_size": 2, "DATA.NUM_WORKERS": 0, "TRAIN.log_every": 1}
    opts |= {"ACTION.HORIZON": 2, "IMAGE.SIZE": 56, "AMP.mode": "off" if ground.tiny else "bf16"}
    cpu = ["--nproc", "1"] if ground.device.type == "cpu" else ["--devices", str(ground.device.index or 0)]
    command = [sys.executable, "-m", "rv_train.train", "--cfg", str(ROOT / "configs/vla0.yaml"), *cpu, *flags]
    command += [str(part) for pair in opts.items() for part in pair]
    with (ground.folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _kill_after_save(ground, run, process):
    """SIGKILL once the first checkpoint is complete; its last step may be done by then, a checkpoint of it may not."""
    saved, last = (run / f"step_{step:08d}" / "complete" for step in (SAVED, STEPS))
    while process.poll() is None and not saved.exists() and ground.left() > 5:
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if last.exists():  # too late: as if it had been in time
        last.unlink()


def base_weights(ground: Ground, sizes: Mapping[str, Any]) -> Path:
    """A folder of random weights to put adapters on."""
    cfg, folder = ground.recipe("vla0.yaml", sizes), ground.folder / "base"
    stats = {**STATS, "mean": [0.0] * 7, "std": [1.0] * 7, "q01": [-1.0] * 7, "q99": [1.0] * 7}
    torch.manual_seed(0)
    save_model_folder(folder, build_policy(cfg, build_encoder(cfg, stats)), cfg, stats, {})
    return folder
