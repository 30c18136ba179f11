"""Which samples make which batch: a pure function of (seed, rank, number of the batch), so a run resumes anywhere."""

from collections.abc import Iterator

import numpy as np

from libs.errors import BadInput


class ResumableBatchSampler:
    """Endless batches of keys (epoch, rank, index) for `TrainingSet`.

    The incomplete batch at the end of an epoch is dropped, so that every batch has the same shape; the samples in it
    differ from epoch to epoch.

    Args:
        num_samples: size of the set.
        batch_size: samples per rank and batch.
        mode: "full": every rank goes through the whole set each epoch, in an order of its own;
            "sharded": the ranks share one order.
        seed, rank, world_size: of the run.
        start_batch: number of the first batch to give, 0 for a fresh run.

    Raises:
        BadInput: fewer samples than one batch per rank.
    """

    def __init__(
        self, num_samples: int, batch_size: int, mode: str, seed: int, rank: int, world_size: int, start_batch: int = 0
    ) -> None:
        self.num_samples, self.batch_size, self.mode = num_samples, batch_size, mode
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.start_batch = start_batch
        share = num_samples if mode == "full" else num_samples // world_size
        self.batches_per_epoch = share // batch_size
        if self.batches_per_epoch == 0:
            raise BadInput(f"{num_samples} samples do not fill one batch of {batch_size} on {world_size} rank(s)")

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        epoch, offset = divmod(self.start_batch, self.batches_per_epoch)
        while True:
            order = self._order(epoch)
            for batch in range(offset, self.batches_per_epoch):
                chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
                yield [(epoch, self.rank, int(index)) for index in chosen]
            epoch, offset = epoch + 1, 0

    def _order(self, epoch):
        if self.mode == "full":
            return np.random.default_rng([self.seed, epoch, self.rank]).permutation(self.num_samples)
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)[self.rank :: self.world_size]
