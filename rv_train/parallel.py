"""How the ranks of a run share its work: TRAIN.PARALLEL.

    ddp     Every rank holds weights, gradients and optimizer states whole; gradients are averaged over the ranks.
    zero1   As ddp, but a rank keeps the optimizer states and the moving average of its own share of the parameters
            only, updates those and sends them to the others (ZeRO stage 1, Rajbhandari et al. 2020, arXiv:1910.02054).
            Every number is the one of ddp, to the bit, because a parameter's update needs nothing of the others.
    fsdp    A rank holds its rows of every weight, of its gradient and of its states. A layer is put together when it
            is computed, forward and backward, and taken apart again (ZeRO stage 3; PyTorch's `fully_shard`).

All three look alike from the loop: `model` is called on a batch, `pieces` are what this rank updates.

PyTorch has a ZeroRedundancyOptimizer. It is not used: it keeps the mark of a bad step (`found_inf`) from the optimizer
inside, so that the step would be made, its states leave it as a pickle on one rank, and it would not share out the
moving average. What is left of it is a partition and a broadcast.
"""

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from rv_train.backbones.loading import place
from rv_train.backbones.lora import is_frozen
from rv_train.buckets import settle_buckets
from rv_train.distributed import Rank

if TYPE_CHECKING:
    from rv_train.optim import Precision
    from rv_train.policies.base import Policy


@dataclass(frozen=True)
class Piece:
    """What a rank updates of a trained parameter: rows start, start + 1, ... of it, all of them but with fsdp.

    name: of the parameter. parameter: as the optimizer knows it. value: the rows, sharing their memory with it.
    """

    name: str
    parameter: nn.Parameter
    value: torch.Tensor
    start: int = 0


