"""Train a policy: `python -m rv_train.train --cfg configs/quickstart.yaml [--resume] [KEY VALUE ...]`.

Read `train` from top to bottom: it is the whole loop. `main` checks everything that can be checked before a process
is started, so that bad input costs one line and nothing half-written.
"""

import argparse
import contextlib
import shutil
import sys

import torch
import torch.distributed as dist
import yaml
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from libs.action_text import ActionTextCodec
from libs.cli import cli_errors
from rv_train import checkpoint
from rv_train.config import cfg_to_dict, first_difference, load_cfg
from rv_train.data.demos import DemoDataset, find_demo_files
from rv_train.data.features import ObservationEncoder, TrainingSet
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.data.stats import compute_action_stats
from rv_train.distributed import gather_objects, job, launch, mean_over_ranks, parse_devices
from rv_train.models import build_model
from rv_train.models.qwen import check_weights
from rv_train.optim import Precision, base_lr, build_optimizer, lr_at, resolve_amp
from rv_train.tracking import Stopwatch, Tracker, write_run_json

# What may change when a run is resumed; anything else would make it another run.
FREE_ON_RESUME = (
    "EXP.DIR",
    "EXP.ID",
    "DATA.FILES",  # the same data may have moved: its fingerprint is compared
    "DATA.NUM_WORKERS",
    "TRAIN.epochs",
    "TRAIN.max_steps",
    "TRAIN.log_every",
    "TRAIN.save_every",
    "TRAIN.keep_last",
)


