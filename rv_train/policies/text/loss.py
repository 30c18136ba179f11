"""Cross-entropy over a large vocabulary, in one tensor of its size where PyTorch's own keeps four."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Numbers of which a second copy is made at a time: 16 MiB, which a CPU's caches hold for a part; 256 MiB, because a GPU
# needs a few hundred rows to be busy everywhere.
AT_ONCE = {"cpu": 2**22, "cuda": 2**26}


class TokenLoss(torch.autograd.Function):
    """`TokenLoss.apply(logits, labels)`: mean cross-entropy, computed in float32 whatever the logits are.

    A step of the published recipe has 1,700 learned tokens of 151,936 words: 1 GB in float32, for each of the logits,
    their log-softmax p, an all but empty gradient of that, and softmax(logits) - onehot(labels), the gradient of the
    logits. Here p takes the place of the logits, some rows at a time, and exp(p) - onehot(labels) the place of p.
    The numbers are PyTorch's.

    Args:
        logits: (M, V) in any floating dtype. Taken over: those in float32 are overwritten.
        labels: (M,) int64 in 0..V - 1.

    Returns:
        scalar float32. Its backward pass runs once: a second one finds its tensors overwritten, and PyTorch says so.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        scores = logits.float()
        at_once = AT_ONCE.get(scores.device.type, AT_ONCE["cpu"])
        for rows in scores.split(max(1, at_once // scores.shape[1])):
            rows.copy_(rows.log_softmax(-1))
        ctx.save_for_backward(scores, labels)
        ctx.dtype = logits.dtype
        return -scores.gather(1, labels[:, None]).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        scores, labels = ctx.saved_tensors
        ours = scores.exp_()
        ours[torch.arange(len(labels), device=labels.device), labels] -= 1
        return ours.mul_(gradient / len(labels)).to(ctx.dtype), None
