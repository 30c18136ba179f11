"""A training step of this code beside an upstream-style one: same first weights, same samples, same losses.

The upstream-style step has the library's processor inside, gives labels to the library's forward pass, which computes
float32 logits of every position, and uses PyTorch's AdamW as it comes. This code's is that of rv_train/train.py, its
loader work included, which a real run leaves to other processes.

Models: random weights at some sizes with all of Qwen's 151,936 words and the published prompt, or a recipe (--cfg),
whose weights are random, too. Of the 3.75 billion parameters on one GPU two do not fit:

    python tools/dev/benchmark.py train --cfg configs/vla0.yaml --device cuda --batch 8 --steps 20 --apart \\
        --variants ours compiled --out FILE.json
"""

import argparse
import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from libs.errors import BadInput
from tools.dev.benchmarks.decode import CONFIG
from tools.dev.benchmarks.decode import TINY as TINY_SIZES

TINY = {
    **TINY_SIZES,
    "MODEL.VISION.FULL_ATTENTION": [1],
    "AMP.mode": "off",
    "TRAIN.grad_checkpoint": False,
    "TRAIN.lr": 1e-3,
}
SIZES = {
    "tiny": TINY,
    "middle": {
        **TINY,
        "MODEL.TEXT.HIDDEN": 256,
        "MODEL.TEXT.LAYERS": 8,
        "MODEL.TEXT.MLP": 768,
        "MODEL.VISION.HIDDEN": 128,
        "MODEL.VISION.LAYERS": 4,
        "MODEL.VISION.MLP": 256,
        "MODEL.VISION.FULL_ATTENTION": [1, 3],
    },
}
VARIANTS = {"upstream": "upstream-style step", "ours": "this code", "compiled": "this code, TRAIN.compile"}
# Losses of float32 arithmetic; those of 16-bit products differ by their rounding, which other kernels do differently.
AGREE = {"off": 1e-4, "bf16": 0.05, "fp16": 0.05}
NUM_SAMPLES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="models of random weights")
    add("--cfg", type=Path, help="a recipe in place of --sizes")
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help="pairs that override the recipe or the sizes")
    add("--variants", nargs="+", choices=VARIANTS, default=["upstream", "ours"], help="whose training is timed")
    add("--steps", type=int, default=50, help="optimizer steps of everybody, after a first one that is timed apart")
    add("--batch", type=int, default=2, help="samples per step")
    add("--apart", action="store_true", help="one after the other instead of in turns: each has the memory for itself")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    add("--threads", type=int, default=2, help="of a CPU")


def measure(args: argparse.Namespace, report: Callable[[str], None]) -> dict:
    """Run the benchmark; report(line) tells what is going on.

    Returns {"settings", "models": {name: see `_measure_model`}, "problems"}. BadInput: bad arguments.
    """
    for name in ("steps", "batch", "threads"):
        if getattr(args, name) < 1:
            raise BadInput(f"--{name} must be at least 1, got {getattr(args, name)}")
    import torch

    from rv_train.config import load_cfg
    from rv_train.distributed import launch, parse_devices
    from rv_train.policies import policy_class

    device = torch.device(args.device)
    if device.type == "cuda":
        (device,) = parse_devices([device.index or 0], None)
    models = {}
    for name in [str(args.cfg)] if args.cfg else args.sizes:
        options = {"MODEL.INIT": "random", "DATA.PREPROCESS": "fast", **({} if args.cfg else SIZES[name])}
        cfg = load_cfg(args.cfg or CONFIG, [*(part for pair in options.items() for part in pair), *args.opts])
        if not policy_class(cfg).INTEGERS:
            raise BadInput(f"MODEL.NAME {cfg.MODEL.NAME}: the library has no step of its own for what writes no text")
        models[name] = launch(_measure_model, [device], args, name, cfg, report)
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "benchmark")}
    settings["cfg"] = args.cfg and str(args.cfg)
    problems = [problem for model in models.values() for problem in model["problems"]]
    return {"settings": settings, "models": models, "problems": problems}


