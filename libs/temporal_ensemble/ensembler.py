"""Temporal ensembling: what several queries predicted for the same time step is averaged."""

from collections import deque

import numpy as np
from numpy.typing import ArrayLike

from libs.action_form import NO_ROTATIONS, Rotations
from libs.errors import BadInput


class TemporalEnsembler:
    """Weighted mean of the newest chunk and the older ones that still reach into its time.

    horizon: H, actions in a chunk
    n_action_steps: actions executed between two queries, 1..H; an older chunk is shifted by so many per query
    size: chunks averaged, the newest included (1: the newest chunk comes back as it is)
    version: 1: every older chunk weighs `weight`, so weight=1 is the plain mean of aligned predictions;
        2: a chunk that is `age` queries old weighs weight ** age. The newest always weighs 1, and each time
        step is divided by the weights of the chunks that reach it.
    rotations: which numbers of an action are rotations; their mean is that of rotations. Numbers of others that jump
        (the sign of a quaternion, an angle at +-pi) are averaged as numbers.
    allow_no_overlap: with n_action_steps == horizon no chunk ever overlaps another, so size > 1 would
        silently average nothing: an error unless this is set.
    """

    def __init__(
        self,
        horizon: int,
        n_action_steps: int,
        size: int,
        version: int = 1,
        weight: float = 0.5,
        allow_no_overlap: bool = False,
        rotations: Rotations = NO_ROTATIONS,
    ) -> None:
        if horizon < 1:
            raise BadInput(f"horizon must be at least 1, got {horizon}")
        if size < 1:
            raise BadInput(f"ensemble size must be at least 1, got {size}")
        if version not in (1, 2):
            raise BadInput(f"ensemble version must be 1 or 2, got {version!r}")
        if not (np.isfinite(weight) and weight >= 0):
            raise BadInput(f"ensemble weight must be a finite number of at least 0, got {weight}")
        if size > 1 and n_action_steps >= horizon and not allow_no_overlap:
            raise BadInput(
                f"ensembling {size} chunks would average nothing: {n_action_steps} executed actions per "
                f"query leave no overlap of chunks of horizon {horizon}: execute fewer (or allow_no_overlap)"
            )
        if not 1 <= n_action_steps <= horizon:
            raise BadInput(f"n_action_steps must be between 1 and the horizon {horizon}, got {n_action_steps}")
        self.horizon = horizon
        self.n_action_steps = n_action_steps
        self.size = size
        self.version = version
        self.weight = weight
        self.rotations = rotations
        # (chunk as it was predicted, step of its first action), oldest first
        self._chunks: deque[tuple[np.ndarray, int]] = deque(maxlen=size)
        self._now = 0

    def reset(self) -> None:
        """Forget every chunk: call at the start of an episode."""
        self._chunks.clear()
        self._now = 0

    def add(self, chunk: ArrayLike, elapsed: int | None = None) -> np.ndarray:
        """The newest chunk (H, A), once per query -> the averaged chunk (H, A) of the same dtype.

        elapsed: actions executed between the query before and this one, where it is not n_action_steps.
        """
        chunk = np.asarray(chunk)
        if chunk.ndim != 2 or len(chunk) != self.horizon:
            raise BadInput(f"chunk must have shape ({self.horizon}, A), got {chunk.shape}")
        if self._chunks and self._chunks[-1][0].shape != chunk.shape:
            raise BadInput(f"chunk has shape {chunk.shape}, the one before had {self._chunks[-1][0].shape}")
        if not np.issubdtype(chunk.dtype, np.floating):
            chunk = chunk.astype(np.float64)
        self._now += self.n_action_steps if elapsed is None else elapsed
        self._chunks.append((chunk.copy(), self._now))
        total = np.zeros(chunk.shape)  # (H, A)
        weights = np.zeros((self.horizon, 1))
        pieces = []
        for age, (older, begin) in enumerate(reversed(self._chunks)):
            rest = older[self._now - begin :]
            total[: len(rest)] += self._weight_of(age) * rest
            weights[: len(rest)] += self._weight_of(age)
            pieces.append((self._weight_of(age), rest))
        return self.rotations.mean(total / weights, pieces).astype(chunk.dtype)

    def _weight_of(self, age: int) -> float:
        if age == 0:
            return 1.0
        return self.weight if self.version == 1 else self.weight**age
