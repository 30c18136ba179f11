"""What a batch costs before it reaches the model: this code's loader work beside the library's processor.

Both are given the same samples and must make the same ids, the same labels and pixels that agree to 1e-6. Told apart:

encode    pictures and texts -> a batch. This code ends with bytes, which the device cuts into patches; with patches cut
          on the CPU as well it ends where the processor does.
pictures  crop, resize and colour jitter of the frames, which both need: this code's (OpenCV) and PIL's.

One thread; milliseconds are CPU time, which a busy machine does not stretch as it does seconds.
"""

import argparse
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libs.errors import BadInput

CONFIG = Path(__file__).resolve().parents[3] / "configs/vla0.yaml"
VARIANTS = {
    "ours": "this code, patches on the device",
    "ours_patches": "this code, patches on the CPU",
    "pil": "processor twice per sample, PIL",
    "torchvision": "processor twice per sample, torchvision",
}
PIXELS_AGREE = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--cfg", type=Path, default=CONFIG, help="recipe; its weights are not needed")
    add("--batch", type=int, default=8, help="samples per batch")
    add("--rounds", type=int, default=30, help="batches that everybody prepares")
    add("--resolution", type=int, default=256, help="pixels on each side of a frame")


def measure(args: argparse.Namespace, report: Callable[[str], None]) -> dict:
    """Run the benchmark; report(line) tells what is going on.

    Returns {"settings", "encode": {variant: numbers}, "pictures": {"ours", "pil"}, "problems"}, numbers: {"cpu_ms",
    "wall_ms": spreads; "less_by": of the ratio to "ours" or, for encode, to both of this code}. BadInput: bad
    arguments.
    """
    for name in ("batch", "rounds"):
        if getattr(args, name) < 1:
            raise BadInput(f"--{name} must be at least 1, got {getattr(args, name)}")
    import torch

    from rv_train.config import load_cfg
    from rv_train.policies import build_encoder
    from tools.dev.benchmarks.samples import STATS, made_samples, rotated
    from tools.dev.benchmarks.upstream import UpstreamEncoder, image_backends, pil_pictures

    torch.set_num_threads(1)
    cfg = load_cfg(args.cfg, ["DATA.PREPROCESS", "fast"])
    encoder: Any = build_encoder(cfg, STATS)  # with its `transform`
    references = {name: UpstreamEncoder(cfg, encoder.prompt, name) for name in image_backends()}
    encode = _encoders(encoder, references)
    draw = {
        "ours": lambda samples: [encoder.transform(s.views, _rng(s, row)) for row, s in enumerate(samples)],
        "pil": lambda samples: [pil_pictures(s.views, encoder.transform, _rng(s, r)) for r, s in enumerate(samples)],
    }

    everything = made_samples(2 * args.batch, cfg, args.resolution)
    times = {"encode": {name: [] for name in encode}, "pictures": {name: [] for name in draw}}
    problems = []
    for turn in range(-1, args.rounds):  # the first is a warm-up
        samples = [everything[(turn * args.batch + row) % len(everything)] for row in range(args.batch)]
        samples = [dataclasses.replace(sample, frame=turn) for sample in samples]
        for name in rotated(list(draw), turn):
            taken, pictures = _timed(draw[name], samples)
            times["pictures"][name].append(taken)
            if name == "ours":
                given = [dataclasses.replace(s, views=p) for s, p in zip(samples, pictures, strict=True)]
        made = {}
        for name in rotated(list(encode), turn):
            taken, made[name] = _timed(encode[name], given)
            times["encode"][name].append(taken)
        problems += disagreements(turn, made)
        if turn % 10 == 0:
            report(f"{turn} of {args.rounds} batches")
    settings = {"cfg": str(args.cfg), "batch": args.batch, "rounds": args.rounds, "resolution": args.resolution}
    return {"settings": settings, **{part: summarize(taken) for part, taken in times.items()}, "problems": problems}


def _rng(sample, row):
    """As TrainingSet seeds a sample's randomness."""
    return np.random.default_rng([0, 0, sample.frame + 1, row])


