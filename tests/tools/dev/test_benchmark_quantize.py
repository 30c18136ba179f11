"""benchmark.py quantize: what other weights do to an answer, and what is counted; never how fast anything is."""

import json
import sys

import pytest
import torch

from tests.tiny import make_tiny_base, make_tiny_checkpoint, tiny_cfg, tiny_model
from tools.dev import benchmark
from tools.dev.benchmarks.quantize import summarize
from tools.dev.benchmarks.quantized import MANY, KernelLinear, quantized


def run(tmp_path, *arguments):
    out = tmp_path / "quantize.json"
    benchmark.main(["quantize", *arguments, "--out", str(out)])
    (model,) = json.loads(out.read_text())["models"].values()
    return model


def test_kinds_of_weights_side_by_side(tmp_path, capsys):
    kinds = ["float32", "bfloat16", "int8_kernel", "int8_dynamic"]
    path = str(make_tiny_base(tmp_path, ACTION__HORIZON=2))
    model = run(tmp_path, "--model_path", path, "--prompts", "2", "--batch", "2", "--weights", *kinds)
    told = model["kinds"]
    assert list(told) == kinds and model["clock"] == "cpu_s"
    same = ("equal_ids", "equal_answers", "numbers_apart_percent", "faster_by")
    assert [told["float32"][key] for key in same] == [1, 1, 0, 1]
    for kind, share in {"bfloat16": 1 / 2, "int8_kernel": 1 / 4, "int8_dynamic": 1 / 4}.items():
        assert told[kind]["mib"] == pytest.approx(share * told["float32"]["mib"], rel=0.2)
    assert "int8, kernel of torch" in capsys.readouterr().out


def test_what_differs_is_counted():
    def call(cpu_s, prompt_s, passes, ids, numbers):
        prompt = {"s": 9.0, "cpu_s": prompt_s}
        return {"s": 9.0, "cpu_s": cpu_s, "prompt": prompt, "passes": passes, "ids": ids, "numbers": numbers}

    reference = [call(6.0, 2.0, [4, 3], [[5, 1, 6], [5, 1]], torch.tensor([[56], [5]]))]
    own = [call(3.0, 1.0, [4, 2], [[5, 1, 7, 7], [5, 1]], torch.tensor([[577], [5]]))]
    told = summarize(own, reference, "cpu_s", 1000)
    assert (told["call_ms"], told["prompt_ms"], told["pass_ms"], told["passes_per_call"]) == (3000, 1000, 500, 4)
    assert (told["faster_by"], told["equal_ids"], told["equal_answers"]) == (2, 4 / 6, 1 / 2)
    assert told["numbers_apart_percent"] == pytest.approx(100 * (577 - 56) / 2 / 1000)


def test_drafts_make_fewer_passes(tmp_path):
    arguments = ["--model_path", str(make_tiny_checkpoint(tmp_path)), "--prompts", "3", "--weights", "float32"]
    plain, drafted = run(tmp_path, *arguments), run(tmp_path, *arguments, "--drafts")
    passes = [model["kinds"]["float32"]["passes_per_call"] for model in (plain, drafted)]
    assert passes[1] < passes[0]


@pytest.mark.parametrize("rows", [3, MANY])
def test_eight_bits_are_within_half_a_step(rows):
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 32, dtype=torch.bfloat16)
    x = torch.randn(2, rows, 64, dtype=torch.bfloat16)
    step = linear.weight.float().abs().amax(1) / 127
    error = (KernelLinear(linear)(x).float() - linear(x).float()).abs()
    bound = x.float().abs().sum(-1, keepdim=True) * step / 2
    assert error.max() > 0 and (error <= bound + 0.02 * linear(x).float().abs().max()).all()


def test_what_is_quantized_and_what_is_left():
    model = tiny_model(tiny_cfg())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = quantized(model, "int8_kernel").backbone
    assert isinstance(own.model.language_model.layers[0].mlp.up_proj, KernelLinear)
    assert isinstance(own.model.visual.blocks[0].attn.qkv, torch.nn.Linear)
    assert own.lm_head.weight is own.model.language_model.embed_tokens.weight  # tied as before
    assert own.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--data", "some.hdf5"], "name the checkpoint with --model_path"),
        (["--device", "cuda"], "--weights int8_kernel is computed on CPUs only, not on cuda"),
        (["--sizes", "tiny", "--weights", "fp8"], "--weights fp8 needs torchao: pip install"),
    ],
)
def test_senseless_arguments(arguments, message, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["quantize", *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err
