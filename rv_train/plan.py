"""`--dry_run`: what a run is going to do, said before there are weights, data or GPUs."""

import os
import re
import shutil
import textwrap
from collections.abc import Sequence

import torch
from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones.lora import check_packages
from rv_train.backbones.prompt import IGNORE, PromptEncoder
from rv_train.backbones.running import check_attention, check_compiler
from rv_train.checkpoint import run_folder
from rv_train.data.load import load_data
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.data.training_set import TrainingSet
from rv_train.describe import data_lines, eval_lines, model_lines, plural, recipe_lines, step_lines, table
from rv_train.distributed import parse_devices, under_torchrun
from rv_train.memory import memory_estimate, saved_bytes
from rv_train.optim import base_lr, check_optimizer, resolve_amp
from rv_train.policies import build_encoder, outline_policy, policy_class
from rv_train.run_pages import check_trackers

GIB = 2**30
CARDS = (24, 40, 48, 80, 141)  # GB of common GPUs
ROOM = 0.95  # share of a card that a step may fill by the estimate: the rest is for the driver and the allocator
# Bytes per second, a guess for the pause of a save: from a GPU into ordinary memory; onto a disk, checksums included.
COPIED_PER_S, WRITTEN_PER_S = 4e9, 1e9
STAND_IN = "put the white mug on the left plate and put the yellow and white mug on the right plate"  # a long one


def count_steps(cfg: CfgNode, batches_per_epoch: int) -> int:
    """Optimizer steps of the whole run; BadInput if there is none.

    Args:
        batches_per_epoch: of one rank.
    """
    steps = cfg.TRAIN.max_steps or cfg.TRAIN.epochs * batches_per_epoch // cfg.TRAIN.grad_accum
    if steps == 0:
        raise BadInput(f"{cfg.TRAIN.epochs} epochs hold fewer batches than TRAIN.grad_accum {cfg.TRAIN.grad_accum}")
    return steps


def dry_run(cfg: CfgNode, devices: Sequence[int] | None = None, nproc: int | None = None) -> None:
    """Print the plan of a run and what is missing for it. Needs no weights, data or GPU; writes and starts nothing.

    Args:
        devices, nproc: `--devices` and `--nproc` as given; GPUs that this machine does not have are planned for.

    Raises:
        BadInput: a config that could never be trained with, or devices that make no sense.
    """
    missing = []
    world_size, device = _ranks(devices, nproc, missing)
    amp = _amp(cfg, device)
    data = _data(cfg, missing)
    fast = cfg.clone()  # DATA.PREPROCESS reference gives the same ids, where its packages are at hand
    fast.defrost()
    fast.DATA.PREPROCESS = "fast"
    encoder = build_encoder(fast, data.action_stats if data else None)
    prompt = encoder.prompt
    _check_packages(cfg, prompt.tokenizer, device, amp, missing)
    policy, sizes = outline_policy(cfg, encoder, missing)

    lines = [*model_lines(cfg, policy), ("", f"sizes from {sizes}")]
    if data:
        sampler = ResumableBatchSampler.from_cfg(cfg, data.train, rank=0, world_size=world_size)
        steps = count_steps(cfg, sampler.batches_per_epoch)
        lines += [*data_lines(cfg, data), *(("warning", remark) for remark in data.remarks)]
        lines += step_lines(cfg, sampler.batches_per_epoch, steps)
    lines += [*recipe_lines(cfg, world_size, amp), *eval_lines(cfg)]
    lines.append(("device", plural(world_size, "GPU" if device.type == "cuda" else "CPU rank")))
    if device.type == "cpu" and nproc is None and not under_torchrun():
        batch = cfg.TRAIN.batch_size * cfg.TRAIN.grad_accum * 8
        lines.append(("", f"with --devices 0 1 2 3 4 5 6 7: {batch} samples per step, lr {base_lr(cfg.TRAIN, 8):.2e}"))

    instructions = [cfg.DATA.INSTRUCTION or STAND_IN]
    if data:
        instructions = [*data.train.instructions, *(text for texts in data.wordings.values() for text in texts)]
    longest = max(instructions, key=lambda text: len(prompt.encode(text)["input_ids"]))
    encoded, counted, learned = encoder.outline(longest)
    counts = _count_tokens(prompt, encoded)
    parts = memory_estimate(cfg, policy, counts["total"], counted, amp, world_size)
    lines += [*_compute_lines(cfg, policy, counts["total"], counted), *_disk_lines(cfg, policy, world_size, missing)]
    blocks = [
        f"plan of {cfg.EXP.ID}: nothing is started or written",
        table(lines),
        _token_table(prompt.pictures, counts, learned, data),
        _memory_table(parts, "GPU" if device.type == "cuda" else "rank"),
        _sample(cfg, encoder, data),
        "\n  ".join(["missing:", *missing]) if missing else "missing: nothing",
    ]
    print("\n\n".join(blocks))


