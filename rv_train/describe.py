"""What a run is, in a few lines: for the console, for TensorBoard and for the plan of `--dry_run`.

The `*_lines` functions yield (name, text) pairs for `table`; an empty name goes on with the one above.
"""

import torch

from rv_train.optim import base_lr, resolve_amp


def describe(cfg, model, data, batches_per_epoch, total_steps, rank):
    """What is about to happen, for the console and TensorBoard.

    Args:
        model: the bare VLA0.
        data: a TrainingData.
        batches_per_epoch: of one rank.
        total_steps: optimizer steps of the run.
        rank: a distributed.Rank.
    """
    lines = [
        *model_lines(cfg, list(model.parameters())),
        *data_lines(cfg, data),
        *step_lines(cfg, batches_per_epoch, total_steps),
        *recipe_lines(cfg, rank.world_size, resolve_amp(cfg.AMP.mode, rank.device)),
        ("device", f"{rank.world_size} x {_device_name(rank.device)}"),
    ]
    return table(lines)


def table(lines):
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def model_lines(cfg, parameters):
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    yield "model", f"{cfg.MODEL.NAME}, {total:,} parameters, {'all' if trained == total else f'{trained:,}'} trained"


def data_lines(cfg, data):
    info = data.info
    side = info["resolution"]
    yield (
        "data",
        f"{info['num_frames']:,} frames of {info['num_demos']:,} demos in {plural(len(info['files']), 'file')}, "
        f"{side} x {side}, rendering {info['render']}",
    )
    held_out = plural(info["num_valid_demos"], "demo") if data.valid else "none"
    yield "", f"trained on {len(data.train):,} frames, held out: {held_out} (DATA.VAL_SHARE {cfg.DATA.VAL_SHARE:g})"
    origin = info["stats"] or "of this data"
    yield "", f"range of the actions {origin}, {info['num_clipped']:,} values outside it are clipped"
    yield "", f"fingerprint {info['fingerprint'][:16]}"
    if info.get("num_bad_lines"):
        yield "", f"{info['num_bad_lines']:,} bad lines of the manifest are left out (DATA.SKIP_BAD)"
    if info.get("num_hidden"):
        yield "", f"{info['num_hidden']:,} samples hide digits (X), where nothing is learned"


def step_lines(cfg, batches_per_epoch, total_steps):
    per_epoch = batches_per_epoch / cfg.TRAIN.grad_accum
    epochs = f"TRAIN.max_steps, {total_steps / per_epoch:.3g}" if cfg.TRAIN.max_steps else f"{cfg.TRAIN.epochs}"
    yield "steps", f"{total_steps:,} ({epochs} epochs of {per_epoch:,.6g} steps, DATA.SAMPLER {cfg.DATA.SAMPLER})"


def recipe_lines(cfg, world_size, amp):
    train = cfg.TRAIN
    ranks = plural(world_size, "rank")
    accum = f" x {train.grad_accum} passes" if train.grad_accum > 1 else ""
    batch = train.batch_size * train.grad_accum * world_size
    yield "batch", f"{batch} samples per step = {train.batch_size} per rank{accum} x {ranks}"
    scaled = f" = {train.lr:g} x {ranks}" if train.scale_lr else ", not scaled by the number of ranks"
    schedule = "constant" if train.schedule == "none" else f"{train.schedule} down to {train.lr_end:g} of it"
    warmup = f"{train.warmup:.0%} of the steps" if train.warmup < 1 else f"{train.warmup:.0f} steps"
    yield "lr", f"{base_lr(train, world_size):.2e}{scaled}, {schedule}"
    yield "", f"warm-up over {warmup}" if train.warmup else "no warm-up"
    clip = f"gradient norm clipped at {train.clip_grad:g}" if train.clip_grad else "no clipping"
    betas = " ".join(f"{beta:g}" for beta in train.betas)
    yield "optimizer", f"{train.optimizer}, betas {betas}, weight decay {train.weight_decay:g}, {clip}"
    yield "", f"moving average of the weights, decay {train.ema:g}" if train.ema else "no moving average"
    mixed = "no autocast" if amp == "off" else f"{amp} autocast"
    yield "precision", f"{mixed}, {cfg.AMP.param_dtype} weights"
    checkpointing = "recomputed in the backward pass" if train.grad_checkpoint else "kept for the backward pass"
    compiled = "compiled" if train.compile else "not compiled"
    yield "", f"attention {cfg.MODEL.ATTENTION}, activations {checkpointing}, {compiled}"


def plural(number, name):
    return f"{number} {name}{'s' * (number != 1)}"


def _device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
