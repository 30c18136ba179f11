"""What a run is, in a few lines: for the console, for TensorBoard and for the plan of `--dry_run`.

The `*_lines` functions yield (name, text) pairs for `table`; an empty name goes on with the one above.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from yacs.config import CfgNode

from rv_train.backbones.folders import EXPERT, find_weights
from rv_train.backbones.lora import is_seen, num_values
from rv_train.optim import base_lr, resolve_amp
from rv_train.policies import policy_class

if TYPE_CHECKING:
    from rv_train.data.load import TrainingData
    from rv_train.distributed import Rank
    from rv_train.policies.base import Policy


def describe(
    cfg: CfgNode, model: "Policy", data: "TrainingData", batches_per_epoch: int, total_steps: int, rank: "Rank"
) -> str:
    """What is about to happen, for the console and TensorBoard.

    Args:
        model: the bare model.
        data: a TrainingData.
        batches_per_epoch: of one rank.
        total_steps: optimizer steps of the run.
        rank: a distributed.Rank.
    """
    lines = [
        *model_lines(cfg, model),
        *data_lines(cfg, data),
        *step_lines(cfg, batches_per_epoch, total_steps),
        *recipe_lines(cfg, rank.world_size, resolve_amp(cfg.AMP.mode, rank.device)),
        *eval_lines(cfg),
        ("device", f"{rank.world_size} x {_device_name(rank.device)}"),
    ]
    return table(lines)


def table(lines: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def model_lines(cfg: CfgNode, policy: "Policy") -> Iterator[tuple[str, str]]:
    """policy: on any device, "meta" too."""
    counts = _counts(policy)
    total, trained = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    which = f"{cfg.MODEL.NAME} over {cfg.MODEL.BACKBONE}"
    yield "model", f"{which}, {total:,} parameters, {'all' if trained == total else f'{trained:,}'} trained"
    if not policy.INTEGERS and any(f"{{{name}}}" in cfg.PROMPT.SYSTEM for name in ("num_values", "num_bins")):
        yield "warning", f'PROMPT.SYSTEM asks for integers, and {cfg.MODEL.NAME} writes none; without: SYSTEM: ""'
    weights = find_weights(cfg.MODEL.PATH)[0] if cfg.MODEL.INIT == "pretrained" else None
    if weights and (weights / EXPERT).is_file():
        yield "warning", f"MODEL.PATH gives the backbone its weights; {weights / EXPERT} beside them is not taken"
    if trained == total:
        return
    for part, (number, learned) in counts.items():
        yield "", f"{part:<10}{learned:>13,} trained, {number - learned:>13,} frozen"
    lora = cfg.MODEL.LORA
    if lora.RANK:
        where = "text and vision" if lora.VISION else "text"
        yield "", f"LoRA of rank {lora.RANK}, alpha {lora.ALPHA}, dropout {lora.DROPOUT:g}, on the {where} tower's"
        adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name, _ in policy.named_parameters()}
        yield "", " ".join(name for name in lora.TARGETS if name in adapted)
    if cfg.MODEL.QUANTIZE != "none":
        yield "", f"the text tower's frozen matrices are {cfg.MODEL.QUANTIZE}"


def _counts(policy):
    """{part of the model: (parameters, trained ones)}, adapters with the tower they are in"""
    counts = {part: (0, 0) for part in ("vision", "text", *policy.PARTS)}
    for name, parameter in policy.named_parameters():
        own = next((part for part, start in policy.PARTS.items() if name.startswith(start)), None)
        part = own or ("vision" if is_seen(name, policy.family) else "text")
        number, learned = counts[part]
        values = num_values(parameter)
        counts[part] = number + values, learned + values * parameter.requires_grad
    return {part: found for part, found in counts.items() if found[0]}


def data_lines(cfg: CfgNode, data: "TrainingData") -> Iterator[tuple[str, str]]:
    info = data.info
    yield (
        "data",
        f"{info['num_frames']:,} frames of {info['num_demos']:,} demos in {plural(len(info['files']), 'file')}, "
        f"{sizes_text(info['cameras'])}, rendering {info['render']}",
    )
    yield from mix_lines(data)
    held_out = plural(info["num_valid_demos"], "demo") if data.valid else "none"
    yield "", f"trained on {len(data.train):,} frames, held out: {held_out} (DATA.VAL_SHARE {cfg.DATA.VAL_SHARE:g})"
    if info.get("written"):
        yield "", f"actions are written with {info['written']}"
    origin = info["stats"] or "of this data"
    written = "are clipped" if policy_class(cfg).INTEGERS else "stay what they are"
    yield "", f"range of the actions {origin}, {cfg.ACTION.RANGE}, {info['num_clipped']:,} values outside it {written}"
    yield from (("", line) for line in info.get("constant", ()))
    yield "", f"fingerprint {info['fingerprint'][:16]}"
    if data.wordings:
        yield "", f"asked in {info['num_wordings']:,} wordings of {plural(len(data.wordings), 'instruction')}"
    if info.get("num_bad_lines"):
        yield "", f"{info['num_bad_lines']:,} bad lines of the manifest are left out (DATA.SKIP_BAD)"
    if info.get("num_hidden"):
        yield "", f"{info['num_hidden']:,} samples hide digits (X), where nothing is learned"


def mix_lines(data: "TrainingData") -> Iterator[tuple[str, str]]:
    """The sets of a mixture: what is trained on of each, and how often."""
    blocks = data.train.mix
    held_out = {block.name: block.demos for block in data.valid.mix} if data.valid else {}
    for block in blocks:
        drawn = f"weight {block.weight:g}, {block.share:.1%}" if block.weight else f"{block.share:.1%}"
        passes = block.share * len(data.train) / block.samples
        yield (
            "",
            f"  {block.name}: {block.samples:,} frames of {plural(block.demos, 'demo')}, "
            f"{held_out.get(block.name, 0)} held out; {drawn} of the samples, {passes:.3g} passes an epoch",
        )


def sizes_text(cameras: Mapping[str, Sequence[int]]) -> str:
    """{camera: (height, width)} in words: one size where all have it."""
    sizes = [f"{height} x {width}" for height, width in cameras.values()]
    if len(set(sizes)) == 1:
        return sizes[0]
    return ", ".join(f"{name} {size}" for name, size in zip(cameras, sizes, strict=True))


def step_lines(cfg: CfgNode, batches_per_epoch: int, total_steps: int) -> Iterator[tuple[str, str]]:
    per_epoch = batches_per_epoch / cfg.TRAIN.grad_accum
    epochs = f"TRAIN.max_steps, {total_steps / per_epoch:.3g}" if cfg.TRAIN.max_steps else f"{cfg.TRAIN.epochs}"
    yield "steps", f"{total_steps:,} ({epochs} epochs of {per_epoch:,.6g} steps, DATA.SAMPLER {cfg.DATA.SAMPLER})"


def recipe_lines(cfg: CfgNode, world_size: int, amp: str) -> Iterator[tuple[str, str]]:
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
    held = {
        "ddp": "states whole on every rank",
        "zero1": "states shared out over the ranks",
        "fsdp": "states, gradients and weights shared out over the ranks",
    }
    yield "optimizer", f"{train.optimizer}, betas {betas}, weight decay {train.weight_decay:g}, {clip}"
    yield "", f"{held[train.PARALLEL]} (TRAIN.PARALLEL {train.PARALLEL})"
    yield "", f"moving average of the weights, decay {train.ema:g}" if train.ema else "no moving average"
    mixed = "no autocast" if amp == "off" else f"{amp} autocast"
    trained = "adapter" if cfg.MODEL.LORA.RANK else "expert" if cfg.MODEL.FREEZE else ""
    frozen = f"{trained}, {cfg.AMP.frozen_dtype} frozen " if trained else ""
    yield "precision", f"{mixed}, {cfg.AMP.param_dtype} {frozen}weights"
    checkpointing = "recomputed in the backward pass" if train.grad_checkpoint else "kept for the backward pass"
    compiled = ("compiled" if train.compile else "not compiled") + ", deterministic kernels" * train.deterministic
    yield "", f"attention {cfg.MODEL.ATTENTION}, activations {checkpointing}, {compiled}"


def eval_lines(cfg: CfgNode) -> Iterator[tuple[str, str]]:
    preset, horizon = cfg.EVAL, cfg.ACTION.HORIZON
    yield "evaluation", f"executes {preset.ACTION_HORIZON or horizon} of {horizon} predicted actions, then looks again"
    if preset.ENSEMBLE_PREDICTION > 1:
        fading = " to the power of their age" if preset.ENSEMBLE_VERSION == 2 else ""
        weight = f"older ones weigh {preset.ENSEMBLE_WEIGHT:g}{fading}"
        yield "", f"averages {preset.ENSEMBLE_PREDICTION} overlapping chunks, {weight}"


def plural(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"


def _device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
