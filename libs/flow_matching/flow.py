"""Optimal-transport conditional flow matching: straight paths from noise to data, and the regression of their velocity.

Lipman et al., Flow Matching for Generative Modeling, 2023, arXiv:2210.02747, equations 22 and 23: time runs from 0
(noise x_0 ~ N(0, I)) to 1 (data x_1), x_t = (1 - (1 - sigma_min) t) x_0 + t x_1, whose velocity dx_t/dt is
x_1 - (1 - sigma_min) x_0 at every t. A network that regresses this velocity from x_t and t moves noise to data (see
`samplers`). At sigma_min 0 the path ends exactly on the data; above, in a Gaussian of that width around it.

Nothing is drawn from a global generator: noise and times come from the caller, so that a resumed run repeats them.
"""

from typing import TYPE_CHECKING

from libs.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import torch


TIME_DISTRIBUTIONS = ("uniform", "beta")

# Black et al., pi0, 2024, arXiv:2410.24164, appendix B: p(t) = Beta((s - t) / s; 1.5, 1), s = 0.999, where t = 0 is
# noise, as here. That density falls with t, so noisy actions are seen most often, and t > s never.
BETA_ALPHA = 1.5
BETA_CUTOFF = 0.999


def interpolate(
    noise: "torch.Tensor", data: "torch.Tensor", time: "torch.Tensor", sigma_min: float = 0.0
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Where the path from `noise` to `data` is at `time`, and its velocity.

    noise: (..., H, A). data: the same, or 1 instead of a leading size, where several draws of noise share a chunk.
    time: (...,), of the noise; 0 is noise, 1 is data.
    Returns (x_t, velocity), both of the noise's shape, float32 whatever comes in: a target rounded to bfloat16 would be
    a bias that no network can learn away. Cast x_t for a network of another dtype.
    BadInput: shapes that do not fit, or sigma_min outside [0, 1).
    """
    fits = data.ndim == noise.ndim >= 2 and data.shape[-2:] == noise.shape[-2:]
    if not fits or any(size not in (1, draws) for size, draws in zip(data.shape, noise.shape, strict=True)):
        raise BadInput(
            f"noise and data must have one shape (..., H, A), got {tuple(noise.shape)} and {tuple(data.shape)}"
        )
    if time.shape != noise.shape[:-2]:
        raise BadInput(
            f"time must have shape {tuple(noise.shape[:-2])}, one for each (H, A) chunk, got {tuple(time.shape)}"
        )
    if not 0 <= sigma_min < 1:
        raise BadInput(f"sigma_min must be at least 0 and below 1, got {sigma_min}")
    noise, data, time = noise.float(), data.float(), time.float()[..., None, None]
    keep = 1.0 - sigma_min
    return (1.0 - keep * time) * noise + time * data, data - keep * noise


def flow_matching_loss(predicted: "torch.Tensor", velocity: "torch.Tensor") -> "torch.Tensor":
    """Mean squared error of a predicted velocity: scalar float32, computed in float32 whatever the dtypes.

    predicted, velocity: one shape. BadInput: they differ; broadcasting would average over wrong pairs.
    """
    if predicted.shape != velocity.shape:
        raise BadInput(
            f"predicted and true velocity must have one shape, got {tuple(predicted.shape)} and {tuple(velocity.shape)}"
        )
    return (predicted.float() - velocity.float()).square().mean()


def draw_noise(rng: "np.random.Generator", shape: tuple[int, ...]) -> "np.ndarray":
    """Standard normal noise of `shape`, float32, from a numpy Generator."""
    return rng.standard_normal(shape, dtype="float32")


def draw_times(rng: "np.random.Generator", shape: tuple[int, ...], distribution: str = "uniform") -> "np.ndarray":
    """Times in [0, 1] of `shape`, float32, from a numpy Generator; every time takes one number from it.

    distribution: "uniform", or "beta": pi0's, which prefers times close to the noise (see BETA_ALPHA).
    BadInput: another distribution.
    """
    if distribution not in TIME_DISTRIBUTIONS:
        raise BadInput(f"the distribution of times is one of {', '.join(TIME_DISTRIBUTIONS)}, not {distribution!r}")
    times = rng.random(shape)
    if distribution == "beta":
        # The inverse of the distribution function of Beta(a, 1), x^a, makes uniform numbers such; s (1 - b) as above.
        times = BETA_CUTOFF * (1.0 - times ** (1.0 / BETA_ALPHA))
    return times.astype("float32")
