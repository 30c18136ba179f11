"""Answers written by this code, without and with drafts, beside the library's `generate()`, on the same prompts.

References: `generate()` as the library has it, with its static cache, and with --compiled compiled as well; kept to the
same answers by a LogitsProcessor. Every batch is answered by all in turns, and all must write the same ids.

Prompts are those of the published recipe. Their pictures come in sequences, a row of the batch follows one of them, and
its draft is its previous answer shifted by one action, as in a rollout with --action_horizon 1: frames of
demonstrations (--data), or pictures that drift. Models: random weights at some sizes, or a checkpoint (--model_path).
"""

import argparse
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from libs.cli import Switch
from libs.errors import BadInput
from tools.dev.benchmarks.samples import columns, rotated, spread, with_quartiles

if TYPE_CHECKING:
    from rv_train.policies.text.encoder import TextEncoder
    from rv_train.policies.text.model import TextPolicy


CONFIG = Path(__file__).resolve().parents[3] / "configs/vla0.yaml"
TINY = {
    "MODEL.TEXT.HIDDEN": 128,
    "MODEL.TEXT.LAYERS": 4,
    "MODEL.TEXT.HEADS": 4,
    "MODEL.TEXT.MLP": 256,
    "MODEL.VISION.HIDDEN": 64,
    "MODEL.VISION.LAYERS": 2,
    "MODEL.VISION.HEADS": 2,
    "MODEL.VISION.MLP": 128,
    "MODEL.VISION.FULL_ATTENTION": [0, 1],
}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {**TINY, "MODEL.VOCAB_CUT": 512},
    "tiny_whole": {**TINY, "MODEL.VOCAB_CUT": 0},  # with all of Qwen's 151,936 words, as the published model has them
    "middle": {
        **TINY,
        "MODEL.VOCAB_CUT": 512,
        "MODEL.TEXT.HIDDEN": 512,
        "MODEL.TEXT.LAYERS": 8,
        "MODEL.TEXT.HEADS": 8,
        "MODEL.TEXT.MLP": 1536,
    },
    "wide": {  # four layers of the 3B model and short answers: 0.3 billion parameters, which no cache holds
        **{name: value for name, value in TINY.items() if "TEXT" not in name},
        "MODEL.TEXT.LAYERS": 4,
        "MODEL.VOCAB_CUT": 512,
        "ACTION.HORIZON": 1,
    },
    "3b": {"AMP.param_dtype": "bfloat16"},
}
VARIANTS = {
    "generate": "generate()",
    "static": "generate(), static cache",
    "compiled": "generate(), compiled",
    "plain": "this code, no drafts",
    "drafts": "this code, drafts",
}
OURS = ("plain", "drafts")
SEQUENCE = 32  # frames of a sequence of made pictures
INSTRUCTION = "put the white mug on the left plate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=["tiny"], help="models of random weights")
    add("--prompts", type=int, default=500, help="that generate() and this code answer")
    add("--few_prompts", type=int, default=40, help="that the slower references answer too")
    add("--compiled", action="store_true", help="also generate() compiled (minutes)")
    add_call_arguments(parser)


def add_call_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark that answers prompts; `start` takes them up."""
    add = parser.add_argument
    add("--model_path", help="a checkpoint in place of --sizes")
    add("--data", type=Path, help="demo file (of a folder: the first) whose frames are the pictures, with --model_path")
    add("--batch", type=int, default=1, help="rows per call")
    add("--torch_compile", action=Switch, default=False, help="compile this code's pass")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    add("--threads", type=int, default=1, help="of a CPU")


def measure(args: argparse.Namespace, report: Callable[[str], None]) -> dict:
    """Run the benchmark; report(line) tells what is going on.

    Returns {"settings", "models": {name: see `_measure_model`}, "problems"}. BadInput: bad arguments.
    """
    settings, names = start(args, ("prompts", "few_prompts", "batch", "threads"))
    models, problems = {}, []
    for name in names:
        model, encoder = load(args, name)
        if args.torch_compile:
            model.compile_predict()
        models[name] = _measure_model(args, name, model, encoder, report)
        problems += models[name]["problems"]
    return {"settings": settings, "models": models, "problems": problems}


def start(args: argparse.Namespace, numbers: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Check the arguments, `numbers` are those that must be at least 1, and set the threads.

    Returns ({option: value} as JSON takes it, names of the models to answer with). BadInput: bad arguments.
    """
    for name in numbers:
        if getattr(args, name) < 1:
            raise BadInput(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.data and not args.model_path:
        raise BadInput("--data gives a checkpoint frames it knows: name the checkpoint with --model_path")
    import torch

    torch.set_num_threads(args.threads)
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "benchmark")}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return settings, [args.model_path] if args.model_path else args.sizes


