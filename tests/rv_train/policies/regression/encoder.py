"""What a regression learns from: the open prompt and the chunk.

A batch of training holds, besides pictures and ids (`rv_train.policies.encoding`),
    actions      (B, H, A) float32, as they are written (ACTION.MODE)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rv_train.data.base import Sample
from rv_train.policies.encoding import ObservationEncoder


class RegressionEncoder(ObservationEncoder):
    """For a model that answers with numbers."""

    STACKED = ("actions",)

    def encode_training(self, sample: Sample, rng: np.random.Generator, augment: bool = True) -> dict[str, Any]:
        """A Sample → features with the chunk; `rng` draws the augmentation."""
        features = self.encode_sample(sample, rng=rng if augment else None)
        return {**features, "actions": torch.from_numpy(sample.actions)}

    def outline(self, instruction: str) -> tuple[dict[str, torch.Tensor], int, str]:
        numbers = f"{self.horizon} x {self.action_dim} numbers come out of the head"
        return self.prompt.encode(instruction), self.horizon * self.action_dim, numbers

    def target(self, features: Mapping[str, Any], _start: int) -> str:
        """What is learned of a sample, in words."""
        return "a chunk of {} x {} numbers is learned".format(*features["actions"].shape)
