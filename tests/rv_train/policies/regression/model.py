"""A backbone that looks and reads, and a matrix from its last hidden state to a chunk of actions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from libs.errors import BadInput
from libs.flow_matching import Normalizer
from rv_train.backbones import family_of
from rv_train.backbones.cost import MULTIPLY_ADD, PASSES, Numbers, TrainingFlops
from rv_train.backbones.running import DTYPES, answering, last_of
from rv_train.policies.base import Encoder, Prediction
from rv_train.policies.shared import OverBackbone, check_numbers, load_own, save_own

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rv_train.backbones.base import Family
    from rv_train.backbones.prompt import PromptEncoder


class RegressionPolicy(OverBackbone):
    """Backbone and head; see `rv_train.policies.base.Policy`, which also explains the constants.

    Args:
        backbone, family, prompt: of an OverBackbone.
        head: D numbers to H * A.
        actions: a Normalizer, None where nothing is learned or answered.
        shape: (H, A) of a chunk.
    """

    TEMPERATURE, COUNTED = 0.0, "numbers"
    DRAFTS = PREFIX = INTEGERS = False
    PARTS: ClassVar = {"head": "head."}
    OWN = "head"

    def __init__(
        self,
        backbone: "PreTrainedModel",
        family: "Family",
        prompt: "PromptEncoder",
        head: nn.Linear,
        actions: Normalizer | None,
        shape: tuple[int, int],
    ) -> None:
        super().__init__(backbone, family, prompt)
        self.head, self.actions, self.shape = head, actions, shape

    @staticmethod
    def check(cfg: CfgNode) -> None:
        check_numbers(cfg)
        if cfg.DATA.PROPRIO:
            raise BadInput(f"MODEL.NAME {cfg.MODEL.NAME} takes no robot's state: leave DATA.PROPRIO empty")

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, encoder: Encoder, backbone: "PreTrainedModel", weights: Path | None = None
    ) -> "RegressionPolicy":
        shape, stats = (encoder.horizon, encoder.action_dim), encoder.stats
        width = backbone.config.get_text_config().hidden_size
        head = nn.Linear(width, math.prod(shape), dtype=DTYPES[cfg.AMP.param_dtype])
        if weights:
            load_own(head, weights, "head of ACTION's sizes")
        actions = Normalizer.from_min_max(stats["min"], stats["max"]) if stats else None
        return cls(backbone, family_of(cfg), encoder.prompt, head, actions, shape)

    def save(self, folder: Path | str) -> None:
        super().save(folder)
        save_own(self.head, folder)

    def flops(self) -> "RegressionFlops":
        return RegressionFlops(self.backbone_flops(), self.head.weight.numel())

    def kept(self, numbers: Numbers, tokens: int, counted: int) -> dict[str, int]:
        """Nothing to speak of: a vector per sample."""
        return {}

    def compile_predict(self) -> None:
        raise BadInput("torch_compile: an answer is one pass, and nothing in it is repeated; leave it out")

    def chance(self, batch: Mapping[str, torch.Tensor]) -> tuple[float, str]:
        return self._wanted(batch).square().mean().item(), "the middle of every range"

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The mean squared error of the normalised chunk, and of how many numbers."""
        wanted = self._wanted(batch)
        return {"loss": nn.functional.mse_loss(self._chunk(batch), wanted), "count": wanted.numel()}

    @torch.no_grad()
    def predict(
        self,
        batch: Mapping[str, torch.Tensor],
        temperature: float | None = None,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> Prediction:
        """One pass; nothing is drawn, whatever the temperature."""
        assert self.actions is not None, "what answers has statistics"
        with answering(self.backbone, self.compiled):
            chunk = self.actions.denormalize(self._chunk(batch))
        return Prediction.unwritten(chunk.cpu().numpy())

    def _wanted(self, batch):
        assert self.actions is not None, "what is trained has statistics"
        return self.actions.normalize(batch["actions"])

    def _chunk(self, batch):
        """(B, H, A) float32, normalised."""
        last = last_of(self.hidden(batch), batch["lengths"])
        return self.head(last.to(self.head.weight.dtype)).float().unflatten(1, self.shape)


class RegressionFlops:
    """Operations of a training step: the backbone's, and the head's once per sample.

    Args:
        backbone: a TrainingFlops.
        weights: of the head.
    """

    def __init__(self, backbone: TrainingFlops, weights: int) -> None:
        self.backbone, self.weights = backbone, weights

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Operations of a training batch."""
        return self.count(batch["lengths"].tolist(), batch["actions"].numel())

    def count(self, lengths: Sequence[int], _numbers: int) -> float:
        """The same from the tokens of each sample. No word is learned, so the backbone's head has nothing to do."""
        return self.backbone.count(lengths, 0) + float(PASSES * MULTIPLY_ADD * self.weights * len(lengths))
