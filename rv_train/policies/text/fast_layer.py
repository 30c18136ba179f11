"""The parts of a decoder layer as the hand-written pass calls them."""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from rv_train.backbones.base import LayerParts


class FastLayer:
    """What the step calls of a decoder layer. Looked up anew for each answer: weights may have changed since the last.

    Module calls and attributes cost as much as the products of a tiny model, so plain linear layers are called without.
    """

    def __init__(self, parts: "LayerParts", heads: int, join: bool) -> None:
        """parts: a LayerParts; heads: of queries."""
        self.norm1, self.norm2, self.act = parts.norm1, parts.norm2, parts.act
        self.qkv = _joined([parts.q, parts.k, parts.v], join)
        self.head_norm = _head_norm(parts, heads) if parts.q_norm is not None else None
        self.o = _plain(parts.o)
        self.gate, self.up, self.down = map(_plain, (parts.gate, parts.up, parts.down))


def _head_norm(parts, heads):
    """x (tokens, heads of queries and keys, head_dim) → the same, each head normed by its norm."""
    return lambda x: torch.cat([rms_norm(x[:, :heads], parts.q_norm), rms_norm(x[:, heads:], parts.k_norm)], dim=1)


def _plain(module):
    """A linear layer as a function, or the module itself where it is anything else: LoRA, quantized weights."""
    return partial(F.linear, weight=module.weight, bias=module.bias) if type(module) is nn.Linear else module


def _joined(modules, join):
    """x → outputs of the modules, side by side: with `join` one product where all are plain linear layers.

    That copies their weights, so a recorded graph must not: it would never see others.
    """
    biases = [module.bias for module in modules if getattr(module, "bias", None) is not None]
    if join and all(type(module) is nn.Linear for module in modules) and len(biases) in (0, len(modules)):
        weight = torch.cat([module.weight for module in modules])
        return partial(F.linear, weight=weight, bias=torch.cat(biases) if biases else None)
    return lambda x: torch.cat([module(x) for module in modules], dim=-1)


def rms_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding, RoFormer eq. 34, in the half-split layout the weights were trained with."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
