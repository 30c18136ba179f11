"""Answers by quantized weights beside float32 and bfloat16: what a pass costs, and what changes in the text.

Quantized are the linear layers of the text tower; decoding is this code's. All kinds of weights answer every batch in
turns. CPU seconds count, which another process disturbs least; on a GPU seconds. Texts are compared with those of the
first kind: equal ids, equal answers, and how far the numbers in them are apart, in % of the range of an action.

Prompts, pictures and models are those of `decode`; --data takes the frames of demonstrations.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from libs.errors import BadInput
from tools.dev.benchmarks import decode, samples

WEIGHTS = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "int8, torchao",
    "fp8": "fp8, torchao",
    "int8_both": "int8 numbers and weights, torchao",
    "int8_kernel": "int8, kernel of torch",
    "int8_dynamic": "int8 numbers and weights, torch",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sizes", nargs="+", choices=decode.SIZES, default=["middle", "wide"], help="models of random weights")
    add("--weights", nargs="+", choices=WEIGHTS, default=["float32", "bfloat16", "int8_kernel"], help="kinds")
    add("--prompts", type=int, default=8, help="that each kind answers")
    add("--drafts", action="store_true", help="each kind with its own previous answers as drafts: other passes")
    decode.add_call_arguments(parser)


def measure(args: argparse.Namespace, report: Callable[[str], None]) -> dict:
    """Run the benchmark; report(line) tells what is going on.

    Returns {"settings", "models": {name: see `_measure_model`}, "problems": []}. BadInput: bad arguments, no torchao.
    """
    settings, names = decode.start(args, ("prompts", "batch", "threads"))
    from tools.dev.benchmarks.quantized import CPU_ONLY

    of_cpus = [kind for kind in args.weights if kind in CPU_ONLY]
    if of_cpus and args.device != "cpu":
        raise BadInput(f"--weights {of_cpus[0]} is computed on CPUs only, not on {args.device}")
    models = {}
    for name in names:
        model, encoder = decode.load(args, name)
        models[name] = _measure_model(args, name, model, encoder, report)
    return {"settings": settings, "models": models, "problems": []}


def _measure_model(args, name, model, encoder, report):
    """{"parameters", "prompts", "prompt_tokens", "kinds": {kind: see `summarize`}}"""
    from tools.dev.benchmarks.decode_ways import Ways
    from tools.dev.benchmarks.quantized import quantized

    ways = {}
    for kind in args.weights:
        own = quantized(model, kind)
        if args.torch_compile:
            own.compile_predict()
        ways[kind] = Ways(own, args.device)
    calls = {kind: [] for kind in ways}
    drafts: dict[str, Any] = dict.fromkeys(ways)
    number_of_calls = -(-args.prompts // args.batch)
    for call in range(-1, number_of_calls):  # the first is a warm-up
        seen = decode.observations(args, max(call, 0), encoder)
        batch = encoder.collate([encoder.encode(observation) for observation in seen])
        batch = {key: tensor.to(args.device) for key, tensor in batch.items()}
        for kind in samples.rotated(list(ways), call):
            one = _timed(ways[kind], batch, drafts[kind], args.drafts)
            one["numbers"] = _numbers(model, one["ids"])
            drafts[kind] = one["numbers"].to(args.device).roll(-model.codec.action_dim, 1)
            drafts[kind][:, -model.codec.action_dim :] = -1
            if call >= 0:
                calls[kind].append(one)
        report(f"{name}: {(call + 1) * args.batch} of {number_of_calls * args.batch} prompts")
    clock = "cpu_s" if args.device == "cpu" else "s"
    first = args.weights[0]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "prompts": number_of_calls * args.batch,
        "prompt_tokens": batch["input_ids"].shape[1],
        "clock": clock,
        "kinds": {
            kind: {"mib": _mib(ways[kind].model), **summarize(own, calls[first], clock, model.codec.num_bins)}
            for kind, own in calls.items()
        },
    }


def _timed(ways, batch, drafts, drafted):
    """A prompt, then a prompt and its answer: {"s", "cpu_s", "prompt": {"s", "cpu_s"}, "ids", "passes"}."""
    way = "drafts" if drafted else "plain"
    start = time.process_time()
    prompt = {"s": ways.answer(way, batch, drafts, only_first=True)["s"], "cpu_s": time.process_time() - start}
    start = time.process_time()
    answer = ways.answer(way, batch, drafts)
    return {**answer, "cpu_s": time.process_time() - start, "prompt": prompt}


def _numbers(model, ids):
    """(B, H * A) integers of the answers."""
    import torch

    return torch.tensor([[int(word) for word in model.prompt.decode(row).split()] for row in ids])


def summarize(
    own: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], clock: str, num_bins: int
) -> dict:
    """Medians over calls of the milliseconds of a call, its prompt and a pass; what differs from the reference."""
    median = statistics.median
    rows = [(a, b) for x, y in zip(own, reference, strict=True) for a, b in zip(x["ids"], y["ids"], strict=True)]
    equal = sum(i == j for a, b in rows for i, j in zip(a, b, strict=False))  # an end too early or late is a difference
    apart = [(x["numbers"] - y["numbers"]).abs().float().mean() for x, y in zip(own, reference, strict=True)]
    return {
        "call_ms": 1e3 * median(call[clock] for call in own),
        "prompt_ms": 1e3 * median(call["prompt"][clock] for call in own),
        "pass_ms": 1e3 * median((call[clock] - call["prompt"][clock]) / max(call["passes"]) for call in own),
        "passes_per_call": statistics.mean(max(call["passes"]) for call in own),
        "faster_by": median(ref[clock] / call[clock] for call, ref in zip(own, reference, strict=True)),
        "equal_ids": equal / sum(max(len(a), len(b)) for a, b in rows),
        "equal_answers": sum(a == b for a, b in rows) / len(rows),
        "numbers_apart_percent": 100 * float(sum(apart) / len(apart)) / num_bins,
        "calls": [{key: call[key] for key in ("s", "cpu_s", "prompt", "passes")} for call in own],
    }


def _mib(model):
    """MiB of the text tower's layers."""
    held = 0
    for tensor in model.backbone.model.language_model.layers.state_dict().values():
        if isinstance(tensor, tuple):  # torch keeps int8_dynamic packed, with a kind of number beside it
            tensor = tensor[0]
        parts = getattr(tensor, "tensor_data_names", None)  # of torchao
        if hasattr(tensor, "element_size"):
            held += sum(_bytes(getattr(tensor, part)) for part in parts) if parts else _bytes(tensor)
    return held / 2**20