def train(rank, cfg, resume):
    """One rank, start to end.

    Args:
        rank: a distributed.Rank.
        cfg: the frozen config tree.
        resume: checkpoint folder to continue from, or None.
    """
    torch.manual_seed(cfg.EXP.SEED)
    run, device = checkpoint.run_folder(cfg), rank.device

    # Demonstrations → batches. Which samples make batch number n is a pure function of n.
    dataset, action_stats, data_info = load_data(cfg)
    encoder = ObservationEncoder.from_cfg(cfg)
    codec = ActionTextCodec(action_stats["min"], action_stats["max"], cfg.ACTION.NUM_BINS)
    trainer = checkpoint.load_trainer(resume) if resume else None
    start_step = trainer["step"] if trainer else 0
    sampler = ResumableBatchSampler(
        num_samples=len(dataset),
        batch_size=cfg.TRAIN.batch_size,
        mode=cfg.DATA.SAMPLER,
        seed=cfg.EXP.SEED,
        rank=rank.rank,
        world_size=rank.world_size,
        start_batch=start_step * cfg.TRAIN.grad_accum,
    )
    loader = DataLoader(
        TrainingSet(dataset, encoder, codec, cfg.EXP.SEED),
        batch_sampler=sampler,
        num_workers=cfg.DATA.NUM_WORKERS,
        collate_fn=encoder.collate,
        generator=torch.Generator().manual_seed(cfg.EXP.SEED),  # its own, so that a resumed run draws alike
        pin_memory=device.type == "cuda",
    )
    total_steps = count_steps(cfg, sampler)

    # Model, optimizer, precision.
    bare = build_model(cfg, encoder.prompt, codec, resume / "model" if resume else None).to(device).train()
    if cfg.TRAIN.grad_checkpoint:
        bare.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    model = DistributedDataParallel(
        bare, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )
    parameters = [p for p in bare.parameters() if p.requires_grad]
    optimizer = build_optimizer(cfg.TRAIN, parameters)
    precision = Precision(cfg.AMP.mode, device)
    if trainer:
        optimizer.load_state_dict(trainer["optimizer"])
        precision.scaler.load_state_dict(trainer["scaler"])
        checkpoint.set_rng_state(trainer["rng"][rank.rank], device)

    tracker = Tracker(run, start_step, total_steps) if rank.is_main else None
    if tracker:
        write_run_json(run, cfg, rank.world_size, data_info, action_stats, start_step)
        tracker.text("config", yaml.safe_dump(cfg_to_dict(cfg), sort_keys=False))
        print(plan(cfg, bare, dataset, sampler, total_steps, rank), flush=True)

    peak_lr = base_lr(cfg.TRAIN, rank.world_size)
    schedule = (cfg.TRAIN.schedule, cfg.TRAIN.warmup, cfg.TRAIN.lr_end)
    batches, watch = iter(loader), Stopwatch()
    loss_sum, window = torch.zeros((), device=device), 0

    for step in range(start_step, total_steps):
        lr = lr_at(step, total_steps, peak_lr, *schedule)
        for group in optimizer.param_groups:
            group["lr"] = lr

        for micro in range(cfg.TRAIN.grad_accum):
            batch = {k: v.to(device, non_blocking=True) for k, v in watch.wait_for(batches).items()}
            last = micro + 1 == cfg.TRAIN.grad_accum
            with contextlib.nullcontext() if last else model.no_sync():  # gradients meet once per step
                with precision.autocast():
                    loss = model(batch)["loss"]
                precision.backward(loss / cfg.TRAIN.grad_accum)
            loss_sum += loss.detach() / cfg.TRAIN.grad_accum
        grad_norm = precision.step(optimizer, parameters, cfg.TRAIN.clip_grad)
        optimizer.zero_grad(set_to_none=True)
        window += 1

        done = step + 1
        if done % cfg.TRAIN.log_every == 0 or done == total_steps:
            mean_loss = mean_over_ranks(loss_sum / window).item()
            if tracker:
                samples = window * cfg.TRAIN.batch_size * cfg.TRAIN.grad_accum * rank.world_size
                tracker.report(
                    done,
                    {
                        "train/loss": mean_loss,
                        "train/lr": lr,
                        "train/grad_norm": grad_norm.item(),
                        "speed/samples_per_s": samples / watch.seconds,
                        "speed/data_wait": watch.waited / watch.seconds,
                    },
                )
            loss_sum.zero_()
            window = 0
            watch.restart()

        if done % cfg.TRAIN.save_every == 0 or done == total_steps:
            generators = gather_objects(checkpoint.rng_state(device))
            if rank.is_main:
                state = {
                    "step": done,
                    "world_size": rank.world_size,
                    "data_fingerprint": action_stats["fingerprint"],
                    "optimizer": optimizer.state_dict(),
                    "scaler": precision.scaler.state_dict(),
                    "rng": generators,
                }
                checkpoint.save_checkpoint(run, done, bare, state, cfg, action_stats, data_info)
            dist.barrier()

    if tracker:
        tracker.close()
        print(f"done: {run / 'last'}", flush=True)


def load_data(cfg):
    """The demonstrations of DATA.FILES: (DemoDataset, action statistics, what a checkpoint should know of them)."""
    dataset = DemoDataset(find_demo_files(cfg.DATA.FILES), cfg.DATA.VIEWS, cfg.ACTION.HORIZON)
    stats = compute_action_stats(dataset)
    if len(stats["min"]) != cfg.ACTION.DIM:
        raise ValueError(f"ACTION.DIM is {cfg.ACTION.DIM}, {dataset.files[0].path} has {len(stats['min'])} dimensions")
    info = {
        "render": dataset.render,
        "resolution": dataset.resolution,
        "fingerprint": stats["fingerprint"],
        "files": [str(file.path) for file in dataset.files],
    }
    return dataset, stats, info


