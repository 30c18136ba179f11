"""Follow a velocity field from noise (t = 0) to data (t = 1), with fixed steps.

The state is summed in float32: a hundred bfloat16 additions of a hundredth each lose most of it, as bfloat16 keeps 8
bits of a sum. What the network is given has the dtype of the noise; what it returns may have any.
"""

from collections.abc import Callable

import torch

from libs.errors import BadInput

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # x (B, H, A), t (B,) -> (B, H, A)


def euler_sample(velocity: Velocity, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """First order: x += h v(x, t), h = 1 / steps. `steps` evaluations.

    velocity: callable (x (B, H, A) of the noise's dtype, t (B,) float32) -> (B, H, A).
    noise: (B, H, A), any floating dtype.
    Returns (B, H, A) float32. BadInput: wrong shapes, or fewer than one step.
    """
    _check(noise, steps)
    x = noise.float()
    for step in range(steps):
        x = x + _evaluate(velocity, x, step / steps, noise) / steps
    return x


def heun_sample(velocity: Velocity, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """Second order: x += h/2 (v(x, t) + v(x + h v(x, t), t + h)), h = 1 / steps. 2 * steps evaluations.

    The last step looks at t = 1 as well: a velocity regressed on straight paths is as good there as anywhere (it has
    no pole, as the score of a diffusion model does). Arguments and result as of `euler_sample`.
    """
    _check(noise, steps)
    x = noise.float()
    for step in range(steps):
        first = _evaluate(velocity, x, step / steps, noise)
        second = _evaluate(velocity, x + first / steps, (step + 1) / steps, noise)
        x = x + (first + second) / (2 * steps)
    return x


SAMPLERS = {"euler": euler_sample, "heun": heun_sample}


def _evaluate(velocity, x, time, noise):
    times = torch.full((len(noise),), time, dtype=torch.float32, device=noise.device)
    result = velocity(x.to(noise.dtype), times)
    if result.shape != noise.shape:
        raise BadInput(f"velocity must return {tuple(noise.shape)}, it returned {tuple(result.shape)}")
    return result.float()


def _check(noise, steps):
    if noise.ndim != 3 or not noise.is_floating_point():
        raise BadInput(f"noise must be floating point (B, H, A), got {noise.dtype} {tuple(noise.shape)}")
    if steps != int(steps) or steps < 1:
        raise BadInput(f"the number of steps must be a whole number of at least 1, got {steps!r}")