def _measure_model(rank, args, name, cfg, report):
    """{"parameters", "amp", "peak_tflops", "variants": see `summarize`, "problems", "steps": {variant: [...]}}"""
    import torch

    from rv_train.flops import peak_tflops
    from rv_train.optim import resolve_amp
    from rv_train.policies import build_encoder
    from tools.dev.benchmarks.samples import STATS, made_samples, rotated
    from tools.dev.benchmarks.train_steps import build

    torch.set_num_threads(args.threads)
    encoder = build_encoder(cfg, STATS)
    samples = made_samples(NUM_SAMPLES, cfg)
    batches = [
        [(step * args.batch // len(samples), 0, (step * args.batch + row) % len(samples)) for row in range(args.batch)]
        for step in range(args.steps + 1)
    ]
    steps, peaks = {variant: [] for variant in args.variants}, {}
    for together in [[variant] for variant in args.variants] if args.apart else [args.variants]:
        contestants = {variant: build(variant, cfg, rank.device, encoder, samples) for variant in together}
        parameters = sum(p.numel() for p in contestants[together[0]].model.parameters())
        for number, keys in enumerate(batches):
            for variant in rotated(together, number):
                steps[variant].append(contestants[variant].run(keys))
            if number % 10 == 0:
                losses = ", ".join(f"{steps[variant][-1]['loss']:.5f}" for variant in together)
                report(f"{name}, {' and '.join(together)}: {number} of {args.steps} steps, loss {losses}")
        peaks |= {variant: contestant.peak_gib() for variant, contestant in contestants.items()}
        contestants.clear()
        gc.collect()  # models and wrappers refer to each other; the next one needs their memory
        if rank.device.type == "cuda":
            torch.cuda.empty_cache()
    amp = resolve_amp(cfg.AMP.mode, rank.device)
    peak = cfg.TRAIN.peak_tflops or peak_tflops(rank.device)
    return {
        "parameters": parameters,
        "amp": amp,
        "peak_tflops": peak,
        "variants": summarize(steps, args.batch, peak, peaks),
        "largest_loss_difference": largest_difference(steps),
        "problems": disagreements(name, steps, AGREE[amp]),
        "steps": steps,
    }


def largest_difference(steps: Mapping[str, Sequence[Mapping[str, Any]]]) -> float:
    """Between the losses of the variants in the same step."""
    rows = zip(*([step["loss"] for step in own] for own in steps.values()), strict=True)
    return max(max(row) - min(row) for row in rows)


def disagreements(name: str, steps: Mapping[str, Sequence[Mapping[str, Any]]], tolerance: float) -> list[str]:
    """The first step in which the loss of a variant is not that of the first, per variant. steps: {variant: [...]}"""
    problems, (first, *others) = [], steps
    for other in others:
        for number, (one, two) in enumerate(zip(steps[first], steps[other], strict=True)):
            if not abs(one["loss"] - two["loss"]) <= tolerance:
                losses = f"{one['loss']:.6f} ({VARIANTS[first]}) and {two['loss']:.6f} ({VARIANTS[other]})"
                problems.append(f"{name}, step {number}: losses {losses}")
                break
    return problems


def summarize(
    steps: Mapping[str, Sequence[Mapping[str, Any]]], batch: int, peak: float | None, peaks: Mapping[str, float | None]
) -> dict:
    """Per variant: seconds per step, samples per second, MFU, and how much faster it is than the first variant.

    MFU and "device_samples_per_s" are without the time in which the batch is made, as loader processes do that.
    The first step of everybody, with whatever is compiled or allocated there, counts apart ("first_step_s").
    """
    from tools.dev.benchmarks.samples import spread

    summary, reference = {}, next(iter(steps.values()))[1:]
    for variant, (first, *own) in steps.items():
        device_s = statistics.median(step["s"] - step["host_s"] for step in own)
        flops = statistics.median(step["flops"] for step in own)
        summary[variant] = {
            "first_step_s": first["s"],
            "step_s": spread([step["s"] for step in own]),
            "host_ms": spread([1e3 * step["host_s"] for step in own]),
            "cpu_s": spread([step["cpu_s"] for step in own]),
            "samples_per_s": batch / statistics.median(step["s"] for step in own),
            "device_samples_per_s": batch / device_s,
            "mfu": flops / device_s / (peak * 1e12) if peak else None,
            "peak_gib": peaks[variant],  # of this variant alone only with --apart
            "faster_by": spread([theirs["s"] / mine["s"] for theirs, mine in zip(reference, own, strict=True)]),
            "cpu_ratio": statistics.median(
                theirs["cpu_s"] / mine["cpu_s"] for theirs, mine in zip(reference, own, strict=True)
            ),
        }
    return summary


def table(result: Mapping[str, Any]) -> str:
    """The summary as text."""
    from tools.dev.benchmarks.samples import columns, with_quartiles

    lines, settings = [], result["settings"]
    for name, model in result["models"].items():
        losses = f"losses within {model['largest_loss_difference']:.1g} over {settings['steps'] + 1} steps"
        told = f"{name}: {model['parameters'] / 1e6:.1f} M parameters, batch {settings['batch']}, AMP {model['amp']}"
        lines.append(f"{told}, {losses if len(model['variants']) > 1 else 'alone'}")
        rows = [("", "s per step", "host ms", "samples/s", "without host", "faster by", "less CPU", "MFU", "GiB")]
        for variant, numbers in model["variants"].items():
            rows.append(
                (
                    VARIANTS[variant],
                    with_quartiles(numbers["step_s"], 3),
                    with_quartiles(numbers["host_ms"]),
                    f"{numbers['samples_per_s']:.2f}",
                    f"{numbers['device_samples_per_s']:.2f}",
                    f"{numbers['faster_by']['median']:.2f}x",
                    f"{numbers['cpu_ratio']:.2f}x",
                    f"{numbers['mfu']:.1%}" if numbers["mfu"] else "-",
                    f"{numbers['peak_gib']:.1f}" if numbers["peak_gib"] else "-",
                )
            )
        lines += [columns(rows), ""]
    return "\n".join(lines)