def load(args: argparse.Namespace, name: str) -> "tuple[TextPolicy, TextEncoder]":
    """The model of that name, of those that `start` gave, and its encoder."""
    return _checkpoint(args) if args.model_path else _random_model(name, args.device)


def _measure_model(args, name, model, encoder, report):
    """{"parameters", "prompts", "prompt_tokens", "answer_tokens", "variants": see `summarize`, "problems", "calls"}"""
    import torch

    from tools.dev.benchmarks.decode_ways import Ways

    ways = Ways(model, args.device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    variants = [variant for variant in VARIANTS if variant != "compiled" or args.compiled]
    calls, first = {variant: [] for variant in variants}, {"generate": [], "plain": []}
    problems, drafts, number_of_calls = [], None, -(-args.prompts // args.batch)
    for call in range(-1, number_of_calls):  # the first is a warm-up
        seen = observations(args, max(call, 0), encoder)
        batch = encoder.collate([encoder.encode(observation) for observation in seen])
        batch = {name: tensor.to(args.device) for name, tensor in batch.items()}
        few = call * args.batch < args.few_prompts
        turn = variants if few else ["generate", "plain", "drafts"]
        answers = {variant: ways.answer(variant, batch, drafts) for variant in rotated(turn, call)}
        problems += _disagreements(f"{name}, call {call}", answers)
        if call >= 0:
            for variant, answer in answers.items():
                calls[variant].append({"call": call, **answer})
            for variant in first if few else ():
                first[variant].append(ways.answer(variant, batch, drafts, only_first=True)["s"])
        texts = [model.prompt.decode(ids) for ids in answers["plain"]["ids"]]
        integers = torch.tensor([[int(word) for word in text.split()] for text in texts], device=args.device)
        drafts = integers.roll(-model.codec.action_dim, 1)
        drafts[:, -model.codec.action_dim :] = -1
        if call % 25 == 0:
            report(f"{name}: {call * args.batch} of {number_of_calls * args.batch} prompts")
    lengths = [len(ids) + 1 for answer in calls["plain"] for ids in answer["ids"]]
    return {
        "parameters": parameters,
        "prompts": number_of_calls * args.batch,
        "prompt_tokens": batch["input_ids"].shape[1],
        "answer_tokens": {"median": statistics.median(lengths), "min": min(lengths), "max": max(lengths)},
        "variants": summarize(calls, first),
        "problems": problems,
        "calls": {name: [{k: v for k, v in one.items() if k != "ids"} for one in own] for name, own in calls.items()},
    }


def _disagreements(where: str, answers: Mapping[str, Any]) -> list[str]:
    expected = answers["plain"]["ids"]
    return [
        f"{where}, row {row}: {VARIANTS[variant]} writes something else"
        for variant, answer in answers.items()
        for row, ids in enumerate(answer["ids"])
        if ids != expected[row]
    ]


def summarize(calls: Mapping[str, list[dict]], first: Mapping[str, Sequence[float]]) -> dict:
    """Milliseconds per call of each variant, of that the prompt, and how much faster than generate() it is.

    first: seconds until the first token, of "generate" and of "plain"; the others have the same prompt.
    """
    summary, reference = {}, {call["call"]: call["s"] for call in calls["generate"]}
    for variant, own in calls.items():
        prompt_ms = 1e3 * statistics.median(first["plain" if variant in OURS else "generate"])
        call_ms = spread([1e3 * call["s"] for call in own])
        summary[variant] = {
            "calls": len(own),
            "call_ms": call_ms,
            "prompt_ms": prompt_ms,
            "decoding_ms": call_ms["median"] - prompt_ms,
            "faster_by": spread([reference[call["call"]] / call["s"] for call in own]),
            "passes_per_answer": statistics.mean(count for call in own for count in call["passes"]),
            "passes_per_call": statistics.mean(max(call["passes"]) for call in own),
        }
        # Of the same calls, as above: a reference that answered a few of them may have met a busier machine.
        same = 1e3 * statistics.median(reference[call["call"]] for call in own) - summary["generate"]["prompt_ms"]
        summary[variant]["decoding_faster_by"] = same / summary[variant]["decoding_ms"]
    return summary


# ------------------------------------------------------------------------------------------------ models and pictures


def _checkpoint(args):
    from rv_eval.policy import Policy

    policy = Policy.from_checkpoint(args.model_path, args.device)
    return policy.model, policy.encoder


def _random_model(name, device):
    """A model of random weights, so large that answers differ and every rounding shows; and its encoder."""
    import torch

    from rv_train.config import load_cfg
    from rv_train.policies import build_encoder, build_policy

    chosen = SIZES[name]
    options = [part for pair in {"MODEL.INIT": "random", **chosen}.items() for part in pair]
    cfg = load_cfg(CONFIG, options)
    encoder = build_encoder(cfg, {"min": [-1.0] * 7, "max": [1.0] * 7})
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        model = build_policy(cfg, encoder).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.15)
    return model, encoder


def observations(args: argparse.Namespace, number: int, encoder: "TextEncoder") -> list[dict]:
    """What the rows of call `number` see: row by row the next frame of a sequence."""
    if args.data:
        return _recorded(args, number, encoder)
    pictures = []
    for row in range(args.batch):
        rng = np.random.default_rng([row, number // SEQUENCE])
        coarse = rng.integers(0, 256, (len(encoder.views), 16, 16, 3), dtype="uint8")
        shift = 2 * (number % SEQUENCE)
        pictures.append(np.roll(coarse.repeat(16, 1).repeat(16, 2), (shift, shift), (1, 2)))  # 256 x 256
    return [{"views": dict(zip(encoder.views, views, strict=True)), "instruction": INSTRUCTION} for views in pictures]


def _recorded(args, number, encoder):
    from libs.demo_hdf5 import DemoFile, demo_files

    file = DemoFile(demo_files(args.data)[0])
    try:
        observations, demos = [], list(file.demos)
        for row in range(args.batch):
            step, demo = number, row
            while step >= file.num_frames(demos[demo % len(demos)]):
                step, demo = step - file.num_frames(demos[demo % len(demos)]), demo + args.batch
            views = {view: file.frame(demos[demo % len(demos)], step, view) for view in encoder.views}
            observations.append({"views": views, "instruction": file.instruction})
        return observations
    finally:
        file.close()


def table(result: Mapping[str, Any]) -> str:
    """The summary as text."""
    lines = []
    for name, model in result["models"].items():
        tokens = model["answer_tokens"]
        lines.append(
            f"{name}: {model['parameters'] / 1e6:.1f} M parameters, {model['prompts']} prompts of "
            f"{model['prompt_tokens']} tokens, {result['settings']['batch']} per call, answers of "
            f"{tokens['median']:g} tokens ({tokens['min']}-{tokens['max']})"
            + ("" if model["problems"] else ", all ids the same")
        )
        rows = [("", "ms per call", "prompt", "decoding", "passes", "faster by", "decoding faster by")]
        for variant, numbers in model["variants"].items():
            rows.append(
                (
                    VARIANTS[variant],
                    with_quartiles(numbers["call_ms"], 0),
                    f"{numbers['prompt_ms']:.0f}",
                    f"{numbers['decoding_ms']:.0f}",
                    f"{numbers['passes_per_answer']:.0f}",
                    f"{numbers['faster_by']['median']:.2f}x",
                    f"{numbers['decoding_faster_by']:.2f}x",
                )
            )
        lines += [columns(rows), ""]
    return "\n".join(lines)
