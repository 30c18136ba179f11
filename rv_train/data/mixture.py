"""DATA.SOURCE mix: several sets of any kind, of actions alike, each drawn from as often as DATA.MIX says.

A set has its own names of cameras and parts of the robot's state; RENAME says what a name of the mixture means.
"""

import bisect
import copy
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.data import checks
from rv_train.data.base import Block, Demo, Demonstrations, Facts, HasPath, Sample
from rv_train.data.mix_entries import FILE, MIX, Entry, file_of, listed_in, read_entries
from rv_train.data.sources import find_source
from rv_train.data.trajectories import check_count


@dataclass
class Part:
    """A set of a mixture, opened: `data` has the set's own names."""

    entry: Entry
    data: Demonstrations
    _print: str = field(default="", repr=False)

    def fingerprint(self) -> str:
        """The set's; it reads a picture of every demo, once."""
        self._print = self._print or self.data.fingerprint()
        return self._print


class Mixture:
    """The demos of several sets, set by set: `Demonstrations`. BadInput: DATA.MIX is no list of sets that are alike."""

    written_with = None

    def __init__(self, parts: Sequence[Part], views: Sequence[str], proprio: Mapping[str, int], facts: Facts) -> None:
        self.views, self.parts, self.facts = list(views), dict(proprio), facts
        self.horizon, self.render = parts[0].data.horizon, parts[0].data.render
        self._set_parts(parts)

    def _set_parts(self, parts):
        self._parts = list(parts)
        sizes = ([len(part.data), len(part.data.demos)] for part in self._parts)
        self._ends, self._demo_ends = (list(itertools.accumulate(column)) for column in zip(*sizes, strict=True))
        self.demos: list[Demo] = [rows for part in self._parts for rows in part.data.demos]
        self.files: list[HasPath] = [file for part in self._parts for file in part.data.files]

    @property
    def mix(self) -> list[Block]:
        """See `Demonstrations`."""
        weights = [part.entry.weight or len(part.data) for part in self._parts]
        return [
            Block(part.entry.name, part.entry.weight, weight / sum(weights), len(part.data), len(part.data.demos))
            for part, weight in zip(self._parts, weights, strict=True)
        ]

    @property
    def instructions(self) -> list[str]:
        """The language goals, each once, set by set."""
        return list(dict.fromkeys(goal for part in self._parts for goal in part.data.instructions))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part, place = self._place(index, self._ends)
        return part.data[place]

    def index(self, number: int, frame: int) -> int:
        """See `Demonstrations`."""
        which = bisect.bisect_right(self._demo_ends, number)
        part, place = self._place(number, self._demo_ends)
        return self._ends[which] - len(part.data) + part.data.index(place, frame)

    def _place(self, index, ends):
        """Number of a sample or demo, by the ends of either → (its Part, its number there)."""
        which = bisect.bisect_right(ends, index)
        return self._parts[which], int(index - (ends[which - 1] if which else 0))

    def where(self, index: int) -> str:
        """See `Demonstrations`."""
        part, place = self._place(index, self._ends)
        return part.data.where(place)

    def picture(self, number: int, frame: int, view: str) -> np.ndarray:
        """See `Demonstrations`."""
        part, place = self._place(number, self._demo_ends)
        return part.data.picture(place, frame, part.entry.rename.get(view, view))

    def own_split(self) -> list[str | None]:
        """See `Demonstrations`."""
        return [name for part in self._parts for name in part.data.own_split()]

    def split(self, val_share: float, seed: int) -> tuple["Mixture", "Mixture | None"]:
        """See `Demonstrations`: every set is split for itself."""
        both = [part.data.split(val_share, seed) for part in self._parts]
        train, valid = (
            [Part(part.entry, data) for part, data in zip(self._parts, column, strict=True) if data is not None]
            for column in zip(*both, strict=True)
        )
        return self._of(train), self._of(valid) if valid else None

    def first(self, count: int) -> "Mixture":
        """See `Demonstrations`: of the first sets all demos, of the next as many as are left."""
        check_count(count, self)
        parts = []
        for part, end in zip(self._parts, self._demo_ends, strict=True):
            left = count - (end - len(part.data.demos))
            if left > 0:
                parts.append(Part(part.entry, part.data.first(min(left, len(part.data.demos)))))
        return self._of(parts)

    def _of(self, parts):
        other = copy.copy(self)
        other._set_parts(parts)
        return other

    def fingerprint(self) -> str:
        """See `Demonstrations`: of the sets' fingerprints and the mixture's names; weights are no data."""
        about = [self.views, self.parts, [part.fingerprint() for part in self._parts]]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def prepare(self, workers: int) -> None:
        """See `Demonstrations`."""
        for part in self._parts:
            part.data.prepare(workers)

    def about(self) -> dict[str, Any]:
        """See `Demonstrations`."""
        listed = []
        for part, block in zip(self._parts, self.mix, strict=True):
            files = [str(file.path) for file in part.data.files]
            said = {"files": files, "fingerprint": part.fingerprint(), **part.data.about()}
            listed.append({**block._asdict(), "source": part.entry.source, **said})
        return {"mix": listed}

    def remarks(self) -> list[str]:
        """See `Demonstrations`."""
        said = [line for part in self._parts for line in part.data.remarks()]
        facts = [(part.entry.name, part.data, part.data.facts) for part in self._parts]
        rates = {name: f"{one.rate:g} frames a second" for name, _, one in facts if one.rate}
        renders = {name: f"rendering {data.render}" for name, data, _ in facts}
        for found, meaning in (
            (rates, "an action lasts longer in some"),
            (renders, "an evaluation renders as the first"),
        ):
            if len(set(found.values())) > 1:
                listed = ", ".join(f"{name} {text}" for name, text in found.items())
                said.append(f"sets that differ: {listed}; {meaning}")
        return said


