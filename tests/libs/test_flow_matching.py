import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from libs.flow_matching import (
    SAMPLERS,
    Normalizer,
    draw_noise,
    draw_times,
    euler_sample,
    flow_matching_loss,
    heun_sample,
    interpolate,
)

MODES = 2.0 * torch.tensor([[math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)] for k in range(8)])
SPREAD = 0.15


def gaussian(*shape, seed=0):
    return torch.from_numpy(draw_noise(np.random.default_rng(seed), shape))


# The path and the loss.


def test_the_path_runs_straight_from_noise_to_data():
    noise, data = gaussian(3, 4, 2), gaussian(3, 4, 2, seed=1)
    start, velocity = interpolate(noise, data, torch.zeros(3))
    end, _ = interpolate(noise, data, torch.ones(3))
    torch.testing.assert_close(start, noise, rtol=0, atol=0)
    torch.testing.assert_close(end, data, rtol=0, atol=0)
    torch.testing.assert_close(velocity, data - noise, rtol=0, atol=0)
    quarter, _ = interpolate(noise, data, torch.tensor([0.25, 0.5, 1.0]))
    torch.testing.assert_close(quarter[0], 0.75 * noise[0] + 0.25 * data[0])
    torch.testing.assert_close(quarter[1], (noise[1] + data[1]) / 2)


