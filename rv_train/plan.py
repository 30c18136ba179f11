"""`--dry_run`: what a run is going to do, said before there are weights, data or GPUs."""

import os
import re
import shutil
import textwrap

import torch

from libs.errors import BadInput
from rv_train.checkpoint import run_folder
from rv_train.data.features import ObservationEncoder, TrainingSet
from rv_train.data.load import load_data
from rv_train.data.prompt import IGNORE, MERGE, PATCH, image_grid
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.describe import data_lines, eval_lines, model_lines, plural, recipe_lines, step_lines, table
from rv_train.distributed import parse_devices, under_torchrun
from rv_train.flops import FlowFlops, TrainingFlops
from rv_train.memory import memory_estimate
from rv_train.models import build_encoder
from rv_train.models.flow_expert import ActionExpert
from rv_train.models.lora import adapter_parameters, adapter_sizes, check_packages
from rv_train.models.qwen import DTYPES, check_attention, check_compiler
from rv_train.models.weights import check_model_type, find_weights, missing_files, random_config
from rv_train.optim import base_lr, check_optimizer, resolve_amp

GIB = 2**30
CARDS = (24, 48, 80, 141)  # GB of common GPUs
ROOM = 0.95  # share of a card that a step may fill by the estimate: the rest is for the driver and the allocator
STAND_IN = "put the white mug on the left plate and put the yellow and white mug on the right plate"  # a long one


def count_steps(cfg, batches_per_epoch):
    """Optimizer steps of the whole run; BadInput if there is none.

    Args:
        batches_per_epoch: of one rank.
    """
    steps = cfg.TRAIN.max_steps or cfg.TRAIN.epochs * batches_per_epoch // cfg.TRAIN.grad_accum
    if steps == 0:
        raise BadInput(f"{cfg.TRAIN.epochs} epochs hold fewer batches than TRAIN.grad_accum {cfg.TRAIN.grad_accum}")
    return steps


def dry_run(cfg, devices=None, nproc=None):
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
    config, sizes = _backbone_config(cfg, prompt.tokenizer, missing)
    _check_packages(cfg, prompt.tokenizer, device, amp, missing)
    expert = _expert(cfg, config, encoder)
    parameters = _parameters(cfg, config, expert)

    lines = [*model_lines(cfg, parameters), ("", f"sizes from {sizes}")]
    if data:
        sampler = ResumableBatchSampler(
            len(data.train), cfg.TRAIN.batch_size, cfg.DATA.SAMPLER, cfg.EXP.SEED, rank=0, world_size=world_size
        )
        steps = count_steps(cfg, sampler.batches_per_epoch)
        lines += [*data_lines(cfg, data), *(("warning", remark) for remark in data.remarks)]
        lines += step_lines(cfg, sampler.batches_per_epoch, steps)
    lines += [*recipe_lines(cfg, world_size, amp), *eval_lines(cfg)]
    lines.append(("device", plural(world_size, "GPU" if device.type == "cuda" else "CPU rank")))
    if device.type == "cpu" and nproc is None and not under_torchrun():
        batch = cfg.TRAIN.batch_size * cfg.TRAIN.grad_accum * 8
        lines.append(("", f"with --devices 0,1,2,3,4,5,6,7: {batch} samples per step, lr {base_lr(cfg.TRAIN, 8):.2e}"))

    instructions = set(data.train.instructions) if data else {cfg.DATA.INSTRUCTION or STAND_IN}
    counts = _count_tokens(cfg, prompt, max(instructions, key=lambda text: len(prompt.encode(text)["input_ids"])))
    parts = memory_estimate(
        cfg, config, parameters, counts["total"], counts["actions"], counts["pictures"] * MERGE * MERGE, amp
    )
    lines += [*_compute_lines(cfg, config, counts, parameters, expert), *_disk_lines(cfg, parts, missing)]
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
        except BadInput as error:
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
            check_model_type(folder)
            return Qwen2_5_VLConfig.from_pretrained(folder), folder / "config.json"
    return random_config(cfg, tokenizer), "MODEL.TEXT and MODEL.VISION"


def _data(cfg, missing):
    try:
        return load_data(cfg)
    except BadInput as error:
        missing.append(f"data: {error}")
        return None


