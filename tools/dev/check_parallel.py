"""Check TRAIN.PARALLEL ddp, zero1 and fsdp on CPU ranks: the same training, killed and resumed, saved meanwhile.

    python tools/dev/check_parallel.py --parts losses resume --steps 50 --out FOLDER

losses  2 and 4 ranks of each kind: the losses side by side, bytes that each rank saves
memory  4 ranks of each kind, two steps of 50 million parameters: the most that each rank had in memory
resume  each of the runs of 4 ranks killed (SIGKILL) in the middle and resumed: bit by bit the run that nobody killed;
        and the killed fsdp run resumed on 2 ranks as a run of another world size
nodes   torchrun with two agents of two ranks each in folders of their own, no shared file system: saves, resumes
pause   a model of 1 GB: how long training stops for a save, written meanwhile and before it goes on
load    four ranks of fsdp that load 1 GB of weights: memory of all of them together, mapped from the file and copied

Ranks are forked from one process that has imported everything. Exit code: 0 all as promised, 1 not.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from yacs.config import CfgNode

from libs.cli import Parser, cli_errors
from libs.demo_hdf5.synthetic import write_synthetic_demo_file
from rv_train import checkpoint, distributed
from rv_train.backbones import family_of
from rv_train.backbones.loading import build_backbone, save_weights
from rv_train.config import load_cfg
from rv_train.difference import compare_runs, read_curves, read_weights
from rv_train.distributed import Rank
from rv_train.optim import Ema, Precision, build_optimizer
from rv_train.parallel import PARALLEL
from rv_train.policies import build_encoder, build_policy
from rv_train.prepare import Job, prepare_run
from rv_train.saving import Saver
from rv_train.train import train
from tools.dev.forked_ranks import memory, quiet, run_ranks

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("losses", "memory", "resume", "nodes", "pause", "load")
KINDS = tuple(PARALLEL)
# Large enough that its weights are more than the noise of a process's memory: 6 million parameters. At a higher rate
# Adam makes whole steps of what is rounding in a gradient (that of the keys' biases is nothing else), and losses of two
# orders of sums part by 1e-4 within 50 steps.
MIDDLE = ["MODEL.TEXT.HIDDEN", 384, "MODEL.TEXT.LAYERS", 4, "MODEL.TEXT.MLP", 768, "MODEL.TEXT.HEADS", 4]
MIDDLE += ["TRAIN.lr", 1e-4]
LARGE = ["MODEL.TEXT.HIDDEN", 768, "MODEL.TEXT.LAYERS", 8, "MODEL.TEXT.MLP", 2048, "MODEL.TEXT.HEADS", 6]
# 247 million parameters, most of them in layers, as a large model's.
GIGABYTE = ["MODEL.TEXT.HIDDEN", 1536, "MODEL.TEXT.LAYERS", 10, "MODEL.TEXT.MLP", 4096, "MODEL.TEXT.HEADS", 12]
GIGABYTE += ["MODEL.TEXT.KV_HEADS", 2]


class Check:
    """What was found: lines on the console, problems, and the numbers for the JSON file."""

    def __init__(self, out: Path, steps: int, kinds: Sequence[str]) -> None:
        self.out, self.steps, self.kinds, self.problems, self.numbers = out, steps, kinds, [], {}
        self.demos = out / "demos/synthetic_demo.hdf5"
        if not self.demos.exists():
            self.demos.parent.mkdir()
            write_synthetic_demo_file(self.demos, 4, 24, 64, seed=0)

    def say(self, line: str = "") -> None:
        print(line, flush=True)

    def demand(self, fine: bool, problem: str) -> None:
        if not fine:
            self.problems.append(problem)
            self.say(f"NOT: {problem}")

    def cfg(self, name: str, kind: str, *opts: Any) -> CfgNode:
        base = ["EXP.DIR", str(self.out / "runs"), "EXP.ID", name, "DATA.FILES", [str(self.demos)]]
        run = ["TRAIN.PARALLEL", kind, "TRAIN.max_steps", self.steps, "TRAIN.save_every", self.steps // 5]
        return load_cfg(ROOT / "configs/tiny.yaml", [*base, *run, *MIDDLE, *opts])


def train_ranks(
    cfg: CfgNode,
    ranks: int,
    resume: bool = False,
    meanwhile: Callable[[Sequence[BaseProcess]], None] = lambda processes: None,
) -> dict[int, tuple[int, int]]:
    with quiet():
        job = prepare_run(cfg, torch.device("cpu"), ranks, resume, allow_changes=resume)
        return run_ranks(train, ranks, cfg, job, meanwhile=meanwhile)


# ------------------------------------------------------------------------------------------------ parts


def check_losses(check: Check) -> None:
    check.say("ranks  kind   loss of step 1, half, last             most apart  saved by each, MiB")
    for ranks in (2, 4):
        curves = {}
        for kind in KINDS:
            run = check.out / "runs" / f"{kind}_{ranks}"
            if not run.exists():
                train_ranks(check.cfg(run.name, kind), ranks)
            curves[kind] = [value for _, value in read_curves(run)["train/loss"]]
            apart = max(abs(a - b) / abs(a) for a, b in zip(curves["ddp"], curves[kind], strict=True))
            last = (run / "last").resolve()
            parts = sorted(last.glob("trainer*.safetensors")) or [last / "trainer.pt"]
            saved = [path.stat().st_size for path in parts]
            saved[0] += sum(path.stat().st_size for path in (last / "model").glob("*.safetensors"))
            shown = " ".join(f"{curves[kind][n]:.9f}" for n in (0, check.steps // 2, -1))
            sizes = " ".join(f"{size / 2**20:.0f}" for size in saved)
            check.say(f"{ranks:>5}  {kind:<6} {shown:<38} {apart:>10.2g}  {sizes}")
            check.numbers[run.name] = {"losses": curves[kind], "saved": saved}
            check.demand(apart <= (0 if kind == "zero1" else 1e-5), f"{kind} on {ranks} ranks is {apart:.2g} off")


def check_memory(check: Check) -> None:
    """Beyond what a rank has that holds nothing, where nothing is saved: weights, gradients, states, a step's rest."""
    [(_, empty)] = run_ranks(do_nothing, 1).values()
    check.say("kind   peak of each of 4 ranks, MiB")
    for kind in KINDS:
        run = check.out / "runs" / f"memory_{kind}"
        shutil.rmtree(run, ignore_errors=True)
        results = train_ranks(check.cfg(run.name, kind, *LARGE, "TRAIN.max_steps", 2, "TRAIN.async_save", False), 4)
        peaks = [results[rank][1] - empty for rank in range(4)]
        check.say(f"{kind:<6} {' '.join(f'{peak / 2**20:.0f}' for peak in peaks)}")
        check.numbers[run.name] = peaks