class Ddp:
    """model: call it on a batch, then backward. bare: the policy itself, for who measures. pieces: list of Piece.

    shared: whether ranks hold different states, and so write them each. places: whether it brings the policy to the
    rank's device itself. keeps_gradients: whether they stay where they are between steps, as zeros. All methods are
    called by all ranks together.

    Args:
        bare: the policy on the rank's device, or where `places` as `build_policy` leaves it `mapped`.
        rank: a distributed.Rank.
        precision: a Precision.
        accumulates: whether a step has several passes, whose gradients add up in DDP's buckets.
    """

    shared = places = False

    def __init__(self, bare: "Policy", rank: Rank, precision: "Precision", accumulates: bool = False) -> None:
        self.bare, self.rank, self.precision, self.keeps_gradients = bare, rank, precision, accumulates
        self.outline = _outline(bare)
        self.model = self._wrap()
        self.trained = [(name, p) for name, p in bare.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in self.trained]
        self.pieces = self._pieces()

    def _wrap(self):
        buffers = [name for name, _ in self.bare.named_buffers()]  # none changes: rank 0 need not send its own
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.bare, buffers)
        return DistributedDataParallel(
            self.bare,
            device_ids=[self.rank.device] if self.rank.device.type == "cuda" else None,
            gradient_as_bucket_view=True,  # gradients live in the buckets that are reduced: one copy less
        )

    def _pieces(self):
        return [Piece(name, p, p.detach()) for name, p in self.trained]

    def settle(self, any_batch: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Call it before the first step, and before generators are put where they were: see `settle_buckets`.

        any_batch: gives one of the size of a pass; it is asked only where one is needed.
        """
        if self.rank.world_size > 2 or self.keeps_gradients:
            batch = {name: tensor.to(self.rank.device) for name, tensor in any_batch().items()}
            settle_buckets(self.model, batch, self.precision, self.keeps_gradients)

    def accumulating(self) -> AbstractContextManager[None]:
        """Context of the passes of a step before its last: gradients meet once per step."""
        return self.model.no_sync()

    def updating(self) -> AbstractContextManager[None]:
        """Context of the optimizer's step."""
        return contextlib.nullcontext()

    def spread(self) -> None:
        """Somebody wrote into `pieces`: let all ranks compute with that."""

    @contextlib.contextmanager
    def whole(self) -> "Iterator[Policy]":
        """Gives the policy with its weights in one piece: to be asked, not trained."""
        yield self.bare

    def snapshot(self) -> "Policy | None":
        """The policy as it is now, on the CPU of rank 0, for `Policy.save` while training goes on; None elsewhere.

        Frozen weights stay behind, as `save` does not write them.
        """
        kept = [(n, p) for n, p in self.bare.named_parameters() if p.requires_grad or not is_frozen(self.bare.backbone)]
        values = {}
        for name, parameter in kept:
            value = whole_tensor(parameter.detach())
            if self.rank.is_main:
                values[name] = value.to("cpu", copy=True)
        return _filled(self.outline, values) if self.rank.is_main else None


class Zero1(Ddp):
    """Optimizer states and moving average in shares; see the module's docstring."""

    shared = True

    def _pieces(self):
        self.owners = partition([p.numel() for p in self.parameters], self.rank.world_size)
        mine = [n for n, owner in enumerate(self.owners) if owner == self.rank.rank]
        return [Piece(*self.trained[n], self.parameters[n].detach()) for n in mine]

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """The optimizer sees the gradients of this rank's share only, and so makes no states for others."""
        others = [p for p, owner in zip(self.parameters, self.owners, strict=True) if owner != self.rank.rank]
        kept = [p.grad for p in others]
        for parameter in others:
            parameter.grad = None
        yield
        for parameter, gradient in zip(others, kept, strict=True):
            parameter.grad = gradient
        self.spread()

    @torch.no_grad()
    def spread(self) -> None:
        sent = [
            dist.broadcast(parameter.detach(), src=owner, async_op=True)
            for parameter, owner in zip(self.parameters, self.owners, strict=True)
        ]
        for work in sent:
            work.wait()


class Fsdp(Ddp):
    """Weights, gradients and states in shares; see the module's docstring.

    A layer's weights are collected in the dtype of autocast, half the traffic, and what they multiply stays what
    autocast makes of it; those outside of the layers (embeddings, head, the last norm) in their own, so that the sum
    that runs through the layers keeps its dtype. Gradients are averaged in float32.

    Passes before the last of a step are averaged, too: gradients that waited for it would have to wait whole.
    """

    shared = places = True

    def __init__(self, bare: "Policy", rank: Rank, precision: "Precision", accumulates: bool = False) -> None:
        super().__init__(bare, rank, precision)  # gradients are averaged in every pass

    def _wrap(self):
        backbone, device = self.bare.backbone, self.rank.device
        mesh = init_device_mesh(device.type, (self.rank.world_size,))
        dtype = getattr(backbone, "dtype_in_use", next(backbone.parameters()).dtype)
        narrow = self.precision.dtype if dtype == torch.float32 else None
        whole = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        layers = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
        # reshard also for the root: after a pass without a backward its weights would stay, and the next step use them.
        shard = partial(fully_shard, mesh=mesh, reshard_after_forward=True)
        for layer in layers_of(self.bare):  # so the device never holds more than one of them whole
            place(layer, backbone, device)
            shard(layer, mp_policy=layers)
        place(cast(nn.Module, self.bare), backbone, device)
        return shard(self.bare, mp_policy=whole)

    def _pieces(self):
        pieces = []
        for name, parameter in self.trained:
            value = local_tensor(parameter.detach())
            start = self.rank.rank * -(-parameter.shape[0] // self.rank.world_size)  # rows are dealt out as by chunk
            pieces.append(Piece(name, parameter, value, min(start, parameter.shape[0])))
        return pieces

    def settle(self, any_batch: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Gradients have their places from the start."""

    def accumulating(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def whole(self) -> "Iterator[Policy]":
        values = {name: whole_tensor(p.detach()) for name, p in self.bare.named_parameters()}
        yield _filled(self.outline, values).to(self.rank.device)


PARALLEL = {"ddp": Ddp, "zero1": Zero1, "fsdp": Fsdp}


def layers_of(policy: "Policy") -> list[nn.Module]:
    """The layers of both towers, each a unit of `fsdp`."""
    family = policy.family
    pattern = re.compile(rf"model\.({family.text_layers}|{family.vision_layers})\.\d+")
    return [module for name, module in policy.backbone.named_modules() if pattern.fullmatch(name)]


def partition(sizes: Sequence[int], number: int) -> list[int]:
    """Shares of nearly equal sums: the largest first, each to who has least. Returns the owner of each size."""
    owners, loads = [0] * len(sizes), [0] * number
    for index in sorted(range(len(sizes)), key=lambda n: (-sizes[n], n)):
        owners[index] = min(range(number), key=lambda n: (loads[n], n))
        loads[owners[index]] += sizes[index]
    return owners


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that ranks hold in shares, put together; others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's share of a tensor; others as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _outline(policy):
    """A copy of a policy whose parameters have a shape and no bytes, before anything is wrapped around its modules."""
    empty = {
        id(p): nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), requires_grad=False)
        for p in policy.parameters()
    }
    shared = {id(thing): thing for thing in (policy.prompt, policy.family)}
    return copy.deepcopy(policy, empty | shared)


def _filled(outline, values):
    """A copy of an outline with these values, {name: tensor}; what is not among them stays without bytes."""
    named = outline.named_parameters()
    filled = {id(p): nn.Parameter(values[n], requires_grad=False) if n in values else p for n, p in named}
    shared = {id(thing): thing for thing in (outline.prompt, outline.family)}
    return copy.deepcopy(outline, filled | shared)
