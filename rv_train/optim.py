"""Optimizer, learning rate, precision."""

import contextlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones.lora import quiet_bitsandbytes
from rv_train.parallel import local_tensor

_BLOCK = 4096  # numbers


def lr_at(
    step: int, total_steps: int, base_lr: float, schedule: str = "none", warmup: float = 0.0, lr_end: float = 0.0
) -> float:
    """Learning rate of optimizer step `step` (0-based): a pure function, so a resumed run needs no scheduler state.

    Args:
        total_steps: steps of the whole run.
        base_lr: the rate after warm-up.
        schedule: "none" or "cosine" (SGDR, Loshchilov & Hutter 2017, eq. 5, one period without restarts).
        warmup: linear warm-up from base_lr / n over n steps; below 1 a share of total_steps, else n itself.
        lr_end: cosine ends at base_lr * lr_end.
    """
    steps = round(warmup * total_steps) if warmup < 1 else int(warmup)
    if step < steps:
        return base_lr * (step + 1) / steps
    if schedule == "none":
        return base_lr
    progress = min(1.0, (step - steps) / max(1, total_steps - steps))
    return base_lr * (lr_end + (1 - lr_end) * 0.5 * (1 + math.cos(math.pi * progress)))


def base_lr(train: CfgNode, world_size: int) -> float:
    """TRAIN.lr, multiplied by the number of ranks where TRAIN.scale_lr asks for it."""
    return train.lr * (world_size if train.scale_lr else 1)


def check_optimizer(train: CfgNode) -> None:
    """BadInput if TRAIN.optimizer needs a package that is not there: found out before anything is started."""
    if train.optimizer == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise BadInput("TRAIN.optimizer adamw_8bit needs the package bitsandbytes: pip install bitsandbytes")


def build_optimizer(train: CfgNode, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of TRAIN over `parameters`. PyTorch's own in the fused form, one kernel for all of them."""
    options = {"lr": train.lr, "betas": tuple(train.betas), "weight_decay": train.weight_decay}
    if train.optimizer == "adamw_8bit":
        quiet_bitsandbytes()
        from rv_train.adamw_8bit import AdamW8bit

        return AdamW8bit(parameters, **options)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[train.optimizer]
    return kind(parameters, **options, fused=True)


def resolve_amp(mode: str, device: torch.device) -> str:
    """AMP.mode with "auto" decided: bf16 where the device multiplies it faster than float32, else off.

    That is a GPU since Ampere, or a CPU with AVX512-BF16 or AMX; elsewhere bf16 is emulated and several times slower.
    """
    if mode != "auto":
        return mode
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "off"
    cpu = torch.cpu.get_capabilities()
    return "bf16" if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else "off"


def total_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """2-norm of all gradients together, a scalar float32 tensor. Summed in float64, where the order of the sum, and so
    how many ranks share them, leaves (nearly) no trace in float32."""
    local = [local_tensor(gradient) for gradient in gradients]
    if local[0].device.type == "cpu":  # its kernel for float64 takes 15 times as long as that for float32
        squares = torch.stack([_sum_of_squares(gradient) for gradient in local]).sum()
    else:
        squares = torch.stack(torch._foreach_norm(local, 2, dtype=torch.float64)).square().sum()
    if isinstance(gradients[0], DTensor):
        dist.all_reduce(squares)
    return squares.sqrt().float()


def _sum_of_squares(gradient):
    """In float32 within a block, where few digits are lost, in float64 beyond."""
    numbers = gradient.flatten()
    whole = numbers.numel() // _BLOCK * _BLOCK
    blocks, rest = numbers[:whole].view(-1, _BLOCK), numbers[whole:]
    norms = torch.linalg.vector_norm(blocks, dim=1, dtype=torch.float32)
    return norms.double().square().sum() + torch.linalg.vector_norm(rest, dtype=torch.float64).square()


class Precision:
    """Mixed precision: the autocast context of a forward pass, and for fp16 the scaling of its gradients.

    Args:
        mode: "off", "bf16", "fp16" or "auto", see `resolve_amp`.
        device: torch.device of the rank.
    """

    def __init__(self, mode: str, device: torch.device) -> None:
        mode = resolve_amp(mode, device)
        self.dtype = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[mode]
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=mode == "fp16")

    def autocast(self) -> AbstractContextManager:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()

    def clip(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], clip_grad: float
    ) -> torch.Tensor:
        """Unscale the gradients and clip them (0: only measure); returns their norm before clipping, a tensor."""
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = total_norm(gradients)
        if clip_grad > 0:
            share = (clip_grad / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_([local_tensor(gradient) for gradient in gradients], share)
        return norm

    def step(self, optimizer: torch.optim.Optimizer, bad: torch.Tensor | bool) -> None:
        """Step after `clip`; where `bad` (a scalar tensor, 0 or 1) is 1, leave weights and moments alone. The scale of
        fp16 adapts either way.

        PyTorch's fused optimizers read `bad` on the device, as they do for its GradScaler; for others the host waits.
        """
        if optimizer.defaults.get("fused"):
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # read by the fused step
            optimizer.step()
        elif not bad:
            optimizer.step()
        self.scaler.update()


class Ema:
    """Exponential moving average of the weights, average = decay * average + (1 - decay) * weights after every step.

    Early on the decay is (1 + n) / (10 + n) after n steps where that is smaller (the warm-up of TensorFlow's
    ExponentialMovingAverage with num_updates): random first weights do not linger in the average.

    Args:
        parameters: the weights to follow; of a sharded run this rank's.
        decay: 0..1; 0 makes an object that does nothing.
        spread: called after the weights were written to, see `rv_train.parallel.Ddp.spread`.
        device: of the weights, for a rank that may have none.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        decay: float,
        spread: Callable[[], None] = lambda: None,
        device: torch.device | None = None,
    ) -> None:
        self.parameters, self.decay, self.spread = parameters, decay, spread
        device = parameters[0].device if device is None else device
        self.count = torch.zeros((), dtype=torch.float64, device=device)  # of updates
        # float32 even for bfloat16 weights, whose eight bits would swallow a change of 1 - decay
        self.average = [p.detach().float().clone() for p in parameters] if decay else []

    @torch.no_grad()
    def update(self, bad: torch.Tensor | int = 0) -> None:
        """Follow the weights, unless `bad` (0 or 1, may be a scalar tensor on the device) says there was no step."""
        if self.decay:
            decay = ((1 + self.count) / (10 + self.count)).clamp(max=self.decay)
            share = ((1 - decay) * (1 - bad)).float()
            for average, weight in zip(self.average, self.parameters, strict=True):
                average.lerp_(weight.float(), share)
            self.count += 1 - bad

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model's weights are the average."""
        if not self.decay:
            yield
            return
        kept = [p.detach().clone() for p in self.parameters]
        self._set(self.average)
        try:
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values):
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
        self.spread()

    def updates(self) -> int | None:
        """How many there were; None without an average."""
        return int(self.count) if self.decay else None

    def state_dict(self) -> dict[str, Any]:
        """The average, and a copy of the weights themselves, which a checkpoint's model folder does not hold then."""
        if not self.decay:
            return {}
        weights = [p.detach().to("cpu", copy=True) for p in self.parameters]
        return {"count": self.updates(), "average": self.average, "weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The state of a run that went on without an average is empty: then one starts at the weights as they are."""
        if not state:
            return
        self._set(state["weights"])
        if self.decay:
            self.count.fill_(state["count"])
            for mine, saved in zip(self.average, state["average"], strict=True):
                mine.copy_(saved)
