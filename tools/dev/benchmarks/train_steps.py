"""The training step of this code, as `rv_train/train.py` runs it, and an upstream-style one, on the same samples."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from yacs.config import CfgNode

from rv_train.backbones.prompt import IGNORE
from rv_train.backbones.running import use_own
from rv_train.data.training_set import TrainingSet
from rv_train.distributed import agree
from rv_train.optim import Precision, base_lr, build_optimizer
from rv_train.policies import build_policy
from tools.dev.benchmarks.upstream import UpstreamEncoder

if TYPE_CHECKING:
    from rv_train.data.base import Sample
    from rv_train.policies.base import Encoder


SEED = 0


def build(
    variant: str, cfg: CfgNode, device: torch.device, encoder: "Encoder", samples: "Sequence[Sample]"
) -> "OurStep | UpstreamStep":
    """The contestant of a name in `tools.dev.benchmarks.train.VARIANTS`."""
    if variant == "upstream":
        return UpstreamStep(cfg, device, encoder, samples)
    return OurStep(cfg, device, encoder, samples, compiled=variant == "compiled")


class _Step:
    """One contestant: its own copy of the same first weights.

    Args:
        cfg: the config tree; device: torch.device; encoder: an encoder with statistics; samples: a list of Samples.
    """

    def __init__(self, cfg, device, encoder, samples):
        self.cfg, self.device, self.samples = cfg, device, samples
        self.wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.precision = Precision(cfg.AMP.mode, device)
        torch.manual_seed(SEED)
        with device:  # random weights are drawn where they are used: on a CPU those of a large model take minutes
            self.model = build_policy(cfg, encoder).to(device).train()
        self.flops = self.model.flops()
        if cfg.TRAIN.grad_checkpoint:
            self.model.recompute_activations()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.lr = base_lr(cfg.TRAIN, 1)

    def prepare(self, keys: Sequence[tuple[int, int, int]]) -> dict[str, torch.Tensor]:
        """A batch of the samples of these keys."""
        raise NotImplementedError

    def sizes(self, batch: Mapping[str, torch.Tensor]) -> tuple[list[int], int]:
        """(tokens of each sample, learned tokens of all)"""
        raise NotImplementedError

    def learn(self, batch: Mapping[str, torch.Tensor]) -> float:
        """The optimizer step; its loss."""
        raise NotImplementedError

    def run(self, keys: Sequence[tuple[int, int, int]]) -> dict:
        """One optimizer step on the samples of these keys, see `TrainingSet`.

        Returns {"loss", "host_s": seconds until the batch is ready, "s": of the whole, "cpu_s", "flops": of the
        model's mathematics, see `rv_train.flops`}.
        """
        self.wait()
        start, cpu = time.perf_counter(), time.process_time()
        batch = self.prepare(keys)
        host_s = time.perf_counter() - start
        loss = self.learn({name: values.to(self.device, non_blocking=True) for name, values in batch.items()})
        self.wait()
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        flops = self.flops.count(*self.sizes(batch))
        return {"loss": float(loss), "host_s": host_s, "s": seconds, "cpu_s": cpu_s, "flops": flops}

    def peak_gib(self):
        """Most memory of the GPU that this step has taken, None on a CPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else None


class OurStep(_Step):
    """compiled: with TRAIN.compile."""

    def __init__(
        self,
        cfg: CfgNode,
        device: torch.device,
        encoder: "Encoder",
        samples: "Sequence[Sample]",
        compiled: bool = False,
    ) -> None:
        super().__init__(cfg, device, encoder, samples)
        if compiled:
            self.model.compile()
        drawn: Any = samples  # a list of Samples is all that is asked here
        self.set = TrainingSet(drawn, encoder, SEED)
        devices = [device] if device.type == "cuda" else None
        self.wrapped = DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True)
        self.optimizer = build_optimizer(cfg.TRAIN, self.parameters)

    def prepare(self, keys: Sequence[tuple[int, int, int]]) -> dict[str, torch.Tensor]:
        return self.set.encoder.collate([self.set[key] for key in keys])

    def sizes(self, batch: Mapping[str, torch.Tensor]) -> tuple[list[int], int]:
        """(tokens of each sample, learned tokens of all)"""
        return batch["lengths"].tolist(), batch["label_ids"].numel()

    def learn(self, batch: Mapping[str, torch.Tensor]) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        with self.precision.autocast():
            loss = self.wrapped(batch)["loss"]
        self.precision.backward(loss)
        grad_norm = self.precision.clip(self.optimizer, self.parameters, self.cfg.TRAIN.clip_grad)
        told = agree(loss.detach(), grad_norm)
        self.precision.step(self.optimizer, told.bad)
        self.optimizer.zero_grad(set_to_none=True)
        return told.read()[0]


class UpstreamStep(_Step):
    """The processor inside the step, labels given to the library, DDP and AdamW as PyTorch gives them."""

    def __init__(
        self, cfg: CfgNode, device: torch.device, encoder: "Encoder", samples: "Sequence[Sample]", backend: str = "pil"
    ) -> None:
        super().__init__(cfg, device, encoder, samples)
        family: Any = self.model.family  # one of Qwen's
        use_own(self.model.backbone, family.own(), own=False)
        self.encoder: Any = encoder  # a TextEncoder
        self.upstream = UpstreamEncoder(cfg, encoder.prompt, backend)
        train = cfg.TRAIN
        options = {"lr": self.lr, "betas": tuple(train.betas), "weight_decay": train.weight_decay}
        self.optimizer = torch.optim.AdamW(self.parameters, **options)
        devices = [device] if device.type == "cuda" else None
        self.wrapped = DistributedDataParallel(self.model.backbone, device_ids=devices)

    def prepare(self, keys: Sequence[tuple[int, int, int]]) -> dict[str, torch.Tensor]:
        features = []
        for key in keys:
            sample, rng = self.samples[key[-1]], np.random.default_rng([SEED, *key])
            pictures = self.encoder.transform(sample.views, rng)
            text = self.encoder.codec.encode(sample.actions[None])[0]
            features.append(self.upstream.encode(pictures, sample.instruction, text, rng))
        return self.upstream.collate(features)

    def sizes(self, batch: Mapping[str, torch.Tensor]) -> tuple[list[int], int]:
        return batch["attention_mask"].sum(1).tolist(), int((batch["labels"] != IGNORE).sum())

    def learn(self, batch: Mapping[str, torch.Tensor]) -> float:
        with self.precision.autocast():
            loss = self.wrapped(**batch, use_cache=False).loss
        self.precision.backward(loss)
        self.precision.scaler.unscale_(self.optimizer)
        if self.cfg.TRAIN.clip_grad > 0:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.cfg.TRAIN.clip_grad)
        self.precision.step(self.optimizer, bad=False)
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()
