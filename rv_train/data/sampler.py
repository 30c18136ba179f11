"""Which samples make which batch: a pure function of (seed, rank, number of the batch), so a run resumes anywhere."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from yacs.config import CfgNode

from libs.errors import BadInput

if TYPE_CHECKING:
    from rv_train.data.base import Demonstrations

MIXED = 77  # ends the seeds of a mixture's rounds, so that none is an epoch's


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
        mix: of a mixture with weights (samples, share of what is drawn) of each set, in order. An epoch has as many
            samples as the sets together, of each its share. Over the epochs a set's samples are drawn in rounds: none
            comes again before all have come. `epoch` of a key is then the round, so that a sample that comes twice in
            an epoch is augmented anew.

    Raises:
        BadInput: fewer samples than one batch per rank.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        mode: str,
        seed: int,
        rank: int,
        world_size: int,
        start_batch: int = 0,
        mix: Sequence[tuple[int, float]] = (),
    ) -> None:
        self.num_samples, self.batch_size, self.mode = num_samples, batch_size, mode
        self.mix, self.counts = list(mix), _apportioned(num_samples, [share for _, share in mix])
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.start_batch = start_batch
        share = num_samples if mode == "full" else num_samples // world_size
        self.batches_per_epoch = share // batch_size
        if self.batches_per_epoch == 0:
            raise BadInput(f"{num_samples} samples do not fill one batch of {batch_size} on {world_size} rank(s)")

    @classmethod
    def from_cfg(cls, cfg: CfgNode, data: "Demonstrations", rank: int, world_size: int, start_batch: int = 0) -> Self:
        """Of a run on some `Demonstrations`."""
        mix = [(block.samples, block.share) for block in data.mix if block.weight]
        sizes = len(data), cfg.TRAIN.batch_size
        return cls(*sizes, cfg.DATA.SAMPLER, cfg.EXP.SEED, rank, world_size, start_batch, mix)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        epoch, offset = divmod(self.start_batch, self.batches_per_epoch)
        while True:
            order = self._order(epoch)
            for batch in range(offset, self.batches_per_epoch):
                chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
                yield [(turn, self.rank, index) for turn, index in chosen.tolist()]
            epoch, offset = epoch + 1, 0

    def _order(self, epoch):
        """(n, 2) the samples of this rank in an epoch: the round that each is drawn in, and its index."""
        whose = [self.rank] if self.mode == "full" else []
        order = np.random.default_rng([self.seed, epoch, *whose]).permutation(self.num_samples)
        if self.mix:
            order = np.concatenate([self._drawn(number, epoch, whose) for number in range(len(self.mix))])[order]
        else:
            order = np.stack([np.full(self.num_samples, epoch), order], axis=1)
        return order if self.mode == "full" else order[self.rank :: self.world_size]

    def _drawn(self, number, epoch, whose):
        """(n, 2) rounds and indices of what an epoch draws from a set: the next of its endless shuffled rounds."""
        size, count = self.mix[number][0], self.counts[number]
        first = sum(samples for samples, _ in self.mix[:number])
        begin, rows = epoch * count, []
        for turn in range(begin // size, (begin + count - 1) // size + 1):
            order = np.random.default_rng([self.seed, turn, *whose, number, MIXED]).permutation(size)
            order = order[max(0, begin - turn * size) : begin + count - turn * size]
            rows.append(np.stack([np.full(len(order), turn), first + order], axis=1))
        return np.concatenate(rows)


def _apportioned(whole, shares):
    """`whole` as whole numbers by shares that add up to 1, each at least 1: rounded down, and what is left over goes to
    the largest remainders."""
    if not shares:
        return []
    exact = np.array(shares) * whole
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: whole - counts.sum()]] += 1
    counts[np.argmax(counts)] -= (counts == 0).sum()
    return np.maximum(counts, 1).tolist()