def _encoders(encoder, references):
    """{variant: samples whose views are finished pictures -> batch}"""
    from rv_train.backbones.qwen2_5_vl.pictures import image_patches

    ours = copy.copy(encoder)
    ours.transform = lambda pictures, rng: pictures

    def bytes_only(samples):
        return ours.collate([ours.encode_training(sample, _rng(sample, row)) for row, sample in enumerate(samples)])

    def with_patches(samples):
        batch = bytes_only(samples)
        patches, grid = image_patches(batch["images"].flatten(0, 1))
        return {**batch, "pixel_values": patches, "image_grid_thw": grid}

    def processed(reference):
        def prepare(samples):
            texts = [encoder.codec.encode(sample.actions[None])[0] for sample in samples]
            return reference.collate(
                [
                    reference.encode(sample.views, sample.instruction, text, _rng(sample, row))
                    for (row, sample), text in zip(enumerate(samples), texts, strict=True)
                ]
            )

        return prepare

    found = {"ours": bytes_only, "ours_patches": with_patches}
    return found | {name: processed(reference) for name, reference in references.items()}


def _timed(work, samples):
    """((CPU seconds, seconds), what it returned)"""
    wall, cpu = time.perf_counter(), time.process_time()
    returned = work(samples)
    return (time.process_time() - cpu, time.perf_counter() - wall), returned


def disagreements(turn: int, made: Mapping[str, Any]) -> list[str]:
    """What the batches of one turn do not agree on, a line each."""
    problems, ours = [], made["ours_patches"]
    for name, batch in made.items():
        if not batch["input_ids"].equal(ours["input_ids"]):
            problems.append(f"batch {turn}: {VARIANTS[name]} has other ids")
        if "labels" in batch:
            following = np.pad(batch["labels"].numpy()[:, 1:], ((0, 0), (0, 1)), constant_values=-100).ravel()
            index = np.flatnonzero(following != -100)
            if not (
                np.array_equal(index, ours["label_index"].numpy())
                and np.array_equal(following[index], ours["label_ids"].numpy())
            ):
                problems.append(f"batch {turn}: {VARIANTS[name]} has other labels")
            apart = float((batch["pixel_values"] - ours["pixel_values"]).abs().max())
            if not apart <= PIXELS_AGREE:
                problems.append(f"batch {turn}: pixels of {VARIANTS[name]} differ by {apart:.2g}")
    return problems


def summarize(times: Mapping[str, Sequence[tuple[float, float]]]) -> dict:
    """See `measure`; times: {variant: [(CPU seconds, seconds)]}, the first of each a warm-up."""
    from tools.dev.benchmarks.samples import spread

    summary = {}
    for name, taken in times.items():
        summary[name] = {
            "cpu_ms": spread([1e3 * cpu for cpu, _ in taken[1:]]),
            "wall_ms": spread([1e3 * wall for _, wall in taken[1:]]),
            "cpu_ratio_to": {
                own: statistics.median(
                    cpu / mine for (cpu, _), (mine, _) in zip(taken[1:], times[own][1:], strict=True)
                )
                for own in ("ours", "ours_patches")
                if own in times and not name.startswith("ours")
            },
        }
    return summary


def table(result: Mapping[str, Any]) -> str:
    """The summary as text."""
    from tools.dev.benchmarks.samples import columns, with_quartiles

    batch, agreed = result["settings"]["batch"], "" if result["problems"] else ", ids, labels and pixels the same"
    rows: list[tuple[str, ...]] = [(f"per batch of {batch}{agreed}", "CPU ms", "ms", "of this code", "with patches")]
    for part in ("encode", "pictures"):
        for name, numbers in result[part].items():
            own, with_patches = (numbers["cpu_ratio_to"].get(other) for other in ("ours", "ours_patches"))
            what = VARIANTS[name] if part == "encode" else {"ours": "this code, OpenCV", "pil": "PIL"}[name]
            spreads = [with_quartiles(numbers["cpu_ms"], 2), with_quartiles(numbers["wall_ms"], 2)]
            rows.append((f"{part}: {what}", *spreads, *(f"{r:.1f}x" if r else "" for r in (own, with_patches))))
    parts = ("encode", "pictures")
    both = {name: sum(result[part][name]["cpu_ms"]["median"] for part in parts) for name in ("ours", "pil")}
    rows.append(("both: this code, patches on the device", f"{both['ours']:.2f}", "", "", ""))
    rows.append(("both: PIL", f"{both['pil']:.2f}", "", f"{both['pil'] / both['ours']:.1f}x", ""))
    return columns(rows)