def plan(cfg, model, dataset, sampler, total_steps, rank):
    """What is about to happen, for the console."""
    parameters = sum(p.numel() for p in model.parameters())
    batch = cfg.TRAIN.batch_size * cfg.TRAIN.grad_accum * rank.world_size
    return (
        f"model    {cfg.MODEL.NAME}, {parameters:,} parameters\n"
        f"data     {len(dataset):,} frames of {dataset.num_demos} demos, rendering: {dataset.render}\n"
        f"batch    {batch} samples per step on {rank.world_size} rank(s), {total_steps:,} steps, "
        f"{sampler.batches_per_epoch / cfg.TRAIN.grad_accum:.0f} steps per epoch\n"
        f"lr       {base_lr(cfg.TRAIN, rank.world_size):.2e}, schedule {cfg.TRAIN.schedule}\n"
        f"device   {rank.device.type}, mixed precision {resolve_amp(cfg.AMP.mode, rank.device)}"
    )


def count_steps(cfg, sampler):
    """Optimizer steps of the whole run; ValueError if there is none."""
    steps = cfg.TRAIN.max_steps or cfg.TRAIN.epochs * sampler.batches_per_epoch // cfg.TRAIN.grad_accum
    if steps == 0:
        raise ValueError(f"{cfg.TRAIN.epochs} epochs hold fewer batches than TRAIN.grad_accum {cfg.TRAIN.grad_accum}")
    return steps


def prepare_run(cfg, resume, rank, world_size):
    """Check what can be checked before anything starts; returns the checkpoint to resume from, or None.

    Rank 0 makes the folder of a new run. Under torchrun every rank comes through here, else only the parent process.

    Raises:
        ValueError: data or config that cannot be trained on, nothing to resume, a folder that already holds something,
            or a resume with another config, other data or another number of ranks.
    """
    run = checkpoint.run_folder(cfg)
    dataset, stats, _ = load_data(cfg)
    codec = ActionTextCodec(stats["min"], stats["max"], cfg.ACTION.NUM_BINS)
    sampler = ResumableBatchSampler(
        len(dataset), cfg.TRAIN.batch_size, cfg.DATA.SAMPLER, cfg.EXP.SEED, rank, world_size, start_batch=0
    )
    count_steps(cfg, sampler)
    if not resume:
        check_weights(cfg)
    TrainingSet(dataset, ObservationEncoder.from_cfg(cfg), codec, cfg.EXP.SEED)[next(iter(sampler))[0]]
    folder = checkpoint.find_resume(run) if resume else None
    if resume:
        trainer = checkpoint.load_trainer(folder)
        for name, now in (("world_size", world_size), ("data_fingerprint", stats["fingerprint"])):
            if trainer[name] != now:
                raise ValueError(f"--resume: {folder} was written with {name} {trainer[name]}, this run has {now}")
        difference = first_difference(cfg, checkpoint.read_model_cfg(folder / "model"), FREE_ON_RESUME)
        if difference:
            raise ValueError("--resume: {} is {!r} now, the run was started with {!r}".format(*difference))
    elif checkpoint.checkpoints(run):
        raise ValueError(f"{run} already holds a run: continue it with --resume, or choose another EXP.ID")
    elif run.exists():
        checkpoint.refuse_foreign(run)
    if rank == 0:
        if not resume:
            shutil.rmtree(run, ignore_errors=True)  # the remains of a run that never reached its first checkpoint
            run.mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump(cfg_to_dict(cfg), sort_keys=False))
    return folder


@cli_errors
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cfg", required=True, help="recipe, a YAML file under configs/")
    parser.add_argument("--resume", action="store_true", help="continue from the run's last complete checkpoint")
    parser.add_argument("--devices", help="GPUs to train on, such as 0,1,2,3 (default: all)")
    parser.add_argument("--nproc", type=int, help="number of CPU ranks instead of GPUs")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="pairs that override the recipe")
    args = parser.parse_intermixed_args(argv)
    cfg = load_cfg(args.cfg, args.opts)
    devices = parse_devices(args.devices, args.nproc)
    folder = prepare_run(cfg, args.resume, *job(devices))
    try:
        launch(train, devices, cfg, folder)
    except KeyboardInterrupt:
        print("interrupted; --resume continues from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