def _bytes(tensor):
    return tensor.numel() * tensor.element_size()


def table(result: Mapping[str, Any]) -> str:
    """The summary as text."""
    lines = []
    for name, model in result["models"].items():
        lines.append(
            f"{name}: {model['parameters'] / 1e6:.1f} M parameters, {model['prompts']} prompts of "
            f"{model['prompt_tokens']} tokens, {result['settings']['batch']} per call; milliseconds of "
            + ("the processor" if model["clock"] == "cpu_s" else "the clock")
        )
        head = ("", "MiB", "call", "prompt", "pass", "passes", "faster by", "equal ids", "answers", "numbers apart")
        rows: list[tuple[str, ...]] = [head]
        for kind, numbers in model["kinds"].items():
            rows.append(
                (
                    WEIGHTS[kind],
                    f"{numbers['mib']:.1f}",
                    *(f"{numbers[key]:.1f}" for key in ("call_ms", "prompt_ms")),
                    f"{numbers['pass_ms']:.2f}",
                    f"{numbers['passes_per_call']:.0f}",
                    f"{numbers['faster_by']:.2f}x",
                    f"{100 * numbers['equal_ids']:.1f} %",
                    f"{100 * numbers['equal_answers']:.0f} %",
                    f"{numbers['numbers_apart_percent']:.2f} %",
                )
            )
        lines += [samples.columns(rows), ""]
    return "\n".join(lines)
