"""DDP's buckets of gradients, as they are from the second step on, before the first."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.nn.parallel import DistributedDataParallel

    from rv_train.optim import Precision


def settle_buckets(
    model: "DistributedDataParallel", batch: Mapping[str, torch.Tensor], precision: "Precision", keep: bool
) -> None:
    """Two passes over a batch, of which nothing stays but the order of the buckets, and gradients that live in them.

    DDP begins with buckets in the order of the parameters, and before its second pass makes new ones in the order in
    which the first pass's gradients came. A run that is continued begins so again, and with three ranks and more the
    last bits of a sum depend on the place of a number in its bucket: it would differ from a run that went on. And
    passes of one step that are not reduced yet (TRAIN.grad_accum) add up outside of the buckets, a second copy of all
    gradients, unless these are views of the buckets already: only `zero_grad(set_to_none=False)` keeps them that.

    Args:
        model: the DistributedDataParallel model.
        batch: on its device, the same number of samples on every rank.
        precision: a Precision.
        keep: gradients stay in their buckets, as zeros, and so they must behind every step; else there are none.
            (One that lies there is divided by the number of ranks, another multiplied by its inverse.)
    """
    devices = [batch["input_ids"].device] if batch["input_ids"].is_cuda else []
    with torch.random.fork_rng(devices):  # dropout
        for first in (True, False):
            with precision.autocast():
                loss = model(batch)["loss"]
            loss.backward()
            model.zero_grad(set_to_none=first or not keep)  # the first buckets must be let go of
