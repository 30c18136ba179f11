"""Train a policy by a recipe, or let a run go on.

    python -m rv_train.train --cfg configs/quickstart.yaml --nproc 2 EXP.ID my_run TRAIN.max_steps 500
    python -m rv_train.train --cfg configs/vla0.yaml --devices 0 1 2 3 DATA.FILES path/to/demos
    python -m rv_train.train --resume checkpoints/my_run
    python -m rv_train.train --cfg configs/quickstart.yaml --resume EXP.ID my_run

KEY VALUE pairs change a recipe; docs/config.md has every KEY. A run that goes on by its folder keeps its recipe, and on
the CPU its number of ranks; --cfg with --resume takes the recipe as it reads now, and refuses what would be another
run.

Exit codes: 0 done, 1 failed (a traceback), 2 bad input (one line says which), 75 stopped by SIGTERM or SIGUSR1 after
saving a checkpoint, so that `--resume` continues, 130 interrupted from the keyboard.
"""

# Read `train` from top to bottom: it is the whole loop. What can be checked before it starts is checked in prepare.py.

import contextlib
import json
import math
import os
from collections.abc import Sequence

import torch
import yaml
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from libs.cli import cli_errors
from libs.config_tree import to_dict
from libs.errors import BadInput
from libs.files import write_whole
from rv_train import checkpoint
from rv_train.arguments import chosen_cfg, parse_args
from rv_train.backbones.folders import SAVED, stay_at_step
from rv_train.backbones.loading import fetch_pretrained
from rv_train.backbones.tokenizer import read_tokenizer
from rv_train.bad_steps import BadSteps
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.data.training_set import TrainingSet
from rv_train.describe import describe, table
from rv_train.distributed import (
    Rank,
    agree,
    gather_objects,
    ignore_signals,
    launch,
    leader,
    parse_devices,
    under_torchrun,
)
from rv_train.kernels import choose_kernels
from rv_train.optim import Ema, Precision, base_lr, build_optimizer, lr_at
from rv_train.parallel import PARALLEL
from rv_train.plan import count_steps, dry_run
from rv_train.policies import build_encoder, build_policy
from rv_train.prepare import Job, prepare_run
from rv_train.provenance import write_run_json
from rv_train.run_pages import open_pages
from rv_train.sanity import sanity_forward
from rv_train.saving import Saver, mirror
from rv_train.shares import load_states, open_states, set_rng_state
from rv_train.steps import Steps
from rv_train.tracking import Meter, Tracker, peak_memory
from rv_train.validate import Validation, due, milestones

STOPPED = os.EX_TEMPFAIL  # 75: try again