def test_with_a_width_the_path_ends_beside_the_data_and_the_velocity_is_its_derivative():
    """Equations 22 and 23, by hand and by a difference quotient in t."""
    noise, data = gaussian(2, 4, 2).double(), gaussian(2, 4, 2, seed=1).double()
    end, velocity = interpolate(noise, data, torch.ones(2), sigma_min=0.1)
    torch.testing.assert_close(end, (data + 0.1 * noise).float())
    torch.testing.assert_close(velocity, (data - 0.9 * noise).float())
    near, _ = interpolate(noise, data, torch.full((2,), 0.5), sigma_min=0.1)
    torch.testing.assert_close((end - near) / 0.5, velocity, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_along_a_straight_path_arrives(name):
    """The velocity of one pair is constant: any number of steps ends on the data."""
    noise, data = gaussian(3, 4, 2), gaussian(3, 4, 2, seed=1)
    _, velocity = interpolate(noise, data, torch.full((3,), 0.3))
    for steps in (1, 7, 100):
        torch.testing.assert_close(SAMPLERS[name](lambda x, t: velocity, noise, steps), data, rtol=0, atol=1e-5)


def test_the_loss_is_a_mean_of_squares_in_float32_and_gradients_flow():
    predicted = torch.tensor([[[0.0, 2.0]]], requires_grad=True)
    velocity = torch.tensor([[[1.0, 0.0]]])
    loss = flow_matching_loss(predicted, velocity)
    assert loss.item() == (1 + 4) / 2
    loss.backward()
    torch.testing.assert_close(predicted.grad, torch.tensor([[[-1.0, 2.0]]]))  # 2 (p - v) / 2

    data = gaussian(8, 4, 2, seed=1).requires_grad_()
    x, target = interpolate(gaussian(8, 4, 2), data, torch.full((8,), 0.5))
    flow_matching_loss(x, target).backward()
    assert data.grad.abs().min() > 0

    # bfloat16 has no number between 300 and 302: the difference would be 0 there.
    many = torch.full((1, 32, 32), 300.0, dtype=torch.bfloat16)
    loss = flow_matching_loss(many, torch.full((1, 32, 32), 300.0625))
    assert loss.dtype == torch.float32 and loss.item() == 0.0625**2


def test_a_path_of_bfloat16_numbers_is_computed_in_float32():
    noise, data = gaussian(2, 4, 2).bfloat16(), gaussian(2, 4, 2, seed=1).bfloat16()
    x, velocity = interpolate(noise, data, torch.full((2,), 0.3, dtype=torch.float64))
    assert x.dtype == velocity.dtype == torch.float32
    torch.testing.assert_close(x, 0.7 * noise.float() + 0.3 * data.float())


def test_several_draws_share_a_chunk():
    noise, data, time = gaussian(3, 5, 4, 2), gaussian(3, 1, 4, 2, seed=1), torch.rand(3, 5)
    for found, expected in zip(
        interpolate(noise, data, time), interpolate(noise, data.expand(3, 5, 4, 2), time), strict=True
    ):
        assert torch.equal(found, expected)


# Sampling.


def rotation(x, t, turn=math.pi / 2):
    """A field whose exact solution is a quarter turn from t = 0 to 1, faster towards the end."""
    return 2 * t[:, None, None] * turn * torch.stack([-x[..., 1], x[..., 0]], dim=-1)


def rotation_error(sample, steps):
    start = torch.tensor([[[1.0, 0.0]]])
    return (sample(rotation, start, steps) - torch.tensor([[[0.0, 1.0]]])).norm().item()


def test_heun_beats_euler_on_a_curved_field():
    for steps in (8, 16, 32):
        assert rotation_error(heun_sample, steps) < 0.1 * rotation_error(euler_sample, steps)
        assert rotation_error(heun_sample, steps) < 0.2 * rotation_error(euler_sample, 2 * steps)  # as many evaluations
    # Orders: twice the steps halve Euler's error and quarter Heun's.
    assert rotation_error(euler_sample, 16) / rotation_error(euler_sample, 32) == pytest.approx(2, rel=0.15)
    assert rotation_error(heun_sample, 16) / rotation_error(heun_sample, 32) == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(
    "name, expected",
    [("euler", [0, 0.25, 0.5, 0.75]), ("heun", [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1])],  # the last one looks at 1
)
def test_what_the_network_is_asked(name, expected):
    asked = []

    def velocity(x, t):
        assert x.dtype == torch.bfloat16 and t.shape == (3,) and t.dtype == torch.float32
        asked.append(t[0].item())
        return torch.zeros_like(x)

    result = SAMPLERS[name](velocity, gaussian(3, 4, 2).bfloat16(), 4)
    assert result.dtype == torch.float32
    assert asked == expected


def test_many_bfloat16_steps_lose_no_increments():
    """From 64, bfloat16's next number is 64.5: a hundred steps of 0.01 would stay where they are."""
    noise = torch.full((1, 1, 2), 64.0, dtype=torch.bfloat16)
    result = euler_sample(lambda x, t: torch.ones_like(x), noise, 100)
    torch.testing.assert_close(result, torch.full((1, 1, 2), 65.0), rtol=0, atol=1e-3)
    naive = noise
    for _ in range(100):
        naive = naive + torch.ones_like(naive) / 100
    assert naive.max().item() == 64.0


# A distribution.


class ToyVelocity(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(9, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, x, t):
        t = t[:, None, None].expand(*x.shape[:-1], 1).to(x.dtype)
        waves = [f(2 * math.pi * k * t) for k in (1, 2, 4) for f in (torch.sin, torch.cos)]
        return self.net(torch.cat([x, t, *waves], dim=-1))


@pytest.fixture(scope="module")
def toy():
    """(a network as it starts, the same one trained to reach eight Gaussians on a circle)."""
    rng = np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = ToyVelocity()
    model = copy.deepcopy(untrained)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    steps = 1200
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / steps)
        centers = MODES[rng.integers(8, size=512)][:, None]
        data = centers + SPREAD * torch.from_numpy(draw_noise(rng, (512, 1, 2)))
        noise, time = torch.from_numpy(draw_noise(rng, (512, 1, 2))), torch.from_numpy(draw_times(rng, (512,)))
        x, velocity = interpolate(noise, data, time)
        optimizer.zero_grad()
        flow_matching_loss(model(x, time), velocity).backward()
        optimizer.step()
    return untrained.eval(), model.eval()


def hits(samples):
    """(share of samples within 4 spreads of a mode, smallest share of all samples that one mode got)."""
    distance, mode = torch.cdist(samples[:, 0], MODES).min(dim=1)
    near = distance < 4 * SPREAD
    shares = torch.bincount(mode[near], minlength=8) / len(samples)
    return near.float().mean().item(), shares.min().item()


@torch.no_grad()
def test_samples_reach_all_eight_modes(toy):
    untrained, trained = toy
    noise = gaussian(2000, 1, 2, seed=5)
    for sample, steps in ((euler_sample, 50), (heun_sample, 25)):
        near, rarest = hits(sample(trained, noise, steps))
        assert near > 0.88 and rarest > 0.08  # 1/8 would be perfect
        assert hits(sample(untrained, noise, steps))[0] < 0.3
        assert hits(sample(lambda x, t: -trained(x, t), noise, steps))[0] < 0.3
        assert hits(sample(lambda x, t: trained(x, 1 - t), noise, steps))[0] < 0.8  # time the wrong way round


@torch.no_grad()
def test_bfloat16_samples_stay_close_to_float32(toy):
    """Two decimal digits in the network, none lost in the sum: the median sample moves by a tenth of a mode's width,
    and as many samples as before reach a mode."""
    model, noise = toy[1], gaussian(2000, 1, 2, seed=5)
    noise = noise.bfloat16().float()  # the same start for both
    exact = euler_sample(model, noise, 100)
    rounded = euler_sample(copy.deepcopy(model).bfloat16(), noise.bfloat16(), 100)
    moved = (rounded - exact).norm(dim=-1)
    assert 0 < moved.median().item() < 0.1 * SPREAD * 2
    assert moved.quantile(0.99).item() < 2 * SPREAD
    assert hits(rounded)[0] == pytest.approx(hits(exact)[0], abs=0.01)


@torch.no_grad()
def test_the_same_noise_gives_the_same_samples_whatever_is_drawn_elsewhere(toy):
    noise = gaussian(16, 1, 2)
    first = euler_sample(toy[1], noise, 10)
    torch.rand(3)
    np.random.default_rng().random(3)
    assert torch.equal(euler_sample(toy[1], noise, 10), first)
    assert not torch.equal(euler_sample(toy[1], gaussian(16, 1, 2, seed=1), 10), first)


# Noise and times.


def test_noise_and_times_come_from_the_generator():
    noise = draw_noise(np.random.default_rng(3), (200, 16, 7))
    assert noise.dtype == np.float32 and noise.shape == (200, 16, 7)
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    np.testing.assert_array_equal(noise, draw_noise(np.random.default_rng(3), (200, 16, 7)))
    for distribution in ("uniform", "beta"):
        one, two = np.random.default_rng(3), np.random.default_rng(3)
        times = draw_times(one, (5,), distribution)
        assert times.dtype == np.float32
        np.testing.assert_array_equal(times, draw_times(two, (5,), distribution))
        assert one.random() == two.random()
        assert float(draw_times(one, (), distribution)) < 1


def test_uniform_and_beta_times():
    uniform = draw_times(np.random.default_rng(0), (100_000,))
    assert uniform.min() >= 0 and uniform.max() <= 1 and uniform.mean() == pytest.approx(0.5, abs=0.01)
    beta = draw_times(np.random.default_rng(0), (100_000,), "beta")
    assert beta.min() >= 0 and beta.max() <= 0.999
    # Beta(1.5, 1) has mean 0.6 and distribution function x^1.5; t = 0.999 (1 - b), so that noise (t = 0) is preferred.
    assert beta.mean() == pytest.approx(0.999 * 0.4, abs=0.01)
    assert (beta < 0.5).mean() == pytest.approx(1 - (1 - 0.5 / 0.999) ** 1.5, abs=0.01)
    counts, _ = np.histogram(beta, bins=10, range=(0, 1))
    assert (np.diff(counts) < 0).all()


# Normalisation.


def test_mean_and_std_by_hand_and_back():
    normalizer = Normalizer.from_mean_std([1.0, -2.0, 0.0], [2.0, 0.5, 1.0])
    x = torch.tensor([[3.0, -2.5, 7.0]], dtype=torch.float64)
    torch.testing.assert_close(normalizer.normalize(x), torch.tensor([[1.0, -1.0, 7.0]]))
    torch.testing.assert_close(normalizer.denormalize(normalizer.normalize(x)), x.float())
    assert normalizer.dim == 3


def test_min_and_max_become_minus_one_and_one():
    normalizer = Normalizer.from_min_max([-1.0, 0.0], [1.0, 10.0])
    x = torch.tensor([[[-1.0, 0.0], [1.0, 10.0], [0.5, 20.0]]])
    torch.testing.assert_close(normalizer.normalize(x), torch.tensor([[[-1.0, -1.0], [1.0, 1.0], [0.5, 3.0]]]))
    torch.testing.assert_close(normalizer.denormalize(normalizer.normalize(x)), x)


@pytest.mark.parametrize(
    "normalizer",
    [
        Normalizer.from_mean_std([0.1, 0.0, 5.0], [0.0, 1.0, 1e-9]),
        Normalizer.from_min_max([0.1, -1.0, 5.0], [0.1, 1.0, 5.0 + 1e-9]),
    ],
    ids=["mean_std", "min_max"],
)
def test_a_dimension_that_never_changes_comes_back_exactly(normalizer):
    """Also one whose spread is only rounding: dividing by it would blow rounding up to signal."""
    x = torch.tensor([[0.1, 0.3, 5.0], [0.2, 0.3, 6.0]])
    out = normalizer.normalize(x)
    torch.testing.assert_close(out[:, [0, 2]], torch.zeros(2, 2), rtol=0, atol=0)
    back = normalizer.denormalize(torch.full((1, 3), 0.7))
    assert back[0, 0] == torch.tensor(0.1) and back[0, 2] == 5.0


def test_a_small_spread_around_zero_is_no_constant():
    normalizer = Normalizer.from_mean_std([0.0], [1e-9])
    torch.testing.assert_close(normalizer.normalize(torch.tensor([1e-9])), torch.tensor([1.0]))


def test_a_cast_module_normalises_in_float32_and_saves_nothing():
    module = nn.ModuleDict({"scale": Normalizer.from_mean_std([0.123456], [0.0314159]), "layer": nn.Linear(1, 1)})
    exact = module["scale"].denormalize(torch.tensor([0.5]))
    module.to(torch.bfloat16)
    assert module["layer"].weight.dtype == torch.bfloat16
    out = module["scale"].denormalize(torch.tensor([0.5], dtype=torch.bfloat16))
    assert out.dtype == torch.float32 and torch.equal(out, exact)
    assert list(module.state_dict()) == ["layer.weight", "layer.bias"] and not list(module["scale"].parameters())
    module.to("meta")
    assert module["scale"].denormalize(torch.zeros(1, device="meta")).device.type == "meta"


# What is refused.


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: interpolate(gaussian(2, 4, 2), gaussian(2, 4, 3), torch.zeros(2)), "one shape"),
        (lambda: interpolate(gaussian(2), gaussian(2), torch.zeros(2)), "one shape"),
        (lambda: interpolate(gaussian(2, 4, 2), gaussian(2, 1, 2), torch.zeros(2)), "one shape"),
        (lambda: interpolate(gaussian(1, 4, 2), gaussian(2, 4, 2), torch.zeros(2)), "one shape"),
        (lambda: interpolate(gaussian(2, 4, 2), gaussian(4, 2), torch.zeros(2)), "one shape"),
        (lambda: interpolate(gaussian(2, 4, 2), gaussian(2, 4, 2), torch.zeros(2, 1)), "time"),
        (lambda: interpolate(gaussian(2, 4, 2), gaussian(2, 4, 2), torch.zeros(2), sigma_min=1.0), "sigma_min"),
        (lambda: flow_matching_loss(gaussian(2, 4, 2), gaussian(4, 2)), "one shape"),
        (lambda: draw_times(np.random.default_rng(), (2,), "normal"), "normal"),
        (lambda: euler_sample(lambda x, t: x, gaussian(4, 2), 10), "noise"),
        (lambda: heun_sample(lambda x, t: x, torch.zeros(1, 4, 2, dtype=torch.int64), 10), "noise"),
        (lambda: euler_sample(lambda x, t: x, gaussian(2, 4, 2), 0), "steps"),
        (lambda: heun_sample(lambda x, t: x, gaussian(2, 4, 2), 1.5), "steps"),
        (lambda: euler_sample(lambda x, t: x[..., :1], gaussian(2, 4, 2), 2), "velocity"),
        (lambda: Normalizer([0.0], [1.0, 1.0]), "equally many"),
        (lambda: Normalizer([], []), "equally many"),
        (lambda: Normalizer([0.0, 0.0], [1.0, -1.0]), "dimension 1"),
        (lambda: Normalizer([float("nan")], [1.0]), "dimension 0"),
        (lambda: Normalizer.from_min_max([1.0], [0.0]), "above"),
        (lambda: Normalizer.from_mean_std([0.0], [1.0]).normalize(gaussian(3, 2)), "1 dimensions"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
