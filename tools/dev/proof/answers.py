"""Answers: how long one takes, many at once, and which bits of them hold."""

import statistics
from argparse import Namespace
from typing import TYPE_CHECKING, Any, cast

import torch

from rv_eval.policy import Policy
from rv_train.policies import build_encoder, build_policy
from rv_train.policies.text import decoder as decoding
from tools.dev.benchmarks.decode import observations
from tools.dev.benchmarks.decode_ways import Ways
from tools.dev.benchmarks.samples import STATS
from tools.dev.proof.ground import ROOT, Ground

if TYPE_CHECKING:
    from rv_train.policies.text.encoder import TextEncoder
    from rv_train.policies.text.model import TextPolicy


def chunk(ground: Ground) -> None:
    """One chunk of 8 x 7 integers: the library's `generate`, this code without and with graphs, compiled, drafts."""
    for dtype in _dtypes(ground):
        made = ground.guarded(f"a model in {dtype}", answerer, ground, dtype)
        if not made:
            continue
        model, encoder = made
        ways, seen = Ways(model, ground.device), _batch(ground, encoder, 1)
        model.decoder.record = False
        plain = _tell(ground, f"one chunk, {dtype}, no graph", ways, "plain", seen)
        if dtype == "bfloat16" or ground.tiny:
            _tell(ground, f"one chunk, {dtype}, the library's generate()", ways, "generate", seen, expected=plain)
        model.decoder.record, graph = True, ground.device.type == "cuda"
        name = f"one chunk, {dtype}" + (", CUDA graph" if graph else "")
        if graph:
            _tell(ground, name, ways, "plain", seen, expected=plain, aim="<= 500 ms")
            _tell_graph(ground, name, model)
        if plain:
            numbers = torch.tensor(
                [model.decoder.grammar.numbers_of(ids) for ids in plain["ids"]], device=ground.device
            )
            label = f"{name}, all drafts right"
            _tell(ground, label, ways, "drafts", seen, numbers, expected=plain, aim="<= 120 ms")
        name = f"{name}, compiled"
        if ground.left() > 45 and not ground.tiny and ground.guarded(name, _compile, model):
            _tell(ground, name, ways, "plain", seen, aim="<= 500 ms")
        del model, ways, made, encoder
        ground.clear()
    ground.guarded("drafts of a trained small policy", small_policy, ground)


def _compile(model):
    model.compile_predict()
    return True


def small_policy(ground: Ground) -> None:
    """Passes and time per answer of the shipped policy at horizon 1, on pictures that drift."""
    policy = Policy.from_checkpoint(ROOT / "checkpoints/quickstart", ground.device)
    model, encoder = cast("TextPolicy", policy.model), policy.encoder
    ways, drafts, seconds, passes = Ways(model, ground.device), None, {}, {}
    dim = encoder.form.written_dim
    for number in range(3 if ground.tiny else 12):
        batch = _batch(ground, encoder, 1, number)
        for way in ("plain", "drafts"):
            answer = ways.answer(way, batch, drafts)
            seconds.setdefault(way, []).append(answer["s"])
            passes.setdefault(way, []).append(answer["passes"][0])
        numbers = model.decoder.grammar.numbers_of(answer["ids"][0])
        drafts = torch.tensor([numbers[dim:] + [-1] * dim], device=ground.device)
    for way, label in (("plain", "no drafts"), ("drafts", "drafts at horizon 1")):
        took, count = statistics.median(seconds[way]), statistics.mean(passes[way][1:])
        ground.say(f"shipped small policy, {label}", 1e3 * took, "ms", note=f"{count:.0f} passes per answer")


def batch(ground: Ground) -> None:
    """Sixteen rows per call."""
    rows = 2 if ground.tiny else 16
    for dtype in _dtypes(ground):
        made = ground.guarded(f"a model in {dtype}", answerer, ground, dtype)
        if made:
            model, encoder = made
            seen, ways = _batch(ground, encoder, rows), Ways(model, ground.device)
            name = f"{rows} chunks at once, {dtype}"
            found = _tell(ground, name, ways, "plain", seen)
            if found:
                ground.say(f"{name}: rate", rows / found["median"], "chunks/s", ">= 20")
            del model, ways, made
            ground.clear()


