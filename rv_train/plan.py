"""`--dry_run`: what a run is going to do, said before there are weights, data or GPUs."""

import os
import re
import shutil
import textwrap

import torch

from libs.action_text import ActionTextCodec
from rv_train.checkpoint import run_folder
from rv_train.data.features import ObservationEncoder, TrainingSet
from rv_train.data.images import ImageTransform
from rv_train.data.load import load_data
from rv_train.data.prompt import IGNORE, MERGE, PATCH, PromptEncoder, image_grid
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.describe import data_lines, eval_lines, model_lines, plural, recipe_lines, step_lines, table
from rv_train.distributed import parse_devices, under_torchrun
from rv_train.flops import TrainingFlops
from rv_train.memory import memory_estimate
from rv_train.models.lora import adapter_parameters, adapter_sizes, check_packages
from rv_train.models.qwen import DTYPES, check_attention, check_compiler, find_weights, missing_files, random_config
from rv_train.optim import base_lr, check_optimizer, resolve_amp

GIB = 2**30
CARDS = (24, 48, 80, 141)  # GB of common GPUs
ROOM = 0.95  # share of a card that a step may fill by the estimate: the rest is for the driver and the allocator
STAND_IN = "put the white mug on the left plate and put the yellow and white mug on the right plate"  # a long one


def count_steps(cfg, batches_per_epoch):
    """Optimizer steps of the whole run; ValueError if there is none.

    Args:
        batches_per_epoch: of one rank.
    """
    steps = cfg.TRAIN.max_steps or cfg.TRAIN.epochs * batches_per_epoch // cfg.TRAIN.grad_accum
    if steps == 0:
        raise ValueError(f"{cfg.TRAIN.epochs} epochs hold fewer batches than TRAIN.grad_accum {cfg.TRAIN.grad_accum}")
    return steps


