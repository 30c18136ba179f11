"""Robot actions written as space-separated integers, and read back.

A chunk of H actions with A dimensions becomes H*A integers in 0..num_bins (both ends included):
`round((action - low) / (high - low) * num_bins)`, dimension by dimension, time step by time step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from libs.errors import BadInput

# A float32 copy of a float64 limit lies outside it by this share of the range at most: not a clipped value.
FLOAT32_SLACK = 1e-6
# Numbers that lie closer together are one value and noise (rounding, an encoder's last digit), not motion.
NOISE_SHARE = 1e-5  # of their size: 80 steps of float32
NOISE = 1e-7  # around zero, environment units


def is_constant(low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """(A,) bool: dimensions whose values, low (A,) to high (A,), are one and the same but for noise."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return high - low <= _noise(low, high)


def _noise(low, high):
    return np.maximum(NOISE_SHARE * np.maximum(np.abs(low), np.abs(high)), NOISE)


@dataclass(frozen=True)
class DecodedChunks:
    """What a batch of action texts says.

    actions: (B, H, A) float32, environment units; the mid-range chunk where `valid` is False
    valid: (B,) bool, the text held integers in range and at least one complete action
    repaired: (B,) bool, valid, but an incomplete action was dropped, or the chunk padded or cut
    """

    actions: np.ndarray
    valid: np.ndarray
    repaired: np.ndarray


class ActionTextCodec:
    """Actions (environment units) <-> text.

    low, high: (A,) range of each action dimension. A dimension that is constant but for noise (`is_constant`) always
    encodes to 0 and decodes to one value, the middle.
    num_bins: the largest integer; the resolution of a dimension is (high - low) / num_bins.
    """

    def __init__(self, low: ArrayLike, high: ArrayLike, num_bins: int = 1000) -> None:
        self.low = np.array(low, dtype=np.float64)
        self.high = np.array(high, dtype=np.float64)
        self.num_bins = int(num_bins)
        if self.low.ndim != 1 or self.low.size == 0 or self.low.shape != self.high.shape:
            raise BadInput(f"low and high must both have shape (A,), got {self.low.shape} and {self.high.shape}")
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise BadInput(f"action range is not finite: low {self.low.tolist()}, high {self.high.tolist()}")
        for dim in np.flatnonzero(self.low > self.high):
            raise BadInput(f"action dimension {dim}: low {self.low[dim]} is above high {self.high[dim]}")
        if self.num_bins != num_bins or self.num_bins < 1:
            raise BadInput(f"num_bins must be a whole number of at least 1, got {num_bins!r}")
        constant = is_constant(self.low, self.high)
        self.low = np.where(constant, self.low + (self.high - self.low) / 2, self.low)
        self.high = np.where(constant, self.low, self.high)
        self._span = self.high - self.low
        self._safe_span = np.where(self._span > 0, self._span, 1.0)

    @property
    def action_dim(self) -> int:
        return self.low.size

    def mid_range(self, horizon: int) -> np.ndarray:
        """(H, A) float32: the middle of every range, executed where a text cannot be read."""
        return np.tile((self.low + self.high) / 2, (horizon, 1)).astype(np.float32)

    def to_integers(self, actions: ArrayLike) -> np.ndarray:
        """actions (..., A) -> (..., A) int64 in 0..num_bins; values outside the range are clipped first."""
        actions = self._checked(actions)
        share = (np.clip(actions, self.low, self.high) - self.low) / self._safe_span
        return np.rint(share * self.num_bins).astype(np.int64)

    def from_integers(self, integers: ArrayLike) -> np.ndarray:
        """integers (..., A) -> (..., A) float32, environment units."""
        return (self.low + np.asarray(integers, dtype=np.float64) / self.num_bins * self._span).astype(np.float32)

    def encode(self, actions: ArrayLike) -> list[str]:
        """actions (B, H, A) -> B texts of H*A integers. BadInput: wrong shape, NaN or infinity."""
        integers = self.to_integers(actions)
        if integers.ndim != 3:
            raise BadInput(f"actions must have shape (B, H, {self.action_dim}), got {integers.shape}")
        return [
            " ".join(map(str, chunk.ravel().tolist())) for chunk in integers
        ]  # Python's numbers print twice as fast

    def count_clipped(self, actions: ArrayLike) -> int:
        """How many values of actions (..., A) lie outside the range, so that `encode` clips them."""
        actions = self._checked(actions)
        slack = FLOAT32_SLACK * np.maximum(self._span, np.maximum(np.abs(self.low), np.abs(self.high)))
        slack = np.where(self._span > 0, slack, _noise(self.low, self.high))
        return int(((actions < self.low - slack) | (actions > self.high + slack)).sum())

    def decode(self, texts: Sequence[str], horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """B texts -> (actions (B, H, A) float32, valid (B,) bool). See `decode_detailed`."""
        decoded = self.decode_detailed(texts, horizon)
        return decoded.actions, decoded.valid

    def decode_detailed(self, texts: Sequence[str], horizon: int) -> DecodedChunks:
        """B texts -> DecodedChunks of H actions each; never raises for what a text says.

        Surrounding spaces are ignored. Repaired: an incomplete last action is dropped, a short chunk is
        padded with its last action, a long one is cut. Invalid (the mid-range chunk): anything but integers,
        an integer outside 0..num_bins anywhere in the text (no action of this range), no complete action.
        """
        if isinstance(texts, str):
            raise BadInput("texts must be a list of strings, got one string")
        return self.decode_integers([self._read_integers(text) for text in texts], horizon)

    def decode_integers(self, rows: Sequence[Sequence[int] | None], horizon: int) -> DecodedChunks:
        """B lists of integers 0..num_bins -> DecodedChunks of H actions each, as `decode_detailed` of their texts; None
        stands for what cannot be read."""
        if horizon < 1:
            raise BadInput(f"horizon must be at least 1, got {horizon}")
        actions = np.empty((len(rows), horizon, self.action_dim), dtype=np.float32)
        valid = np.zeros(len(rows), dtype=bool)
        repaired = np.zeros(len(rows), dtype=bool)
        for row, integers in enumerate(rows):
            num_actions = 0 if integers is None else len(integers) // self.action_dim
            if integers is None or num_actions == 0:
                actions[row] = self.mid_range(horizon)
                continue
            kept = integers[: min(num_actions, horizon) * self.action_dim]
            chunk = self.from_integers(np.reshape(kept, (-1, self.action_dim)))
            actions[row, : len(chunk)] = chunk
            actions[row, len(chunk) :] = chunk[-1]
            valid[row] = True
            repaired[row] = len(integers) != horizon * self.action_dim
        return DecodedChunks(actions, valid, repaired)

    def _read_integers(self, text: str) -> list[int] | None:
        """The integers of a text, or None where one is unreadable or out of range."""
        integers = []
        for word in text.split():
            digits = word.lstrip("0") or "0"
            # The length test also keeps int() away from absurdly long numbers.
            if not (word.isascii() and word.isdigit()) or len(digits) > len(str(self.num_bins)):
                return None
            integers.append(int(digits))
            if integers[-1] > self.num_bins:
                return None
        return integers

    def _checked(self, actions: ArrayLike) -> np.ndarray:
        actions = np.asarray(actions, dtype=np.float64)
        if actions.ndim == 0 or actions.shape[-1] != self.action_dim:
            raise BadInput(f"actions must have {self.action_dim} dimensions on the last axis, got {actions.shape}")
        bad = np.argwhere(~np.isfinite(actions))
        if len(bad):
            raise BadInput(f"action value {actions[tuple(bad[0])]} at index {bad[0].tolist()} is not finite")
        return actions
