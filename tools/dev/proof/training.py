"""Training steps: samples per second, utilisation, memory; precisions; the small recipes."""

import statistics

import torch

from rv_train.backbones.running import has_flash
from rv_train.distributed import launch
from rv_train.flops import peak_tflops
from rv_train.kernels import choose_kernels
from rv_train.memory import memory_estimate
from rv_train.optim import resolve_amp
from rv_train.policies import build_encoder
from tools.dev.benchmarks.samples import STATS, made_samples
from tools.dev.benchmarks.train_steps import build
from tools.dev.proof.ground import Ground

GIB = 2**30
NUM_SAMPLES = 64


def training(ground: Ground) -> None:
    """The published batch, and what should make it faster."""
    no_memory = {"TRAIN__optimizer": "adamw_8bit", "TRAIN__grad_checkpoint": False}
    rows = [
        ("published batch", "ours", {}, {}),
        ("published batch, TRAIN.compile", "compiled", {}, {}),
        (
            "16 samples, compiled, adamw_8bit, nothing recomputed",
            "compiled",
            {**no_memory, "TRAIN__batch_size": 16},
            {},
        ),
        ("published batch, cuDNN's attention", "ours", {}, {"cudnn": True}),
        ("published batch, TRAIN.deterministic", "ours", {}, {"deterministic": True}),
    ]
    if has_flash():
        rows.insert(3, ("published batch, flash_attention_2", "ours", {"MODEL__ATTENTION": "flash_attention_2"}, {}))
    for name, variant, opts, kernels in ground.rows(rows, reserve=0 if ground.tiny else 18):
        _tell(ground, name, ground.published(**opts), variant, kernels)


def upstream(ground: Ground) -> None:
    """The step as the original makes it: the library's processor inside, and its forward pass over all logits."""
    _tell(ground, "upstream-style step", ground.published(), "upstream", {})


def small(ground: Ground) -> None:
    """The recipes that train on a CPU, on made samples."""
    for recipe in ("quickstart.yaml", "libero_small.yaml"):
        rows = [("", "ours", {}), (", compiled", "compiled", {}), (", 64 samples", "ours", {"TRAIN__batch_size": 64})]
        for name, variant, opts in ground.rows(rows[: 1 if ground.tiny else 3]):
            cfg = ground.recipe(recipe, {"MODEL.ATTENTION": "sdpa"}, opts)
            _tell(ground, f"{recipe}{name}", cfg, variant, {})


def precision(ground: Ground) -> None:
    """Other numbers than bfloat16 products of float32 weights, on a model of middling sizes: does the loss fall?"""
    from tools.dev.benchmarks.train import SIZES
    from tools.dev.proof.resume import base_weights

    sizes = {**SIZES["tiny" if ground.tiny else "middle"], "MODEL.VOCAB_CUT": 512, "MODEL.INIT": "random"}
    base = base_weights(ground, sizes)
    lora = {"MODEL.INIT": "pretrained", "MODEL.PATH": str(base), "MODEL.TOKENIZER": str(base), "MODEL.VOCAB_CUT": 0}
    lora |= {"MODEL.LORA.RANK": 16, "AMP.frozen_dtype": "bfloat16", "AMP.mode": "bf16"}
    rows = [
        ("fp16 with its scaler", {**sizes, "AMP.mode": "fp16"}),
        ("bfloat16 weights", {**sizes, "AMP.mode": "off", "AMP.param_dtype": "bfloat16"}),
        ("adamw_8bit", {**sizes, "AMP.mode": "bf16", "TRAIN.optimizer": "adamw_8bit"}),
        ("LoRA", lora),
        ("LoRA over nf4, adamw_8bit", {**lora, "MODEL.QUANTIZE": "nf4", "TRAIN.optimizer": "adamw_8bit"}),
    ]
    for name, opts in ground.rows(rows):
        cfg = ground.guarded(name, ground.recipe, "vla0.yaml", {**opts, "TRAIN.lr": 1e-3, "TRAIN.batch_size": 4})
        found = cfg and ground.guarded(name, _steps, ground, cfg, "ours", {}, 4 if ground.tiny else 25)
        if found:
            first, last = found["losses"][0], found["losses"][-1]
            ground.say(
                name, last < first, note=f"loss {first:.3f} to {last:.3f}, {found['samples_per_s']:.1f} samples/s"
            )


def _tell(ground, name, cfg, variant, kernels):
    found = ground.guarded(name, _steps, ground, cfg, variant, kernels, 2 if ground.tiny else 12)
    if not found:
        return
    published = name.startswith(("published", "16 samples"))
    note = f"{cfg.TRAIN.batch_size} samples in {found['step_s']:.3f} s, the first step {found['first_s']:.1f} s"
    ground.say(name, found["samples_per_s"], "samples/s", ">= 40" if published else "", note)
    if found["mfu"]:
        ground.say(f"{name}: MFU", 100 * found["mfu"], "%", ">= 40" if published else "")
    if found["peak"]:
        note = f"by --dry_run {found['estimate'] / GIB:.1f}" if variant != "upstream" else ""
        ground.say(f"{name}: peak memory", found["peak"], "GiB", note=note)


def _steps(ground, cfg, variant, kernels, number):
    return launch(_measure, [ground.device], cfg, variant, kernels, number, ground)


def _measure(rank, cfg, variant, kernels, number, ground):
    """Up to `number` steps behind the first; loader work apart, as loader processes do it."""
    choose_kernels(kernels.get("deterministic", False), rank.device)
    if kernels.get("cudnn"):
        torch.backends.cuda.enable_cudnn_sdp(True)
    encoder = build_encoder(cfg, STATS)
    contestant = build(variant, cfg, rank.device, encoder, made_samples(NUM_SAMPLES, cfg))
    steps, size = [], cfg.TRAIN.batch_size
    for step in range(number + 1):
        steps.append(contestant.run([(0, 0, (step * size + row) % NUM_SAMPLES) for row in range(size)]))
        if len(steps) > 3 and ground.left() < 8:
            break
    own, peak = steps[1:], peak_tflops(rank.device)
    step_s = statistics.median(step["s"] - step["host_s"] for step in own)
    tokens = encoder.outline("put the white mug on the left plate")[0]["input_ids"].numel()
    counted = cfg.ACTION.HORIZON * cfg.ACTION.DIM * 4
    amp = resolve_amp(cfg.AMP.mode, rank.device)
    return {
        "step_s": step_s,
        "first_s": steps[0]["s"],
        "samples_per_s": size / step_s,
        "mfu": statistics.median(step["flops"] for step in own) / step_s / (peak * 1e12) if peak else None,
        "peak": contestant.peak_gib(),
        "estimate": sum(memory_estimate(cfg, contestant.model, tokens, counted, amp).values()),
        "losses": [step["loss"] for step in steps],
    }
