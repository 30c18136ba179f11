"""A data set as what a loader asks for: features of augmented samples, each with a generator of its own."""

import numpy as np
import torch


class TrainingSet(torch.utils.data.Dataset):
    """Features of augmented samples; an item is asked for by (epoch, rank, index), which seeds its randomness.

    Args:
        dataset: `Demonstrations`, see `rv_train.data.base`.
        encoder: has `encode_training(sample, rng, augment)`, see `rv_train.policies.base.Encoder`.
        seed: the run's seed.
        augment: False gives every sample as evaluation sees it.
    """

    def __init__(self, dataset, encoder, seed, augment=True):
        self.dataset, self.encoder = dataset, encoder
        self.seed, self.augment = seed, augment

    def __getitem__(self, key):
        epoch, rank, index = key
        rng = np.random.default_rng([self.seed, epoch, rank, index])
        features = self.encoder.encode_training(self.dataset[index], rng, self.augment)
        return {**features, "index": int(index)}
