"""The frozen backbone of a flow-matching policy over a whole batch, beside one sample after another.

The reference is what the document's code does: every sample passes through the vision-language model by itself. Random
weights, random pictures, prompts of different lengths; both must give the same hidden states.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from libs.errors import BadInput

ROUNDS_WARM = 1
SIZES = {
    "tiny": {"HIDDEN": 32, "LAYERS": 2, "HEADS": 2, "KV_HEADS": 1, "MLP": 64},
    "stack": {"HIDDEN": 160, "LAYERS": 4, "HEADS": 5, "KV_HEADS": 1, "MLP": 480},
    "middle": {"HIDDEN": 512, "LAYERS": 8, "HEADS": 8, "KV_HEADS": 2, "MLP": 1536},
    "7b": {"HIDDEN": 3584, "LAYERS": 28, "HEADS": 28, "KV_HEADS": 4, "MLP": 18944},
}
VISION = {
    "tiny": {"HIDDEN": 32, "LAYERS": 2, "HEADS": 2, "MLP": 64, "FULL_ATTENTION": [0, 1]},
    "stack": {"HIDDEN": 128, "LAYERS": 4, "HEADS": 4, "MLP": 384, "FULL_ATTENTION": [0, 1, 2, 3]},
    "middle": {"HIDDEN": 256, "LAYERS": 8, "HEADS": 4, "MLP": 768, "FULL_ATTENTION": [3, 7]},
}
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}  # of the largest hidden state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=["tiny", "stack", "middle"], help="models of random weights")
    add("--batch", type=int, default=8, help="samples")
    add("--rounds", type=int, default=12, help="turns that are timed")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    add("--dtype", choices=TOLERANCE, help="of the weights (default: float32 on a CPU, bfloat16 on a GPU)")
    add("--image_size", type=int, default=112, help="side of a view, pixels; two views are tiled")


def measure(args: argparse.Namespace, report: Callable[[str], None]) -> dict[str, Any]:
    import torch

    if args.batch < 1 or args.rounds < 1:
        raise BadInput(f"--batch and --rounds are at least 1, not {args.batch} and {args.rounds}")
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"--device {args.device}: there is no GPU here")
    torch.set_num_threads(1)
    dtype = args.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    rows, problems = [], []
    for size in args.sizes:
        row, largest = _measure_size(args, size, device, dtype)
        rows.append(row)
        if not largest <= TOLERANCE[dtype]:
            problems.append(f"{size}: hidden states differ by {largest:.2g} of the largest")
        report(f"{size}: {row['ratio']:.2f} x")
    return {"device": str(device), "dtype": dtype, "batch": args.batch, "rows": rows, "problems": problems}


def _measure_size(args, size, device, dtype):
    import torch

    from rv_train.backbones import family_of
    from rv_train.backbones.loading import build_backbone
    from rv_train.backbones.running import hidden_states
    from rv_train.policies import build_encoder
    from rv_train.policies.encoding import take_row

    cfg = _config(size, args.image_size, dtype)
    family, encoder = family_of(cfg), build_encoder(cfg)
    torch.manual_seed(0)
    with torch.device(device):
        backbone = build_backbone(cfg, family, encoder.prompt.tokenizer).eval()
    batch = {name: values.to(device) for name, values in _batch(encoder, args.batch, args.image_size).items()}
    rows = [take_row(batch, row) for row in range(args.batch)]
    times = {"batch": [], "single": []}

    @torch.no_grad()
    def run(kind):
        _wait(device)
        start = time.perf_counter()
        todo = [batch] if kind == "batch" else rows
        hidden = [hidden_states(family, backbone, one, encoder.prompt) for one in todo]
        _wait(device)
        return time.perf_counter() - start, hidden

    for number in range(ROUNDS_WARM + args.rounds):
        found = {}
        for kind in times if number % 2 else reversed(times):
            seconds, found[kind] = run(kind)
            if number >= ROUNDS_WARM:
                times[kind].append(seconds)
    together, lengths = found["batch"][0].float(), batch["lengths"].tolist()
    scale = together.abs().max().item()
    largest = max(
        (together[row, :length] - found["single"][row][0].float()).abs().max().item() / scale
        for row, length in enumerate(lengths)
    )
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    row = {
        "size": size,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "batch_ms": 1e3 * medians["batch"],
        "single_ms": 1e3 * medians["single"],
        "ratio": medians["single"] / medians["batch"],
        "ratios": sorted(single / batch for batch, single in zip(times["batch"], times["single"], strict=True)),
        "largest_difference": largest,
    }
    return row, largest


def _config(size, image_size, dtype):
    from rv_train.config import cfg_from_dict

    model: dict[str, Any] = {"NAME": "flow_expert", "INIT": "random", "TEXT": SIZES[size]}
    if size == "7b":
        model["TEXT"] |= {"VOCAB": 152064, "TIED": False}
    else:
        model |= {"VISION": VISION[size], "VOCAB_CUT": 512}
    tree = {"MODEL": model, "IMAGE": {"SIZE": image_size}, "PROMPT": {"SYSTEM": ""}, "AMP": {"param_dtype": dtype}}
    return cfg_from_dict(tree, "the benchmark")


def _batch(encoder, count, image_size):
    rng = np.random.default_rng(0)
    words = ["stack the red cube on the green cube", "put the red cube on the other one, then wait for it to rest"]
    observations = [
        {
            "views": {
                view: rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8) for view in encoder.views
            },
            "instruction": words[number % 2],
        }
        for number in range(count)
    ]
    return encoder.collate([encoder.encode(observation) for observation in observations])


def _wait(device):
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def table(result: Mapping[str, Any]) -> str:
    lines = [f"{result['device']}, {result['dtype']}, {result['batch']} samples"]
    lines.append(f"{'model':<10}{'parameters':>16}{'one batch':>12}{'one by one':>12}{'ratio':>9}   quartiles")
    for row in result["rows"]:
        spread = statistics.quantiles(row["ratios"], n=4) if len(row["ratios"]) > 1 else row["ratios"] * 3
        lines.append(
            f"{row['size']:<10}{row['parameters']:>16,}{row['batch_ms']:>9.1f} ms{row['single_ms']:>9.1f} ms"
            f"{row['ratio']:>7.2f} x   {spread[0]:.2f} to {spread[2]:.2f}"
        )
    return "\n".join(lines)