class Mix:
    """The `Source`."""

    NUMBERS, PROPRIO = True, True
    ABOUT = f"recipes whose DATA.MIX lists sets, or folders with such a {FILE}; or nothing, and DATA.MIX does"

    def fits(self, entry: Path) -> bool:
        """See `Source`."""
        path = file_of(entry)
        return path.suffix in (".yaml", ".yml") and path.is_file() and bool(listed_in(path))

    def look(self, cfg: CfgNode) -> Facts:
        """See `Source`: what all sets have, with the sizes of the first one's."""
        return _common([entry.look(cfg) for entry in read_entries(cfg)])

    def open(self, cfg: CfgNode) -> Mixture:
        """See `Source`."""
        entries = read_entries(cfg)
        facts = [entry.look(cfg) for entry in entries]
        checks.refuse(_unlike(entries, facts, cfg))
        parts = [Part(entry, find_source(entry.source).open(entry.cfg(cfg))) for entry in entries]
        common = _common(facts)
        proprio = {name: common.proprio[name] for name in cfg.DATA.PROPRIO}
        return Mixture(parts, cfg.DATA.VIEWS, proprio, common)


def check_mix(cfg: CfgNode) -> None:
    """BadInput where DATA.MIX is no list of sets, or says with DATA.SOURCE or FILES what cannot be both."""
    if cfg.DATA.MIX and cfg.DATA.SOURCE != MIX:
        raise BadInput(f"DATA.MIX lists sets, DATA.SOURCE is {cfg.DATA.SOURCE}: set it to {MIX}, or MIX to []")
    if cfg.DATA.MIX:
        read_entries(cfg)


def _common(facts: Sequence[Facts]) -> Facts:
    """What all sets have by the same name, parts of the state in the same size; of the first one's sizes."""
    first = facts[0]
    cameras = {name: size for name, size in first.cameras.items() if all(name in one.cameras for one in facts)}
    proprio = {
        name: size for name, size in first.proprio.items() if all(one.proprio.get(name) == size for one in facts)
    }
    rate = first.rate if len({one.rate for one in facts}) == 1 else None
    return Facts(cameras, first.action_dim, proprio, rate, action_names=first.action_names)


def _unlike(entries: Sequence[Entry], facts: Sequence[Facts], cfg: CfgNode) -> Iterator[str]:
    """What a mixture cannot be made of, naming both sets where two contradict each other."""
    yield from checks.choice_problems(facts[0], cfg, str(entries[0]))
    first, known = entries[0], facts[0]
    for entry, found in zip(entries[1:], facts[1:], strict=True):
        if found.action_dim != known.action_dim:
            yield (
                f"DATA.MIX: actions of {entry} have {found.action_dim} numbers, those of {first} {known.action_dim}: "
                "sets of one mixture have actions alike"
            )
        elif found.action_names and known.action_names and found.action_names != known.action_names:
            yield (
                f"DATA.MIX: the numbers of an action of {entry} are {', '.join(found.action_names)}, those of {first} "
                f"{', '.join(known.action_names)}: sets of one mixture have actions alike"
            )
        for key, theirs in (("VIEWS", found.cameras), ("PROPRIO", found.proprio)):
            missing = [name for name in cfg.DATA[key] if name not in theirs]
            if missing:
                yield (
                    f"DATA.{key}: {entry} has no {missing[0]!r}, as {first} has; it has {', '.join(theirs) or 'none'}: "
                    "say which one it is in the entry's RENAME"
                )
        for name in cfg.DATA.PROPRIO:
            if name in found.proprio and found.proprio[name] != known.proprio.get(name):
                yield (
                    f"DATA.PROPRIO: {name} has {found.proprio[name]} numbers in {entry}, {known.proprio.get(name)} in "
                    f"{first}"
                )
