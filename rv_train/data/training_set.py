"""A data set as what a loader asks for: features of augmented samples, each with a generator of its own."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rv_train.data.base import Demonstrations, Sample


class TrainingSet(torch.utils.data.Dataset):
    """Features of augmented samples; an item is asked for by (epoch, rank, index), which seeds its randomness.

    Args:
        dataset: `Demonstrations`, see `rv_train.data.base`.
        encoder: has `written(sample)` and `encode_training(sample, rng, augment)`, see
            `rv_train.policies.base.Encoder`.
        seed: the run's seed.
        augment: False gives every sample as evaluation sees it.
        wordings: {instruction: all that a sample of it may be asked in}, of which one is drawn; instructions that are
            not there stay.
    """

    def __init__(
        self,
        dataset: Demonstrations,
        encoder: Any,
        seed: int,
        augment: bool = True,
        wordings: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.dataset, self.encoder = dataset, encoder
        self.seed, self.augment = seed, augment
        self.wordings = wordings if augment and wordings else {}

    def __getitem__(self, key: tuple[int, int, int]) -> dict:
        sample, rng = self.drawn(key)
        features = self.encoder.encode_training(self.encoder.written(sample), rng, self.augment)
        return {**features, "index": int(key[2])}

    def drawn(self, key: tuple[int, int, int]) -> tuple[Sample, np.random.Generator]:
        """(the sample of (epoch, rank, index) in the wording that is drawn for it, its generator, which has drawn that
        and nothing else)."""
        epoch, rank, index = key
        rng, sample = np.random.default_rng([self.seed, epoch, rank, index]), self.dataset[index]
        texts = self.wordings.get(sample.instruction)
        if texts:
            sample = dataclasses.replace(sample, instruction=texts[rng.integers(len(texts))])
        return sample, rng
