"""Optimizer, learning rate, precision."""

import contextlib
import math

import torch


def lr_at(step, total_steps, base_lr, schedule="none", warmup=0.0, lr_end=0.0):
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


def base_lr(train, world_size):
    """TRAIN.lr, multiplied by the number of ranks where TRAIN.scale_lr asks for it."""
    return train.lr * (world_size if train.scale_lr else 1)


def build_optimizer(train, parameters):
    """The optimizer of TRAIN over the parameters that want a gradient. The fused form, one kernel for all of them."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[train.optimizer]
    wanted = [p for p in parameters if p.requires_grad]
    return kind(wanted, lr=train.lr, betas=tuple(train.betas), weight_decay=train.weight_decay, fused=True)


def resolve_amp(mode, device):
    """AMP.mode with "auto" decided: bf16 where the device multiplies it faster than float32, else off.

    That is a GPU since Ampere, or a CPU with AVX512-BF16 or AMX; elsewhere bf16 is emulated and several times slower.
    """
    if mode != "auto":
        return mode
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "off"
    cpu = torch.cpu.get_capabilities()
    return "bf16" if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else "off"


class Precision:
    """Mixed precision: the autocast context of a forward pass, and for fp16 the scaling of its gradients.

    Args:
        mode: "off", "bf16", "fp16" or "auto", see `resolve_amp`.
        device: torch.device of the rank.
    """

    def __init__(self, mode, device):
        mode = resolve_amp(mode, device)
        self.dtype = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[mode]
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=mode == "fp16")

    def autocast(self):
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss):
        self.scaler.scale(loss).backward()

    def step(self, optimizer, parameters, clip_grad):
        """Unscale, clip (0: only measure) and step; returns the gradient norm before clipping, a tensor."""
        self.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip_grad if clip_grad > 0 else math.inf)
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm
