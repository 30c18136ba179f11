"""Demos whose numbers are held in memory: all of `Demonstrations` but opening files and reading a picture."""

import bisect
import copy
import hashlib
import itertools
import json
from collections.abc import Collection, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libs.errors import BadInput
from rv_train.data.base import Block, Demo, Facts, Sample

STANDARD_RENDER = "standard"


class Trajectories:
    """Every frame of every demo, in file and demo order: `Demonstrations` for kinds of data that inherit from it.

    They call `__init__` and write `picture`; and `own_split`, `about`, `remarks` and `fingerprint` where there is
    something to be said.

    Held in memory: the actions and the chosen parts of the robot's state, as float32, demo by demo; every sample needs
    them, and they take 4 (A + P) bytes per frame, 136 MB for a million frames of 7 actions and 27 states. Pictures are
    read one by one when asked for.

    Args: see `Demonstrations`.
    """

    written_with: tuple[dict, str] | None = None
    mix: Sequence[Block] = ()

    def __init__(
        self,
        demos: Iterable[Demo],
        views: Iterable[str],
        horizon: int,
        facts: Facts,
        parts: Iterable[str] = (),
        render: str = STANDARD_RENDER,
    ) -> None:
        self.views, self.horizon, self.facts, self.render = list(views), horizon, facts, render
        self.parts = {part: facts.proprio[part] for part in parts}
        self._set_demos(list(demos))

    def _set_demos(self, demos: Sequence[Demo]) -> None:
        self.demos = demos
        self.files: list[Any] = list(dict.fromkeys(rows.file for rows in demos))
        self._ends = list(itertools.accumulate(len(rows.actions) for rows in demos))

    def picture(self, number: int, frame: int, view: str) -> np.ndarray:
        """See `Demonstrations`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        number, frame = self._place(index)
        rows = self.demos[number]
        steps = chunk_steps(frame, self.horizon, len(rows.actions))
        return Sample(
            views=[self.picture(number, frame, view) for view in self.views],
            instruction=rows.instruction,
            actions=rows.actions[steps],
            proprio=rows.proprio[frame],
            file=str(rows.file.path),
            demo=rows.name,
            frame=frame,
        )

    def index(self, number: int, frame: int) -> int:
        """See `Demonstrations`."""
        return self._ends[number] - len(self.demos[number].actions) + frame

    def _place(self, index: int) -> tuple[int, int]:
        """Number of a sample → (number of its demo, number of the frame within it)."""
        number = bisect.bisect_right(self._ends, index)
        return number, int(index - self.index(number, 0))

    def where(self, index: int) -> str:
        """See `Demonstrations`."""
        number, frame = self._place(index)
        return f"{self.demos[number].file.path}, {self.demos[number].name}, frame {frame}"

    @property
    def num_demos(self) -> int:
        return len(self.demos)

    @property
    def instructions(self) -> list[str]:
        """The language goals, each once, in the order of the demos."""
        return list(dict.fromkeys(rows.instruction for rows in self.demos))

    def all_actions(self) -> np.ndarray:
        """(N, A) float32: every action once."""
        return np.concatenate([rows.actions for rows in self.demos])

    def own_split(self) -> list[str | None]:
        """See `Demonstrations`: here no lists."""
        return [None] * len(self.demos)

    def about(self) -> dict[str, Any]:
        """See `Demonstrations`: here nothing."""
        return {}

    def remarks(self) -> list[str]:
        """See `Demonstrations`: here none."""
        return []

    def goals(self) -> list:
        """Of every demo its language goal, as the fingerprint knows it."""
        return [rows.instruction for rows in self.demos]

    def prepare(self, workers: int) -> None:
        """See `Demonstrations`: here nothing."""

    def fingerprint(self) -> str:
        """See `Demonstrations`; pictures: the first of every demo, of the first of `views`."""
        sizes = [self.facts.cameras[view] for view in self.views]
        pictures = (self.picture(number, 0, self.views[0]) for number in range(len(self.demos)))
        return digest_of([self.goals(), self.views, sizes, self.render, self.parts], self.demos, pictures)

    def split(self, val_share: float, seed: int) -> tuple["Trajectories", "Trajectories | None"]:
        """See `Demonstrations`."""
        if val_share == 0:
            return self, None
        files, goals = [rows.file for rows in self.demos], [rows.instruction for rows in self.demos]
        chosen = split_demos(files, goals, self.own_split(), val_share, seed, self.files[0].path)
        return self._subset(chosen["train"]), self._subset(chosen["valid"]) if chosen["valid"] else None

    def first(self, count: int) -> "Trajectories":
        """See `Demonstrations`."""
        check_count(count, self)
        return self._subset(range(count))

    def _subset(self, numbers: Collection[int]) -> "Trajectories":
        part = copy.copy(self)
        part._set_demos([self.demos[number] for number in numbers])
        return part


def chunk_steps(frame: int | np.ndarray, horizon: int, length: int) -> np.ndarray:
    """The frames whose actions make the chunk at a frame of a demo of that length, or (n, 1) frames: (..., horizon)."""
    return np.minimum(frame + np.arange(horizon), length - 1)


def split_demos(
    files: Sequence[Hashable],
    goals: Sequence[Hashable],
    listed: Sequence[str | None],
    val_share: float,
    seed: int,
    where: Path,
) -> dict[str, list[int]]:
    """{"train": numbers of demos, "valid": ...}, in order.

    Args:
        files: of every demo the file it lies in, or what stands for one; a source that holds the same demos in the same
            files, in the order of their first demos, is split alike. Files of a single demo count as one where their
            demos have one goal: some recorders write a file per episode.
        goals: of every demo what its instruction is told apart by.
        listed: of every demo, see `Demonstrations.own_split`; a file of which it says something is split by that, and
            a demo in neither is left out.
        val_share: above 0, the share that is drawn from other files. where: the data, for the message.

    Raises:
        BadInput: nothing is left to train on.
    """
    chosen: dict[str, list[int]] = {"train": [], "valid": []}
    demos_of: dict[Hashable, list[int]] = {}
    for number, file in enumerate(files):
        demos_of.setdefault(file, []).append(number)
    alone: dict[Hashable, list[int]] = {}
    for first, *others in demos_of.values():
        if not others and not listed[first]:
            alone.setdefault(goals[first], []).append(first)
    for place, numbers in enumerate(demos_of.values()):
        if len(numbers) == 1 and not listed[numbers[0]]:
            numbers = alone.pop(goals[numbers[0]], [])
            if not numbers:  # went with the first of them
                continue
        if any(listed[number] for number in numbers):
            kept, held_out = ([n for n in numbers if listed[n] == name] for name in ("train", "valid"))
        else:
            kept, held_out = split_at_random(numbers, val_share, [seed, place])
        chosen["train"] += kept
        chosen["valid"] += held_out
    if not chosen["train"]:
        raise BadInput(f"{where}: every demo is held out for validation, none is left to train on")
    return {name: sorted(numbers) for name, numbers in chosen.items()}


def split_at_random(names: Sequence[Any], val_share: float, seed: Any) -> tuple[list, list]:
    """(demos to train on, held-out demos); always at least one to train on."""
    count = min(max(1, round(val_share * len(names))), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[n] for n in order[count:]], [names[n] for n in order[:count]]


def check_count(count: int, data: Any) -> None:
    """BadInput where some `Demonstrations` have fewer demos than are asked for, or none is."""
    if not 1 <= count <= len(data.demos):
        raise BadInput(
            f"{count} demos are asked for: {data.files[0].path}"
            f"{' and the files after it' if len(data.files) > 1 else ''} hold {len(data.demos)}"
        )


def side_or_size(size: Sequence[int] | None) -> int | list[int]:
    """What a fingerprint knows of pictures of (height, width): of square ones their side, as it always did."""
    assert size is not None, "there is data, which tells it"
    height, width = map(int, size)
    return height if height == width else [height, width]


def digest_of(about: list, demos: Sequence[Demo], pictures: Iterable[np.ndarray]) -> str:
    """sha256 in hexadecimal of what is known about data, as JSON, and of its demos' lengths, numbers and pictures.

    One picture per demo tells renderings apart without reading gigabytes.
    """
    lengths = [len(rows.actions) for rows in demos]
    digest = hashlib.sha256(json.dumps([*about, lengths]).encode())
    for rows in demos:
        digest.update(rows.actions.tobytes())
    for rows in demos:
        digest.update(rows.proprio.tobytes())
    for picture in pictures:
        digest.update(picture.tobytes())
    return digest.hexdigest()
