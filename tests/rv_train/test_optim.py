import math

import pytest
import torch

from rv_train.optim import Precision, lr_at, resolve_amp


def test_constant_rate():
    assert lr_at(0, 100, 0.5) == lr_at(99, 100, 0.5) == 0.5


def test_warmup_then_cosine_by_hand():
    rates = [lr_at(step, 110, 1.0, "cosine", warmup=10, lr_end=0.1) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.1 + 0.9 * 0.5)
    assert rates[35] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert lr_at(110, 110, 1.0, "cosine", 10, 0.1) == pytest.approx(0.1)


def test_warmup_as_a_share():
    assert lr_at(4, 200, 1.0, warmup=0.05) == pytest.approx(0.5)
    assert lr_at(10, 200, 1.0, warmup=0.05) == 1.0


def test_auto_precision_depends_on_the_processor(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert resolve_amp("auto", cpu) == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert resolve_amp("auto", cpu) == "off"
    assert resolve_amp("fp16", cpu) == "fp16"


@pytest.mark.parametrize("mode", ["off", "bf16", "fp16"])
def test_a_step_clips_and_reports_the_norm_before(mode):
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    precision = Precision(mode, torch.device("cpu"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with precision.autocast():
        loss = (weight * weight).sum() / 2  # gradient = weight, norm 5
    precision.backward(loss)
    norm = precision.step(optimizer, [weight], clip_grad=1.0)
    assert float(norm) == pytest.approx(5.0, rel=1e-2)
    assert weight.tolist() == pytest.approx([3.0 - 0.6, 4.0 - 0.8], rel=1e-2)