def do_nothing(rank: Rank) -> None:
    """What a rank has from the start."""


def check_resume(check: Check) -> None:
    for kind in check.kinds:
        whole, cut = check.out / "runs" / f"{kind}_4", check.out / "runs" / f"{kind}_4_killed"
        if not whole.exists():
            train_ranks(check.cfg(whole.name, kind), 4)
        shutil.rmtree(cut, ignore_errors=True)

        def kill(processes, cut=cut):
            while len(checkpoint.checkpoints(cut)) < 2:
                time.sleep(0.01)
            for process in processes:
                process.kill()

        train_ranks(check.cfg(cut.name, kind), 4, meanwhile=kill)
        at = checkpoint.checkpoints(cut)[-1].name
        if kind == "fsdp":
            shutil.copytree(cut, cut.with_name("fsdp_on_2"), symlinks=True)
        train_ranks(check.cfg(cut.name, kind), 4, resume=True)
        found = compare_runs(whole, cut)
        check.demand(not found, f"{kind} resumed differs: {found[:3]}")
        check.say(f"{kind:<6} 4 ranks killed, resumed from {at}: {'identical' if not found else 'different'}")
    if "fsdp" not in check.kinds:
        return
    two = check.out / "runs/fsdp_on_2"
    began = checkpoint.checkpoints(two)[-1]
    before = read_weights(began / "model")
    step = int(began.name.removeprefix("step_"))
    still = ["TRAIN.lr", 0.0, "TRAIN.weight_decay", 0.0, "TRAIN.max_steps", step + 1, "TRAIN.keep_last", 9]
    train_ranks(check.cfg(two.name, "fsdp", *still), 2, resume=True)
    after = read_weights(two / "last/model")
    equal = all(torch.equal(value, after[name]) for name, value in before.items())
    check.demand(equal, "weights of four ranks are not those that two go on with")
    train_ranks(check.cfg(two.name, "fsdp"), 2, resume=True)
    last = [dict(read_curves(run)["train/loss"])[check.steps] for run in (two, check.out / "runs/fsdp_4")]
    check.say(
        f"fsdp   4 ranks resumed on 2: weights {'equal' if equal else 'different'}, losses of the last step {last}"
    )


