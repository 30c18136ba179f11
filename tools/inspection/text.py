"""How an inspection looks, whatever kind of data it is of."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
LABEL_WIDTH = 13


class Show(Protocol):
    """Demos that can be played. name: of what they lie in; rate: frames a second, None where it is not stated;
    lengths: frames of each."""

    name: str
    rate: float | None
    lengths: list[int]

    def frame(self, number: int, t: int) -> tuple[dict[str, np.ndarray], str, str]:
        """({camera: (H, W, 3) uint8}, instruction, name of the demo) of frame t of a demo."""


class Outcome(NamedTuple):
    """What an inspection found. shows: what can be played; problems: how many; unreadable: whether anything was;
    pictures: what is wrong with them, a line each, None where they were not all read."""

    shows: Sequence[Show]
    problems: int
    unreadable: bool
    pictures: list[str] | None


def row(name: str, value: object) -> str:
    """A line: a name and what there is to say."""
    return f"  {name:{LABEL_WIDTH}}{value}"


def names_of(dim: int) -> Sequence[object]:
    """What the numbers of an action are called."""
    return ACTION_NAMES if dim == len(ACTION_NAMES) else range(dim)


def table(actions: np.ndarray) -> list[str]:
    """Lines with the smallest, mean and largest value of every number of actions (N, A)."""
    lines = [f"  {'actions':{LABEL_WIDTH}}" + "".join(f"{name:>9}" for name in names_of(actions.shape[1]))]
    for name in ("min", "mean", "max"):
        values = getattr(actions, name)(axis=0)
        lines.append(f"  {name:>{LABEL_WIDTH - 2}}  " + "".join(f"{value:9.3f}" for value in values))
    return lines


def lengths_text(lengths: Sequence[int]) -> str:
    """How many frames there are, and how they are spread over demos."""
    return f"{sum(lengths)}  (per demo: {min(lengths)} to {max(lengths)}, mean {np.mean(lengths):.1f})"