# ------------------------------------------------------------------------------------------------ what there is


def _ranks(devices, nproc, missing):
    """(number of ranks, torch.device of one)."""
    available = torch.cuda.device_count()
    if under_torchrun():
        return int(os.environ["WORLD_SIZE"]), torch.device("cuda" if available else "cpu")
    ranks = parse_devices(devices, nproc, must_exist=False)
    if any(device.type == "cuda" and device.index >= available for device in ranks):
        missing.append(f"GPUs: {len(ranks)} asked for, this machine has {available}")
    return len(ranks), torch.device(ranks[0].type)


def _amp(cfg, device):
    """AMP.mode resolved; for a GPU that is not here, as every GPU since Ampere resolves it."""
    if cfg.AMP.mode == "auto" and device.type == "cuda" and not torch.cuda.is_available():
        return "bf16"
    return resolve_amp(cfg.AMP.mode, device)


def _check_packages(cfg, tokenizer, device, amp, missing):
    def check(function, *args):
        try:
            function(*args)
        except BadInput as error:
            missing.append(str(error))

    check(check_attention, cfg, device, amp)
    check(check_optimizer, cfg.TRAIN)
    check(check_packages, cfg.MODEL)
    check(check_trackers, cfg.TRAIN.trackers)
    if cfg.TRAIN.compile:
        check(check_compiler)
    if cfg.DATA.PREPROCESS == "reference":
        check(build_encoder, cfg, None, tokenizer)


def _data(cfg, missing):
    try:
        return load_data(cfg, policy_class(cfg).INTEGERS)
    except BadInput as error:
        missing.append(f"data: {error}")
        return None


# ------------------------------------------------------------------------------------------------ what is said


def _count_tokens(prompt, encoded):
    """Tokens of one sample by part."""
    system = prompt.chat.system_turn(prompt.system)
    counts = {
        "system turn": len(prompt.tokenizer(system)["input_ids"]) if system else 0,
        "pictures": int((encoded["input_ids"] == prompt.image_id).sum()),
        "instruction": 0,
        "actions": int((encoded["labels"] != IGNORE).sum()),
    }
    total = len(encoded["input_ids"])
    counts["instruction"] = total - sum(counts.values())
    return {**counts, "total": total}


def _token_table(pictures, counts, learned, data):
    rows, columns = pictures.rows, pictures.columns
    unit = f"{pictures.height // rows} x {pictures.width // columns}"
    notes = {
        "pictures": f"{pictures.number} of {rows} x {columns}, {unit} pixels each",
        "instruction": "the longest one, and the turns around it" if data else "a stand-in, and the turns around it",
        "actions": learned,
    }
    lines = [f"  {name:<34}{count:>8,}   {notes.get(name, '')}".rstrip() for name, count in counts.items()]
    return "\n".join(["tokens of one sample", *lines])