def check_nodes(check: Check) -> None:
    """Two agents on one machine, each in a folder of its own with the same relative paths in it."""
    for kind in check.kinds:
        folders = [check.out / f"node_{node}_{kind}" for node in range(2)]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(check.demos.parent, folder / "demos")
        for steps, flags in ((4, ()), (8, ("--resume",))):
            run_agents(check, folders, kind, steps, flags)
        names = [path.name for path in checkpoint.checkpoints(folders[0] / "runs/nodes")]
        damage = checkpoint.find_damage(folders[0] / "runs/nodes/last")
        there = sorted(path.name for path in folders[1].glob("runs/nodes/step_*"))
        whole = check.cfg(f"nodes_{kind}", kind, "TRAIN.max_steps", 8, "TRAIN.save_every", 4, "DATA.NUM_WORKERS", 0)
        train_ranks(whole, 4)
        one = read_weights(check.out / f"runs/nodes_{kind}/last/model")
        two = read_weights(folders[0] / "runs/nodes/last/model")
        equal = all(torch.equal(value, two[name]) for name, value in one.items())
        check.demand(
            names[-1] == "step_00000008" and damage is None and equal, f"{kind} on two nodes: {names}, {damage}"
        )
        check.say(
            f"{kind:<6} two agents of two ranks, 4 steps, resumed to 8: {', '.join(names)} on the first node, sent to "
            f"the second {', '.join(there) or 'nothing'}; weights {'equal' if equal else 'different'} to one node's"
        )


def run_agents(check: Check, folders: Sequence[Path], kind: str, steps: int, flags: Sequence[str]) -> None:
    port = distributed.free_port()
    opts: list[Any] = ["EXP.DIR", "runs", "EXP.ID", "nodes", "DATA.FILES", "['demos']", "TRAIN.PARALLEL", kind]
    opts += ["TRAIN.max_steps", steps, "TRAIN.save_every", 4, *MIDDLE]
    agents = []
    for node, folder in enumerate(folders):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={node}"]
        command += ["--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}", "-m", "rv_train.train"]
        command += ["--cfg", str(ROOT / "configs/tiny.yaml"), *flags, *map(str, opts)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        log = open(folder / f"log_{steps}.txt", "w")  # noqa: SIM115 - of the process
        agents.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log))
    codes = [agent.wait() for agent in agents]
    check.demand(codes == [0, 0], f"{kind} on two nodes ended with {codes}: see {folders[0]}/log_{steps}.txt")


def check_pause(check: Check) -> None:
    check.say("a model of 1 GB, one rank of ddp: weights and optimizer states, 3 GB")
    for meanwhile in (False, True):
        cfg = check.cfg(f"pause_{meanwhile}", "ddp", *GIGABYTE, "TRAIN.async_save", meanwhile)
        with quiet():
            job = prepare_run(cfg, torch.device("cpu"), 1)
            results = run_ranks(save_once, 1, cfg, job)
        pause, whole, size = results[0][0]
        shutil.rmtree(checkpoint.run_folder(cfg))
        how = "written meanwhile" if meanwhile else "written first"
        check.numbers[f"pause_{how}"] = {"pause": pause, "whole": whole, "bytes": size}
        check.say(
            f"  {how:<18} training stops for {pause:6.2f} s, {size / 1e9:.2f} GB are on the disk after {whole:6.2f} s"
        )


