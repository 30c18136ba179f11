"""What the action expert costs: operations, and memory that autograd keeps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rv_train.backbones.cost import MULTIPLY_ADD, PASSES, Numbers, TrainingFlops

if TYPE_CHECKING:
    import torch

    from rv_train.policies.flow.expert import ActionExpert


class FlowFlops:
    """Operations of one forward and backward pass of a backbone and an action expert over a batch.

    A token costs 2 operations per weight of a layer it passes; attention scores, between at most a few hundred tokens,
    are left out. The projector sees M tokens per sample (1, or the prompt), which every layer of the expert looks at;
    the expert H queries; the head H actions per draw of noise. Everything times 3 for the backward pass.

    Args:
        backbone: a TrainingFlops.
        weights: {"projector", "looked_at", "queries", "head": weights that a token of this kind meets}.
        horizon: H.
        condition: "last" or "all" tokens of the prompt.
    """

    def __init__(self, backbone: TrainingFlops, weights: Mapping[str, float], horizon: int, condition: str) -> None:
        self.backbone, self.weights, self.horizon, self.condition = backbone, weights, horizon, condition

    @classmethod
    def of(cls, backbone: TrainingFlops, expert: "ActionExpert", condition: str) -> "FlowFlops":
        """expert: a `rv_train.policies.flow.expert.ActionExpert`."""
        width = expert.head.velocity.in_features
        layers, head = expert.expert.layers, expert.head
        looked_at = len(layers) * 2 * width * width  # keys and values of the cross-attention
        weights = {
            "projector": _matrices(expert.projector),
            "looked_at": looked_at,
            "queries": _matrices(layers) - looked_at,
            "head": _matrices(head.actions) + _matrices(head.layers) + _matrices(head.velocity),
        }
        return cls(backbone, weights, len(expert.expert.queries), condition)

    def __call__(self, batch: "Mapping[str, torch.Tensor]") -> float:
        """Operations of a training batch (see `rv_train.policies.flow.encoder`), read from its tensors on the CPU."""
        return self.count(batch["lengths"].tolist(), batch["time"].numel())

    def count(self, lengths: Sequence[int], draws: int) -> float:
        """The same from numbers.

        Args:
            lengths: tokens of each sample's prompt.
            draws: of noise, of all samples together.
        """
        seen = sum(lengths) if self.condition == "all" else len(lengths)
        weights = self.weights
        tokens = {
            "projector": seen,
            "looked_at": seen,
            "queries": self.horizon * len(lengths),
            "head": self.horizon * draws,
        }
        expert = sum(weights[name] * tokens[name] for name in weights)
        return self.backbone.count(lengths, 0) + float(PASSES * MULTIPLY_ADD * expert)


def _matrices(module):
    """Weights that enter matrix products."""
    return sum(p.numel() for p in module.parameters() if p.dim() > 1)


def expert_activations(expert: "ActionExpert", seen: int, draws: int, numbers: Numbers) -> int:
    """Bytes per sample that the action expert keeps for the backward pass.

    Per token and layer, of width D, with c bytes in products: two or three norms (8 D), queries, keys, values, result
    and what goes into the products (9 c D; with cross-attention 7 c D more), and twice the MLP's width.

    Args:
        expert: an ActionExpert.
        seen: tokens of the condition.
        draws: of noise.
        numbers: bytes of a number, a `rv_train.backbones.cost.Numbers`.
    """
    projection: Any = expert.projector
    norm, first, _, last = projection
    dim, horizon, compute = last.out_features, len(expert.expert.queries), numbers.compute
    layers, heads = len(expert.expert.layers), len(expert.head.layers)
    mlp = 2 * compute * expert.expert.layers[0].linear1.out_features
    looked_at = (seen + 1) * layers * 2 * compute * dim
    condition = (numbers.width + 4) * norm.normalized_shape[0]
    projector = seen * (condition + 2 * compute * first.out_features + compute * dim)
    queries = horizon * layers * (12 * dim + 16 * compute * dim + mlp)
    head = horizon * draws * heads * (8 * dim + 9 * compute * dim + mlp)
    return projector + looked_at + queries + head
