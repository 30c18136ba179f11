import copy
import importlib.util
import math

import pytest
import torch

from rv_train.adamw_8bit import AdamW8bit
from rv_train.optim import Ema, Precision, build_optimizer, check_optimizer, lr_at, resolve_amp, total_norm
from tests.tiny import tiny_cfg


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_norm_of_all_gradients(dtype):
    torch.manual_seed(0)
    shapes = [(3_000_001,), (300, 4096), (4096,), (5,), (), (0,)]  # float32 alone would lose the fourth digit
    gradients = [torch.randn(shape).mul(10).to(dtype) for shape in shapes]
    true = torch.cat([gradient.flatten() for gradient in gradients]).double().norm()
    assert total_norm(gradients).dtype == torch.float32
    torch.testing.assert_close(total_norm(gradients).double(), true, rtol=1e-6, atol=0)
    cut = [part for gradient in gradients for part in gradient.flatten().split(1001)]
    torch.testing.assert_close(total_norm(cut).double(), true, rtol=1e-6, atol=0)
    gradients[1][7, 7] = torch.nan
    assert total_norm(gradients).isnan()
    gradients[1][7, 7] = torch.inf
    assert total_norm(gradients).isinf()


@pytest.mark.parametrize("mode", ["off", "bf16", "fp16"])
def test_a_step_clips_and_reports_the_norm_before(mode):
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    precision = Precision(mode, torch.device("cpu"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with precision.autocast():
        loss = (weight * weight).sum() / 2  # gradient = weight, norm 5
    precision.backward(loss)
    norm = precision.clip(optimizer, [weight], clip_grad=1.0)
    precision.step(optimizer, bad=torch.tensor(0.0))
    assert float(norm) == pytest.approx(5.0, rel=1e-2)
    assert weight.tolist() == pytest.approx([3.0 - 0.6, 4.0 - 0.8], rel=1e-2)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("mode", ["off", "bf16", "fp16"])
def test_a_skipped_step_leaves_the_weights_alone_and_lowers_the_scale(mode, fused):
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    precision = Precision(mode, torch.device("cpu"))
    scale = precision.scaler.get_scale()
    optimizer = torch.optim.AdamW([weight], lr=1.0, fused=fused)
    for factor, bad in ((math.inf, 1.0), (1.0, 0.0), (math.inf, 1.0)):
        optimizer.zero_grad()
        precision.backward((weight * factor).sum())
        norm = precision.clip(optimizer, [weight], clip_grad=0.0)
        assert torch.isfinite(norm) != bool(bad)
        before = weight.tolist(), [value.tolist() for value in optimizer.state[weight].values()]
        precision.step(optimizer, torch.tensor(bad))
        after = weight.tolist(), [value.tolist() for value in optimizer.state[weight].values()]
        assert (before[0] == after[0]) == bool(bad) and (before == after or not bad or not before[1])
    assert optimizer.state[weight]["step"] == 1
    assert precision.scaler.get_scale() == (scale / 4 if mode == "fp16" else 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moving_average_by_hand(dtype):
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=dtype))
    ema = Ema([weight], decay=0.5)
    average = weight.detach().float().clone()
    for n in range(4):
        with torch.no_grad():
            weight += 1.0
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))  # by hand: the average hardly remembers the first, random weights
        average = decay * average + (1 - decay) * weight.detach().float()
    with ema.swapped():
        assert torch.allclose(weight.float(), average, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert weight.tolist() == [5.0, 6.0]
    state = ema.state_dict()
    with ema.swapped():  # a checkpoint is written in here
        assert state["weights"][0].tolist() == [5.0, 6.0]
    other_weight = torch.nn.Parameter(torch.zeros(2, dtype=dtype))
    other = Ema([other_weight], decay=0.5)
    other.load_state_dict(state)
    assert other.count == 4 and torch.equal(other_weight, weight) and torch.equal(other.average[0], ema.average[0])


def test_a_moving_average_does_not_follow_a_skipped_step():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    ema = Ema([weight], decay=0.5)
    with torch.no_grad():
        weight += 1.0
    ema.update(torch.tensor(1.0))
    assert ema.average[0].item() == 1.0 and ema.state_dict()["count"] == 0
    ema.update(torch.tensor(0.0))
    assert ema.average[0].item() == pytest.approx(0.1 * 1.0 + 0.9 * 2.0) and ema.state_dict()["count"] == 1


def test_no_moving_average_costs_nothing():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    ema = Ema([weight], decay=0.0)
    ema.update()
    with ema.swapped():
        assert weight.item() == 1.0
    assert ema.average == [] and ema.state_dict() == {}


def test_a_moving_average_may_begin_or_end_on_resume():
    def weight():
        return torch.nn.Parameter(torch.tensor([1.0]))

    with_average = Ema([weight()], decay=0.5)
    with torch.no_grad():
        with_average.parameters[0] += 1.0
    with_average.update()
    without = Ema([weight()], decay=0.0)
    without.load_state_dict(with_average.state_dict())
    assert without.parameters[0].item() == 2.0  # the weights themselves, though model/ holds the average
    beginning = Ema([weight()], decay=0.5)
    beginning.load_state_dict(Ema([weight()], decay=0.0).state_dict())
    assert beginning.count == 0 and beginning.average[0].item() == beginning.parameters[0].item() == 1.0


@pytest.mark.parametrize("kind", ["adamw", "adam", "adamw_8bit"])
def test_optimizers_descend_and_resume_to_the_bit(kind):
    def make():
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(64, 128))  # large enough for 8-bit states
        return weight, build_optimizer(tiny_cfg(TRAIN__optimizer=kind, TRAIN__lr=0.01).TRAIN, [weight])

    def descend(weight, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (weight * weight).mean()
            (loss * 1000).backward()
            optimizer.step()
        return loss.item()

    weight, optimizer = make()
    start = (weight * weight).mean().item()
    assert descend(weight, optimizer, 3) < start
    middle, state = weight.detach().clone(), copy.deepcopy(optimizer.state_dict())
    descend(weight, optimizer, 3)
    again, resumed = make()
    resumed.load_state_dict(state)
    with torch.no_grad():
        again.copy_(middle)
    descend(again, resumed, 3)
    assert torch.equal(weight, again)
    sizes = {v.dtype for v in optimizer.state[weight].values() if torch.is_tensor(v) and v.numel() == weight.numel()}
    assert sizes == ({torch.uint8} if kind == "adamw_8bit" else {torch.float32})


def test_adamw_in_8_bits_steps_and_loads_as_the_library_does():
    from bitsandbytes.optim import AdamW8bit as Library

    def make(kind):
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(64, 128)), torch.nn.Parameter(torch.randn(7))]
        return weights, kind(weights, lr=0.01, weight_decay=0.1)

    def step(weights, optimizer):
        for weight in weights:
            weight.grad = 3 * weight.detach()
        optimizer.step()

    theirs, library = make(Library)
    ours, optimizer = make(AdamW8bit)
    for _ in range(3):
        step(theirs, library)
        step(ours, optimizer)
    assert all(map(torch.equal, ours, theirs))
    again, resumed = make(AdamW8bit)
    saved = library.state_dict()
    resumed.load_state_dict(saved)
    with torch.no_grad():
        for weight, value in zip(again, theirs, strict=True):
            weight.copy_(value)
    step(theirs, library)  # must not change what was loaded
    step(again, resumed)
    assert all(map(torch.equal, again, theirs))
    step(again, resumed)
    assert not torch.equal(again[0], theirs[0])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        check_optimizer(tiny_cfg(TRAIN__optimizer="adamw_8bit").TRAIN)
    check_optimizer(tiny_cfg(TRAIN__optimizer="adamw").TRAIN)