def _expert(cfg, config, encoder):
    """The ActionExpert on the meta device, where numbers have a shape and no bytes; None for text."""
    if cfg.MODEL.NAME == "vla0":
        return None
    with torch.device("meta"):
        expert = ActionExpert.from_cfg(cfg, config.text_config.hidden_size, sum(encoder.proprio.values()))
    return expert.to(DTYPES[cfg.AMP.param_dtype])


def _parameters(cfg, config, expert):
    """[(name, parameter)] of the library's model on the meta device, and of the action expert."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    frozen = cfg.MODEL.LORA.RANK or cfg.MODEL.FREEZE
    dtype = DTYPES[cfg.AMP.frozen_dtype if frozen else cfg.AMP.param_dtype]
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)
    if frozen:
        model.requires_grad_(False)
    elif expert and not config.tie_word_embeddings:
        model.lm_head.requires_grad_(False)
    adapter = adapter_parameters(model, cfg) if cfg.MODEL.LORA.RANK else []
    more = [(f"action_expert.{name}", p) for name, p in expert.named_parameters()] if expert else []
    return [*model.named_parameters(), *adapter, *more]


# ------------------------------------------------------------------------------------------------ what is said


def _count_tokens(cfg, encoder, instruction):
    """Tokens of one sample by part; every number is written with the digits of the middle bin."""
    answer = " ".join([str(cfg.ACTION.NUM_BINS // 2)] * (cfg.ACTION.HORIZON * cfg.ACTION.DIM))
    if cfg.MODEL.NAME != "vla0":
        answer = None
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
    if not counts["actions"]:
        notes["actions"] = f"{cfg.ACTION.HORIZON} x {cfg.ACTION.DIM} numbers come out of the action expert"
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


def _compute_lines(cfg, config, counts, parameters, expert):
    frozen = cfg.MODEL.FREEZE and not cfg.MODEL.LORA.RANK
    flops = TrainingFlops(config, image_grid(cfg), _number_of_pictures(cfg), adapter_sizes(parameters), frozen)
    learned = counts["actions"]
    if expert:
        flops, learned = FlowFlops.of(flops, expert, cfg.FLOW.CONDITION), cfg.FLOW.DRAWS
    batch = cfg.TRAIN.batch_size * cfg.TRAIN.grad_accum
    work = flops.count([counts["total"]] * batch, learned * batch)
    yield "compute", f"{work / 1e12:.3g} TFLOP per rank and step"


def _disk_lines(cfg, parts, missing):
    """A checkpoint holds what is trained and the optimizer; with a moving average that, and the weights behind it."""
    trained = sum(size for name, size in parts.items() if name in ("weights", "adapter", "action expert"))
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
    tokenizer = encoder.prompt.tokenizer
    if not data:
        given = cfg.DATA.INSTRUCTION
        text = tokenizer.decode(encoder.prompt.encode(given or STAND_IN)["input_ids"])
        return (
            f"the prompt, with {'DATA.INSTRUCTION' if given else 'a stand-in for the instruction'}\n{abbreviated(text)}"
        )
    sampler = ResumableBatchSampler(
        len(data.train), cfg.TRAIN.batch_size, cfg.DATA.SAMPLER, cfg.EXP.SEED, rank=0, world_size=1
    )
    key = next(iter(sampler))[0]
    features = TrainingSet(data.train, encoder, cfg.EXP.SEED)[key]
    ids, start = features["input_ids"], len(encoder.prompt.encode(data.train[key[2]].instruction)["input_ids"])
    head = f"one sample ({data.train.where(key[2])}): {len(ids)} ids; {encoder.target(features, start)}"
    return f"{head}\n{abbreviated(tokenizer.decode(ids))}"


def abbreviated(text):
    """Decoded ids for a reader: image tokens counted, long lines broken."""
    pad = "<|image_pad|>"
    text = re.sub(f"({re.escape(pad)})+", lambda run: f"{pad} x {len(run[0]) // len(pad)} ", text)
    return "\n".join(
        textwrap.fill(line, 116, initial_indent="  ", subsequent_indent="  ") for line in text.splitlines()
    )