def dry_run(cfg, devices=None, nproc=None):
    """Print the plan of a run and what is missing for it. Needs no weights, data or GPU; writes and starts nothing.

    Args:
        devices, nproc: `--devices` and `--nproc` as given; GPUs that this machine does not have are planned for.
    Raises:
        ValueError: a config that could never be trained with, or devices that make no sense.
    """
    missing = []
    world_size, device = _ranks(devices, nproc, missing)
    amp = _amp(cfg, device)
    encoder = PromptEncoder.from_cfg(cfg)
    config, sizes = _backbone_config(cfg, encoder.tokenizer, missing)
    data = _data(cfg, missing)
    _check_packages(cfg, encoder.tokenizer, device, amp, missing)
    parameters = _parameters(cfg, config)

    lines = [*model_lines(cfg, parameters), ("", f"sizes from {sizes}")]
    if data:
        sampler = ResumableBatchSampler(
            len(data.train), cfg.TRAIN.batch_size, cfg.DATA.SAMPLER, cfg.EXP.SEED, rank=0, world_size=world_size
        )
        steps = count_steps(cfg, sampler.batches_per_epoch)
        lines += [*data_lines(cfg, data), *step_lines(cfg, sampler.batches_per_epoch, steps)]
    lines += [*recipe_lines(cfg, world_size, amp), *eval_lines(cfg)]
    lines.append(("device", plural(world_size, "GPU" if device.type == "cuda" else "CPU rank")))
    if device.type == "cpu" and nproc is None and not under_torchrun():
        batch = cfg.TRAIN.batch_size * cfg.TRAIN.grad_accum * 8
        lines.append(("", f"with --devices 0,1,2,3,4,5,6,7: {batch} samples per step, lr {base_lr(cfg.TRAIN, 8):.2e}"))

    instructions = set(data.train.instructions) if data else {STAND_IN}
    counts = _count_tokens(cfg, encoder, max(instructions, key=lambda text: len(encoder.encode(text)["input_ids"])))
    parts = memory_estimate(
        cfg, config, parameters, counts["total"], counts["actions"], counts["pictures"] * MERGE * MERGE, amp
    )
    lines += [*_compute_lines(cfg, config, counts, parameters), *_disk_lines(cfg, parts, missing)]
    blocks = [
        f"plan of {cfg.EXP.ID}: nothing is started or written",
        table(lines),
        _token_table(cfg, counts, data),
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
        except ValueError as error:
            missing.append(str(error))

    check(check_attention, cfg, device, amp)
    check(check_optimizer, cfg.TRAIN)
    check(check_packages, cfg.MODEL)
    if cfg.TRAIN.compile:
        check(check_compiler)
    if cfg.DATA.PREPROCESS == "reference":
        check(ObservationEncoder.from_cfg, cfg, tokenizer)


def _backbone_config(cfg, tokenizer, missing):
    """(Qwen2_5_VLConfig, where it comes from)."""
    from transformers import Qwen2_5_VLConfig

    if cfg.MODEL.INIT == "pretrained":
        folder, has_weights = find_weights(cfg.MODEL.PATH)
        if not has_weights:
            nowhere = f"MODEL.PATH {cfg.MODEL.PATH} is neither a folder nor in the Hugging Face cache"
            missing.append(f"weights: {f'{folder} lacks {missing_files(folder)[0]}' if folder else nowhere}")
        if folder:
            return Qwen2_5_VLConfig.from_pretrained(folder), folder / "config.json"
    return random_config(cfg, tokenizer), "MODEL.TEXT and MODEL.VISION"


def _data(cfg, missing):
    if not cfg.DATA.FILES and cfg.DATA.SOURCE == "hdf5":
        missing.append(
            "data: DATA.FILES is empty; give demo files or folders of them (tools/regenerate_libero.py writes them)"
        )
        return None
    try:
        return load_data(cfg)
    except (ValueError, OSError) as error:
        missing.append(f"data: {error}")
        return None


def _parameters(cfg, config):
    """[(name, parameter)] of the library's model on the meta device, where numbers have a shape and no bytes."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    dtype = DTYPES[cfg.AMP.frozen_dtype if cfg.MODEL.LORA.RANK else cfg.AMP.param_dtype]
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)
    if not cfg.MODEL.LORA.RANK:
        return list(model.named_parameters())
    model.requires_grad_(False)
    return [*model.named_parameters(), *adapter_parameters(model, cfg)]


# ------------------------------------------------------------------------------------------------ what is said


def _count_tokens(cfg, encoder, instruction):
    """Tokens of one sample by part; every number is written with the digits of the middle bin."""
    answer = " ".join([str(cfg.ACTION.NUM_BINS // 2)] * (cfg.ACTION.HORIZON * cfg.ACTION.DIM))
    encoded = encoder.encode(instruction, answer)
    total = len(encoded["input_ids"])
    system = f"<|im_start|>system\n{encoder.system}<|im_end|>\n" if encoder.system else ""
    counts = {
        "system turn": len(encoder.tokenizer(system)["input_ids"]) if system else 0,
        "pictures": int((encoded["input_ids"] == encoder.image_id).sum()),
        "instruction": 0,
        "actions": int((encoded["labels"] != IGNORE).sum()),
    }
    counts["instruction"] = total - sum(counts.values())
    return {**counts, "total": total}


def _token_table(cfg, counts, data):
    (rows, columns), digits = image_grid(cfg), len(str(cfg.ACTION.NUM_BINS // 2))
    notes = {
        "pictures": f"{_number_of_pictures(cfg)} of {rows} x {columns}, {MERGE * PATCH} x {MERGE * PATCH} pixels each",
        "instruction": "the longest one, and the turns around it" if data else "a stand-in, and the turns around it",
        "actions": f"{cfg.ACTION.HORIZON} x {cfg.ACTION.DIM} numbers of {digits} digits and the end: what is learned",
    }
    lines = [f"  {name:<34}{count:>8,}   {notes.get(name, '')}".rstrip() for name, count in counts.items()]
    return "\n".join(["tokens of one sample", *lines])


def _number_of_pictures(cfg):
    return 1 if cfg.IMAGE.TILE else len(cfg.DATA.VIEWS)


def _memory_table(parts, per):
    unit, name = (GIB, "GiB") if max(parts.values()) >= GIB else (2**20, "MiB")
    total = sum(parts.values())
    lines = [f"  {part:<34}{size / unit:>8.2f} {name}" for part, size in [*parts.items(), ("total", total)]]
    fits = [str(card) for card in CARDS if total <= ROOM * card * GIB]
    verdict = f"cards of {', '.join(fits)} GB" if fits else f"no card of {CARDS[-1]} GB"
    return "\n".join([f"memory per {per}, an estimate: fits {verdict}", *lines])


def _compute_lines(cfg, config, counts, parameters):
    flops = TrainingFlops(config, image_grid(cfg), _number_of_pictures(cfg), adapter_sizes(parameters))
    batch = cfg.TRAIN.batch_size * cfg.TRAIN.grad_accum
    work = flops.count([counts["total"]] * batch, counts["actions"] * batch)
    yield "compute", f"{work / 1e12:.3g} TFLOP per rank and step"


def _disk_lines(cfg, parts, missing):
    """A checkpoint holds what is trained and the optimizer; with a moving average that, and the weights behind it."""
    trained = parts["adapter" if cfg.MODEL.LORA.RANK else "weights"]
    one = trained + sum(size for name, size in parts.items() if name.startswith(("optimizer", "moving")))
    one += trained if cfg.TRAIN.ema else 0
    most = cfg.TRAIN.keep_last + 1 + (cfg.DATA.VAL_SHARE > 0)  # with the one being written, and the best
    folder = run_folder(cfg).absolute()
    free = shutil.disk_usage(next(path for path in folder.parents if path.exists())).free
    if free < most * one:
        missing.append(f"disk: {most * one / GIB:.0f} GiB for checkpoints in {cfg.EXP.DIR}, which has {free / GIB:.0f}")
    size = f"{one / GIB:.1f} GiB" if one >= GIB else f"{one / 2**20:.0f} MiB"
    more = f", besides one of every {cfg.TRAIN.keep_every:,} steps" if cfg.TRAIN.keep_every else ""
    more += f", and one of every {cfg.TRAIN.save_every_epochs} epochs" if cfg.TRAIN.save_every_epochs else ""
    yield "checkpoints", f"{size} each, one every {cfg.TRAIN.save_every:,} steps, at most {most} at a time{more}"


def _sample(cfg, encoder, data):
    """One tokenized sample: the first that rank 0 trains on, or the open prompt of a stand-in."""
    if not data:
        text = encoder.tokenizer.decode(encoder.encode(STAND_IN)["input_ids"])
        return "the prompt, with a stand-in for the instruction\n" + abbreviated(text)
    codec = ActionTextCodec(data.action_stats["min"], data.action_stats["max"], cfg.ACTION.NUM_BINS)
    sampler = ResumableBatchSampler(
        len(data.train), cfg.TRAIN.batch_size, cfg.DATA.SAMPLER, cfg.EXP.SEED, rank=0, world_size=1
    )
    key = next(iter(sampler))[0]
    # DATA.PREPROCESS reference gives the same ids, where its packages are at hand.
    fast = ObservationEncoder(cfg.DATA.VIEWS, ImageTransform.from_cfg(cfg), encoder)
    features = TrainingSet(data.train, fast, codec, cfg.EXP.SEED)[key]
    ids, labels = features["input_ids"], features["labels"]
    head = f"one sample ({data.train.where(key[2])}): {len(ids)} ids, {int((labels != IGNORE).sum())} of them learned"
    return f"{head}\n{abbreviated(encoder.tokenizer.decode(ids))}"


def abbreviated(text):
    """Decoded ids for a reader: image tokens counted, long lines broken."""
    pad = "<|image_pad|>"
    text = re.sub(f"({re.escape(pad)})+", lambda run: f"{pad} x {len(run[0]) // len(pad)} ", text)
    return "\n".join(
        textwrap.fill(line, 116, initial_indent="  ", subsequent_indent="  ") for line in text.splitlines()
    )
