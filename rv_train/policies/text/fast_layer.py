"""The parts of a decoder layer as the hand-written pass calls them."""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from rv_train.backbones.base import LayerParts


class FastLayer:
    """What the step calls of a decoder layer.

    Module calls and attributes cost as much as the products of a tiny model, so plain linear layers are called without.

    Args:
        heads: of queries.
    """

    def __init__(self, heads: int) -> None:
        self.heads = heads
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None

    def take(self, parts: "LayerParts") -> None:
        """Before each answer: the LayerParts anew, whose weights may have changed since the last. What is copied of
        them stays where it is: a recorded graph reads there."""
        self.norm1, self.norm2, self.act = parts.norm1, parts.norm2, parts.act
        self.qkv = self._joined([parts.q, parts.k, parts.v])
        self.head_norm = _head_norm(parts, self.heads) if parts.q_norm is not None else None
        self.o = _plain(parts.o)
        self.gate, self.up, self.down = map(_plain, (parts.gate, parts.up, parts.down))

    def _joined(self, modules):
        """x → outputs of the modules, side by side: one product where all are plain linear layers, of a copy of their
        weights."""
        biases = [module.bias for module in modules if getattr(module, "bias", None) is not None]
        if any(type(module) is not nn.Linear for module in modules) or len(biases) not in (0, len(modules)):
            return lambda x: torch.cat([module(x) for module in modules], dim=-1)
        self._weight = torch.cat([module.weight for module in modules], out=self._weight)
        self._bias = torch.cat(biases, out=self._bias) if biases else None
        return partial(F.linear, weight=self._weight, bias=self._bias)


def _head_norm(parts, heads):
    """x (tokens, heads of queries and keys, head_dim) → the same, each head normed by its norm."""
    return lambda x: torch.cat([rms_norm(x[:, :heads], parts.q_norm), rms_norm(x[:, heads:], parts.k_norm)], dim=1)


def _plain(module):
    """A linear layer as a function, or the module itself where it is anything else: LoRA, quantized weights."""
    return partial(F.linear, weight=module.weight, bias=module.bias) if type(module) is nn.Linear else module


def rms_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding, RoFormer eq. 34, in the half-split layout the weights were trained with."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