def bits(ground: Ground) -> None:
    """Which answers keep their bits: in another place, beside others, with other widths and drafts, by a graph."""
    from tools.dev.benchmarks.decode import SIZES

    for dtype in _dtypes(ground):
        sizes = {} if ground.tiny else {key.replace(".", "__"): value for key, value in SIZES["wide"].items()}
        model, encoder = answerer(ground, dtype, **sizes)
        decoder, rows = model.decoder, 4
        first, other = (_batch(ground, encoder, rows, number) for number in (0, 40))
        turned = {name: values.roll(1, 0) for name, values in first.items()}
        mixed = {name: torch.cat([values[:1], other[name][1:]]) for name, values in first.items()}
        decoder.record = False
        expected = _write(model, first)
        cases = {
            "again": (_write(model, first), 0),
            "in another place": (_write(model, turned), 1),
            "beside other rows": (_write(model, mixed), 0),
            "with drafts that are right": (_write(model, first, expected["numbers"]), 0),
            "with drafts that are wrong": (_write(model, first, expected["numbers"] + 1), 0),
        }
        for width in (4, 16):
            decoding.GPU_WIDTH, before = width, decoding.GPU_WIDTH
            cases[f"in passes of {width} tokens"] = _write(model, first), 0
            decoding.GPU_WIDTH = before
        for name, (found, place) in cases.items():
            same = torch.equal(found["prompt"][place], expected["prompt"][0])
            states = torch.equal(found["states"][place], expected["states"][0])
            note = f"the prompt's bits {'hold' if same else 'differ'}, the answer's {'hold' if states else 'differ'}"
            ground.say(f"a row {name}, {dtype}", found["ids"][place] == expected["ids"][0], "same answer", note=note)
        if ground.device.type == "cuda":
            decoder.record = True
            ground.say(f"by a CUDA graph, {dtype}", _write(model, first)["ids"] == expected["ids"], "same answers")
            _tell_graph(ground, f"by a CUDA graph, {dtype}", model)


def _write(model, seen, drafts=None):
    """Ids, numbers and, of every row, hidden states of its prompt and keys of the last layer behind it."""
    decoder, kept = model.decoder, []

    def noted(function):
        def call(*given):
            kept.append(function(*given))
            return kept[-1]

        return call

    decoder.prefill, decoder._answer = noted(decoder.prefill), noted(decoder._answer)
    try:
        ids, _ = decoder.generate(model._embed(seen), seen["lengths"], drafts=drafts)
    finally:
        del decoder.prefill, decoder._answer
    (hidden, _), answer = kept
    numbers = torch.tensor([decoder.grammar.numbers_of(row) for row in ids], device=hidden.device)
    last = answer.cache[-1][0][:, answer.prompt :]
    states = [last[row, : len(written)].clone() for row, written in enumerate(ids)]
    return {"ids": ids, "numbers": numbers, "prompt": hidden.clone(), "states": states}


def _dtypes(ground):
    return ("float32",) if ground.tiny else ("bfloat16", "float32")


def answerer(ground: Ground, dtype: str, **more: Any) -> "tuple[TextPolicy, TextEncoder]":
    """(model, encoder): random weights so large that answers differ; or those that were given."""
    cfg = ground.published(AMP__param_dtype=dtype, **more)
    encoder = build_encoder(cfg, STATS)
    torch.manual_seed(0)
    with ground.device, torch.no_grad():
        model = build_policy(cfg, encoder).to(ground.device).eval()
        for parameter in model.parameters() if not ground.weights else ():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return cast("TextPolicy", model), cast("TextEncoder", encoder)


def _batch(ground, encoder, rows, number=0):
    seen = observations(Namespace(batch=rows, data=None), number, encoder)
    made = encoder.collate([encoder.encode(observation) for observation in seen])
    return {name: values.to(ground.device) for name, values in made.items()}


def _tell(ground, name, ways, way, seen, drafts=None, expected=None, aim=""):
    """The median of three calls behind a first one; returns {"median", "ids"}, None where it failed."""

    def measure():
        calls = [ways.answer(way, seen, drafts) for _ in range(2 if ground.tiny else 4)]
        return {"median": statistics.median(call["s"] for call in calls[1:]), **calls[-1], "first": calls[0]["s"]}

    found = ground.guarded(name, measure)
    if found:
        note = f"{max(found['passes'])} passes, the first call {found['first']:.1f} s"
        if expected:
            note += ", the same ids" if found["ids"] == expected["ids"] else ", OTHER ids"
        ground.say(name, 1e3 * found["median"], "ms", aim, note)
    return found


def _tell_graph(ground, name, model):
    if ground.device.type == "cuda":
        ground.say(f"{name}: proved itself", model.decoder.record)
