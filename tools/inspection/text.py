"""How an inspection looks, whatever kind of data it is of."""

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
LABEL_WIDTH = 13
COLUMN = 9  # of the table, characters


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


def pair(key: str, value: object) -> str:
    """KEY VALUE as a shell takes it, behind a command or in an array."""
    text = str(value)
    quoted = f'"{text}"' if re.search(r"[^\w./:+-]", text) and not re.search(r'["$`\\!]', text) else shlex.quote(text)
    return f"{key} {quoted}"


def names_of(dim: int, stated: Sequence[str] = ()) -> Sequence[object]:
    """What the numbers of an action are called: as the data has it, else LIBERO's names where there are seven."""
    if stated:
        return stated if len(set(stated)) == dim else range(dim)
    return ACTION_NAMES if dim == len(ACTION_NAMES) else range(dim)


def table(actions: np.ndarray, stated: Sequence[str] = ()) -> list[str]:
    """Lines with the smallest, mean and largest value of every number of actions (N, A). stated: their names, which
    are numbers where they are too long to stand side by side."""
    names = names_of(actions.shape[1], stated)
    if max(len(str(name)) for name in names) >= COLUMN:
        names = range(actions.shape[1])
    lines = [f"  {'actions':{LABEL_WIDTH}}" + "".join(f"{name:>{COLUMN}}" for name in names)]
    for name in ("min", "mean", "max"):
        values = getattr(actions, name)(axis=0)
        lines.append(f"  {name:>{LABEL_WIDTH - 2}}  " + "".join(f"{value:{COLUMN}.3f}" for value in values))
    return lines


def lengths_text(lengths: Sequence[int]) -> str:
    """How many frames there are, and how they are spread over demos."""
    return f"{sum(lengths)}  (per demo: {min(lengths)} to {max(lengths)}, mean {np.mean(lengths):.1f})"