def save_once(rank: Rank, cfg: CfgNode, job: Job) -> tuple[float, float, int]:
    encoder = build_encoder(cfg, job.data.action_stats)
    bare = build_policy(cfg, encoder)
    parallel = PARALLEL[cfg.TRAIN.PARALLEL](bare, rank, Precision("off", rank.device))
    optimizer = build_optimizer(cfg.TRAIN, parallel.parameters)
    for parameter in parallel.parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    values = {"step": 1, "world_size": 1, "data_fingerprint": "", "scaler": {}, "bad_steps": {}, "best": None}
    with Saver(checkpoint.run_folder(cfg), cfg, job.data, parallel, rank) as saver:
        began = time.monotonic()
        saver.save(values, optimizer, Ema([], 0.0, device=torch.device("cpu")))
        pause = time.monotonic() - began
        saver.finish()
        whole = time.monotonic() - began
    files = checkpoint.files_below(checkpoint.run_folder(cfg) / "last")
    return pause, whole, sum(path.stat().st_size for path in files)


def check_load(check: Check) -> None:
    folder = check.out / "gigabyte"
    cfg = check.cfg("load", "fsdp", *GIGABYTE)
    if not folder.exists():
        run_ranks(write_weights, 1, cfg, folder)
    tokenizer = ["MODEL.TOKENIZER", str(folder), "MODEL.VOCAB_CUT", 0]
    cfg = check.cfg("load", "fsdp", *GIGABYTE, "MODEL.INIT", "pretrained", "MODEL.PATH", str(folder), *tokenizer)
    check.say("4 ranks of fsdp load 1 GB of float32 weights stored as bfloat16")
    for how, mapped in (("each a copy", False), ("mapped", True)):
        results = run_ranks(load_once, 4, cfg, mapped)
        most, after = ([result[n] for result, _ in results.values()] for n in (0, 1))
        check.numbers[f"load_{how}"] = {"peak": most, "after": after}
        check.say(
            f"  {how:<12} memory of their own at most {sum(most) / 2**20:5.0f} MiB together, then "
            f"{sum(after) / 2**20:5.0f} MiB"
        )


def write_weights(rank: Rank, cfg: CfgNode, folder: Path) -> None:
    folder.mkdir()
    torch.manual_seed(0)
    encoder = build_encoder(cfg)
    backbone = build_backbone(cfg, family_of(cfg), encoder.prompt.tokenizer).to(torch.bfloat16)
    save_weights(backbone, folder)
    encoder.prompt.tokenizer.save_pretrained(folder)


def load_once(rank: Rank, cfg: CfgNode, mapped: bool) -> tuple[int, int]:
    """(most, in the end) bytes of its own that this rank had beyond what it began with."""
    begun, most, done = memory()["RssAnon"], [], []

    def watch():
        while not done:
            most.append(memory()["RssAnon"])
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    torch.manual_seed(0)
    policy = build_policy(cfg, build_encoder(cfg), None, "cpu", mapped)
    parallel = PARALLEL["fsdp"](policy, rank, Precision("off", rank.device))
    dist.barrier()
    done.append(True)
    watcher.join()
    assert parallel.pieces
    return max(most) - begun, memory()["RssAnon"] - begun


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to check, see above")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of `resume` and `nodes`")
    parser.add_argument("--steps", type=int, default=50, help="of each run")
    parser.add_argument("--out", type=Path, help="keep all runs here, and go on with those that are there already")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    out = args.out.resolve() if args.out else Path(tempfile.mkdtemp(prefix="check_parallel_"))
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.set_num_threads(1)
    check = Check(out, args.steps, args.kinds)
    for part in args.parts:
        began = time.monotonic()
        check.say(f"\n{part}")
        globals()[f"check_{part}"](check)
        check.say(f"({time.monotonic() - began:.0f} s)")
    (out / "check_parallel.json").write_text(json.dumps(check.numbers, indent=1) + "\n")
    if check.problems:
        raise SystemExit(1)
    if not args.out:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