def train(rank: Rank, cfg: CfgNode, job: Job) -> int:
    """One rank, start to end; returns the exit code.

    Args:
        rank: a distributed.Rank.
        cfg: the frozen config tree.
        job: a prepare.Job.
    """
    torch.manual_seed(cfg.EXP.SEED)
    run, device, data = checkpoint.run_folder(cfg), rank.device, job.data
    choose_kernels(cfg.TRAIN.deterministic, device)
    if job.resume:
        mirror(job.resume, rank)
    saved = checkpoint.load_trainer(job.resume, mapped=device.type == "cuda") if job.resume else None
    start_step = saved["step"] if saved else 0

    # Demonstrations → batches. Which samples make batch number n is a pure function of n.
    if not job.resume:
        fetch_pretrained(cfg)  # on another machine than that which prepared the job
    tokenizer = read_tokenizer(job.resume / "model") if job.resume else None
    encoder = build_encoder(cfg, data.action_stats, tokenizer)
    start_batch = start_step * cfg.TRAIN.grad_accum
    sampler = ResumableBatchSampler.from_cfg(cfg, data.train, rank.rank, rank.world_size, start_batch)
    samples = TrainingSet(data.train, encoder, cfg.EXP.SEED, wordings=data.wordings)
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=cfg.DATA.NUM_WORKERS,
        collate_fn=encoder.collate,
        generator=torch.Generator().manual_seed(cfg.EXP.SEED),  # its own, so that a resumed run draws alike
        worker_init_fn=ignore_signals,
        pin_memory=device.type == "cuda",
    )
    steps_per_epoch = sampler.batches_per_epoch / cfg.TRAIN.grad_accum
    total_steps = count_steps(cfg, sampler.batches_per_epoch)
    validation = Validation(cfg, data.valid, encoder, data.action_stats, rank) if data.valid else None

    # Model, optimizer, precision.
    kind, weights = PARALLEL[cfg.TRAIN.PARALLEL], job.resume / "model" if job.resume else None
    bare = build_policy(cfg, encoder, weights, device, kind.places).train()
    if cfg.TRAIN.grad_checkpoint:
        bare.recompute_activations()
    if cfg.TRAIN.compile:
        bare.compile()
    precision = Precision(cfg.AMP.mode, device)
    parallel = kind(bare, rank, precision, cfg.TRAIN.grad_accum > 1)
    parallel.settle(lambda: encoder.collate([samples[0, 0, n % len(data.train)] for n in range(cfg.TRAIN.batch_size)]))
    torch.manual_seed(cfg.EXP.SEED + rank.rank)  # weights were drawn alike; what is dropped out is every rank's own
    model, parameters = parallel.model, parallel.parameters
    optimizer = build_optimizer(cfg.TRAIN, parameters)
    ema = Ema([piece.value for piece in parallel.pieces], cfg.TRAIN.ema, parallel.spread, device)
    bad_steps = BadSteps(cfg.TRAIN.max_bad_steps, data.train.where, saved and saved["bad_steps"])
    best = saved["best"] if saved else None  # (val/loss, step)
    if job.resume and saved:
        if saved["scaler"]:  # empty where the run began without one (--allow_changes)
            precision.scaler.load_state_dict(saved["scaler"])
        with open_states(job.resume, saved, [name for name, _ in parallel.trained]) as states:
            load_states(states, parallel, optimizer, ema)
            set_rng_state(states.rng(rank.rank), device)
        del saved, states

    tracker = None
    if rank.is_main:
        lock = checkpoint.lock(run)  # noqa: F841 - this process holds the folder until the variable goes
        if job.resume:
            checkpoint.tidy(run, start_step, best, cfg.TRAIN, milestones(start_step, total_steps, steps_per_epoch, cfg))
        tracker = Tracker(open_pages(cfg, run, start_step), start_step, total_steps)
        tree = yaml.safe_dump(to_dict(cfg), sort_keys=False)
        write_whole(run / SAVED, tree)  # `--resume RUN` reads it, also behind a kill
        (run / "config.json").write_text(json.dumps(to_dict(cfg), indent=1) + "\n")
        write_run_json(run, cfg, rank, data.info, bare, start_step)
        tracker.text("config", tree)
        summary = describe(cfg, bare, data, sampler.batches_per_epoch, total_steps, rank)
        tracker.text("run", summary)
        tracker.line(summary)
        if job.resume:
            tracker.line(table([("resumed", f"after step {start_step:,}, from {job.resume}")]))

    def validate(done):
        """The val/* scores that are due after this step; with a moving average, those of the average."""
        scores = {}
        with_loss = due(done, cfg.VALID.loss_every, steps_per_epoch, total_steps)
        with_answers = due(done, cfg.VALID.gen_every, steps_per_epoch, total_steps)
        if validation and (with_loss or with_answers):
            with ema.swapped():
                if with_loss:
                    scores |= validation.loss(bare, precision)
                if with_answers:
                    with parallel.whole() as asked:
                        answered, figure = validation.generate(asked)
                    scores |= answered
            if tracker:
                tracker.scalars(done, scores)
                if with_answers and figure:
                    tracker.figure("val/chunks", figure, done)
        return scores

    def save(done, best, links):
        steps.read()
        values = {
            "step": done,
            "world_size": rank.world_size,
            "data_fingerprint": data.info["fingerprint"],
            "scaler": precision.scaler.state_dict(),
            "bad_steps": bad_steps.state_dict(),
            "best": best,
        }
        saver.save(values, optimizer, ema, links)

    peak_lr = base_lr(cfg.TRAIN, rank.world_size)
    schedule = (cfg.TRAIN.schedule, cfg.TRAIN.warmup, cfg.TRAIN.lr_end)
    batches, meter = iter(loader), Meter(bare.flops(), rank, cfg.TRAIN.peak_tflops)
    steps, stop = Steps(bad_steps, bare, precision), False

    with tracker or contextlib.nullcontext(), Saver(run, cfg, data, parallel, rank) as saver:
        for step in range(start_step, total_steps):
            lr = lr_at(step, total_steps, peak_lr, *schedule)
            for group in optimizer.param_groups:
                group["lr"] = lr

            step_loss, step_batches = torch.zeros((), device=device), []
            for micro in range(cfg.TRAIN.grad_accum):
                batch = {k: v.to(device, non_blocking=True) for k, v in meter.next(batches).items()}
                last = micro + 1 == cfg.TRAIN.grad_accum
                with contextlib.nullcontext() if last else parallel.accumulating():
                    with precision.autocast():
                        loss = model(batch)["loss"]
                    precision.backward(loss / cfg.TRAIN.grad_accum)
                step_loss += loss.detach() / cfg.TRAIN.grad_accum
                step_batches.append(batch)
            grad_norm = precision.clip(optimizer, parameters, cfg.TRAIN.clip_grad)
            told = agree(step_loss, grad_norm)
            with parallel.updating():
                precision.step(optimizer, told.bad)
            optimizer.zero_grad(set_to_none=not parallel.keeps_gradients)
            ema.update(told.bad)

            done = step + 1
            reporting = done % cfg.TRAIN.log_every == 0 or done == total_steps
            steps.add(told, step_batches)
            steps.read(behind=0 if reporting else 1)  # the last step's; this one may go on while the next is prepared
            stop = steps.stop and done < total_steps
            saver.check()
            if tracker:
                tracker.advance(done)
            memory = gather_objects(peak_memory(device)) if reporting else []
            if tracker and reporting:
                scalars = {
                    "train/loss": steps.mean_loss(),
                    "train/lr": lr,
                    "train/grad_norm": steps.grad_norm,
                    "train/skipped_steps": bad_steps.skipped,
                }
                tracker.report(done, {**scalars, **meter.scalars()}, memory)
                steps.restart()
                meter.restart()

            with meter.paused():
                loss = validate(done).get("val/loss")
                improved = loss is not None and loss < (best[0] if best else math.inf)  # never for NaN
                if improved:
                    best = (loss, done)
                links = milestones(done, total_steps, steps_per_epoch, cfg)
                if improved or stop or links or done % cfg.TRAIN.save_every == 0:
                    save(done, best, links)
            if stop:
                break

    if tracker:
        what = f"stopped by a signal at step {done}, --resume {run} continues" if stop else "done"
        if start_step >= total_steps:
            what = f"nothing left to do after step {start_step:,} (TRAIN.max_steps or TRAIN.epochs may give it more)"
        tracker.line(f"{what}: {run / 'last'}")
    return STOPPED if stop else 0


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(__doc__, argv)
    cfg = chosen_cfg(args)
    if args.allow_changes and not args.resume:
        raise BadInput("--allow_changes says what may differ from the run that --resume continues: give both")
    if args.dry_run:
        dry_run(cfg, args.devices, args.nproc)
        return
    if under_torchrun() and (args.devices or args.nproc):
        raise BadInput("--devices and --nproc choose ranks, but under torchrun (RANK is set) its ranks are used")
    devices = parse_devices(args.devices, args.nproc)
    if args.sanity_forward:
        raise SystemExit(sanity_forward(cfg, devices[0]))
    if not args.resume:
        cfg = stay_at_step(cfg)
    first, world_size = leader(devices)
    job = prepare_run(cfg, devices[0], world_size, bool(args.resume), args.allow_changes) if first else None
    try:
        code = launch(train, devices, cfg, job)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_way_on(checkpoint.run_folder(cfg))) from None
    raise SystemExit(code)


def _way_on(run):
    """How a run goes on that was interrupted, which saves nothing."""
    good = checkpoint.checkpoints(run)
    if not good:
        return "nothing was saved yet, the same command begins"
    return f"--resume {run} continues from {good[-1].name}"


if __name__ == "__main__":
    main()