def _memory_table(parts, per):
    unit, name = (GIB, "GiB") if max(parts.values()) >= GIB else (2**20, "MiB")
    total = sum(parts.values())
    lines = [f"  {part:<34}{size / unit:>8.2f} {name}" for part, size in [*parts.items(), ("total", total)]]
    fits = [str(card) for card in CARDS if total <= ROOM * card * GIB]
    verdict = f"cards of {', '.join(fits)} GB" if fits else f"no card of {CARDS[-1]} GB"
    return "\n".join([f"memory per {per}, an estimate: fits {verdict}", *lines])


def _compute_lines(cfg, policy, tokens, counted):
    batch = cfg.TRAIN.batch_size * cfg.TRAIN.grad_accum
    work = policy.flops().count([tokens] * batch, counted * batch)
    yield "compute", f"{work / 1e12:.3g} TFLOP per rank and step"
    if cfg.TRAIN.PARALLEL == "fsdp" and cfg.DATA.VAL_SHARE:
        whole = _size(sum(p.numel() * p.element_size() for p in policy.parameters()))
        yield "validation", f"answers take a whole copy of the weights on every rank, {whole}, instead of activations"


def _disk_lines(cfg, policy, ranks, missing):
    """A checkpoint holds what is trained and the optimizer; with a moving average that, and the weights behind it."""
    model, states = saved_bytes(cfg, policy)
    one = model + states
    most = cfg.TRAIN.keep_last + 1 + (cfg.DATA.VAL_SHARE > 0)  # with the one being written, and the best
    folder = run_folder(cfg).absolute()
    free = shutil.disk_usage(next(path for path in folder.parents if path.exists())).free
    if free < most * one:
        missing.append(f"disk: {most * one / GIB:.0f} GiB for checkpoints in {cfg.EXP.DIR}, which has {free / GIB:.0f}")
    more = f", besides one of every {cfg.TRAIN.keep_every:,} steps" if cfg.TRAIN.keep_every else ""
    more += f", and one of every {cfg.TRAIN.save_every_epochs} epochs" if cfg.TRAIN.save_every_epochs else ""
    yield "checkpoints", f"{_size(one)} each, one every {cfg.TRAIN.save_every:,} steps, at most {most} at a time{more}"
    copied = model + (states // ranks if cfg.TRAIN.PARALLEL != "ddp" else states)
    pause = copied / COPIED_PER_S + (0 if cfg.TRAIN.async_save else max(copied, one / ranks) / WRITTEN_PER_S)
    then = "is written meanwhile" if cfg.TRAIN.async_save else "is written before training goes on"
    yield "", f"the pause is {pause:.1f} s by estimate: rank 0 copies {_size(copied)} to host memory, which {then}"


def _size(size):
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _sample(cfg, encoder, data):
    """One tokenized sample: the first that rank 0 trains on, or the open prompt of a stand-in."""
    if not data:
        given = cfg.DATA.INSTRUCTION
        ids = encoder.prompt.encode(given or STAND_IN)["input_ids"]
        which = "DATA.INSTRUCTION" if given else "a stand-in for the instruction"
        return f"the prompt, with {which}\n{abbreviated(encoder.prompt, ids)}"
    sampler = ResumableBatchSampler.from_cfg(cfg, data.train, rank=0, world_size=1)
    key = next(iter(sampler))[0]
    samples = TrainingSet(data.train, encoder, cfg.EXP.SEED, wordings=data.wordings)
    features = samples[key]
    ids, start = features["input_ids"], encoder.prompt_length(samples.drawn(key)[0])
    head = f"one sample ({data.train.where(key[2])}): {len(ids)} ids; {encoder.target(features, start)}"
    return f"{head}\n{abbreviated(encoder.prompt, ids)}"


def abbreviated(prompt: PromptEncoder, ids: torch.Tensor) -> str:
    """Ids of a PromptEncoder for a reader: image tokens counted, long lines broken."""
    pad = prompt.chat.image
    text = prompt.tokenizer.decode(ids)
    text = re.sub(f"({re.escape(pad)})+", lambda run: f"{pad} x {len(run[0]) // len(pad)} ", text)
    return "\n".join(
        textwrap.fill(line, 116, initial_indent="  ", subsequent_indent="  ") for line in text.splitlines()
    )
