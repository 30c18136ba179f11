"""Numbers of a robot in its units <-> numbers of order one for a network."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from libs.errors import BadInput

# A spread smaller than this share of the value is rounding, not motion: float32 cannot tell the numbers apart.
RESOLUTION = 2.0**-22


class Normalizer(nn.Module):
    """x -> (x - offset) / scale, dimension by dimension, always in float32. No parameters.

    A dimension that never changes (scale 0, or below what float32 resolves beside the offset) normalises to 0 and
    comes back as exactly its one value, whatever the network says there.

    The numbers are buffers, so that they move with a module. They stay float32 where a module is cast to bfloat16
    (three digits of a joint angle would be left), and out of its state dict: whoever builds the module has them.

    offset, scale: D numbers each, see `from_mean_std` and `from_min_max`. BadInput: not equally many, none, not
    finite, or a negative scale.
    """

    def __init__(self, offset: Iterable[float], scale: Iterable[float]) -> None:
        super().__init__()
        offset, scale = [float(x) for x in offset], [float(x) for x in scale]
        if len(offset) != len(scale) or not offset:
            raise BadInput(f"offset and scale must be equally many numbers, got {len(offset)} and {len(scale)}")
        for dim, (center, spread) in enumerate(zip(offset, scale, strict=True)):
            if not (math.isfinite(center) and math.isfinite(spread)) or spread < 0:
                raise BadInput(f"dimension {dim} cannot be normalised with offset {center} and scale {spread}")
        scale = [s if s > RESOLUTION * abs(o) else 0.0 for o, s in zip(offset, scale, strict=True)]
        self._values = {"offset": offset, "scale": scale, "inverse": [1.0 / s if s else 0.0 for s in scale]}
        for name, values in self._values.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    @classmethod
    def from_mean_std(cls, mean: Iterable[float], std: Iterable[float]) -> "Normalizer":
        """To mean 0 and standard deviation 1."""
        return cls(mean, std)

    @classmethod
    def from_min_max(cls, low: Iterable[float], high: Iterable[float]) -> "Normalizer":
        """[low, high] to [-1, 1]; values outside are not clipped. BadInput: a low above its high."""
        pairs = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
        for dim, (a, b) in enumerate(pairs):
            if a > b:
                raise BadInput(f"dimension {dim}: low {a} is above high {b}")
        return cls([(a + b) / 2 for a, b in pairs], [(b - a) / 2 for a, b in pairs])

    @property
    def dim(self) -> int:
        return len(self._values["offset"])

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) in units -> (..., D) float32."""
        return (self._checked(x) - self.offset) * self.inverse

    def denormalize(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D), any floating dtype -> (..., D) float32 in units."""
        return self._checked(x) * self.scale + self.offset

    def _checked(self, x):
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise BadInput(f"{self.dim} dimensions are expected on the last axis, got shape {tuple(x.shape)}")
        return x.float()

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for name, values in self._values.items():
            setattr(self, name, torch.tensor(values, dtype=torch.float32, device=getattr(self, name).device))
        return self
