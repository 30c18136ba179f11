"""What DATA.MIX says of the sets of a mixture: entries of a list, in the recipe or in the one that DATA.FILES names."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from libs.errors import BadInput
from libs.files import read_yaml
from rv_train.data.base import Facts
from rv_train.data.sources import SOURCES, find_source, source_that_fits

MIX = "mix"  # DATA.SOURCE of a mixture
FILE = "mixture.yaml"  # of a folder that is a mixture
# What an entry of DATA.MIX may say, and of which type that is: keys of DATA, and what only an entry has.
DATA_KEYS: dict[str, type] = {"FILES": list, "SOURCE": str, "KEY_MAP": str, "ACTION": str, "INSTRUCTION": str}
ENTRY_KEYS: dict[str, type | tuple[type, ...]] = {**DATA_KEYS, "NAME": str, "WEIGHT": (int, float), "RENAME": dict}


@dataclass(frozen=True)
class Entry:
    """What a mixture's list says of a set: its name, its weight (0: none is stated), {name in the mixture: name in the
    set}, and the keys of DATA that are its own."""

    name: str
    weight: float
    rename: Mapping[str, str]
    data: Mapping[str, Any]

    @functools.cached_property
    def source(self) -> str:
        """Of what kind it is: as stated, else what its files look like. BadInput: a kind that cannot be mixed."""
        source = self.data.get("SOURCE") or source_that_fits(self.data["FILES"])
        if source == MIX or not find_source(source).NUMBERS:
            what = "a mixture itself" if source == MIX else "integers of a range of its own"
            raise BadInput(f"DATA.MIX: {self} is {source}, {what}: list the demonstrations that it is made of")
        return source

    def cfg(self, cfg: CfgNode) -> CfgNode:
        """The config tree of this set alone, by its own names."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATA.MIX, cfg.DATA.MAX_DEMOS, cfg.DATA.SOURCE = [], 0, self.source
        for key, value in self.data.items():
            cfg.DATA[key] = value
        for key in ("VIEWS", "PROPRIO"):
            cfg.DATA[key] = [self.rename.get(name, name) for name in cfg.DATA[key]]
        cfg.freeze()
        return cfg

    def look(self, cfg: CfgNode) -> Facts:
        """What the set holds, by the mixture's names."""
        facts = find_source(self.source).look(self.cfg(cfg))
        known = {**facts.cameras, **facts.proprio}
        wrong = [name for name in self.rename.values() if name not in known]
        if wrong:
            raise BadInput(f"DATA.MIX, {self}: RENAME names {wrong[0]!r}, it has {', '.join(known)}")
        cameras, proprio = (self._renamed(names) for names in (facts.cameras, facts.proprio))
        return Facts(cameras, facts.action_dim, proprio, facts.rate, action_names=facts.action_names)

    def _renamed(self, there):
        ours = {name: there[theirs] for name, theirs in self.rename.items() if theirs in there}
        taken = {*self.rename.values(), *ours}
        return {**ours, **{name: value for name, value in there.items() if name not in taken}}

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.data['FILES'])})"


def read_entries(cfg: CfgNode) -> list[Entry]:
    """The sets that DATA.MIX lists, or that of the recipe in DATA.FILES. BadInput, naming the entry and key."""
    listed = cfg.DATA.MIX
    if listed and cfg.DATA.FILES:
        raise BadInput(f"DATA.MIX lists sets with FILES of their own: leave DATA.FILES {cfg.DATA.FILES} empty")
    if not listed and len(cfg.DATA.FILES) != 1:
        raise BadInput(
            f"a mixture is what DATA.MIX lists, or one recipe in DATA.FILES whose DATA.MIX does, not {cfg.DATA.FILES}"
        )
    if not listed:
        path = file_of(cfg.DATA.FILES[0])
        listed = listed_in(path)
        if not isinstance(listed, list) or not listed:
            raise BadInput(f"DATA.FILES: {path} has no list DATA.MIX of sets")
    entries = [_entry(number, said) for number, said in enumerate(listed)]
    names = [entry.name for entry in entries]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise BadInput(f"DATA.MIX: two sets are called {twice[0]}: give each a NAME")
    stated = [entry for entry in entries if entry.weight]
    if stated and len(stated) < len(entries):
        silent = next(entry for entry in entries if not entry.weight)
        raise BadInput(
            f"DATA.MIX: {stated[0].name} has a WEIGHT and {silent.name} has none: give one to all, or to none, and "
            "every frame is drawn as often as any other"
        )
    return entries


def _entry(number, said):
    where = f"DATA.MIX, entry {number}"
    if not isinstance(said, dict):
        raise BadInput(f"{where}: a set is {{FILES: [...], WEIGHT: ...}}, not {said!r}")
    for key, value in said.items():
        if key not in ENTRY_KEYS:
            raise BadInput(f"{where}: no key {key}; a set has {', '.join(ENTRY_KEYS)}")
        if not isinstance(value, ENTRY_KEYS[key]) or isinstance(value, bool):
            raise BadInput(f"{where}: {key} cannot be {value!r}")
    files, rename = said.get("FILES", []), said.get("RENAME", {})
    if not files or not all(isinstance(file, str) for file in files):
        raise BadInput(f"{where}: FILES lists files and folders, as DATA.FILES does; got {files!r}")
    if not all(isinstance(name, str) for pair in rename.items() for name in pair):
        raise BadInput(f"{where}: RENAME maps names of the mixture to those of the set, got {rename!r}")
    weight = said.get("WEIGHT", 0.0)
    if "WEIGHT" in said and not 0 < weight < float("inf"):
        raise BadInput(f"{where}: WEIGHT is above 0, got {weight}; leave a set out that is not to be drawn from")
    name = said.get("NAME", re.sub(r"[^\w.-]", "_", Path(files[0]).name))
    if not re.fullmatch(r"[\w.-]+", name):
        raise BadInput(f"{where}: NAME is made of letters, digits, '_', '-' and '.', got {name!r}")
    if said.get("SOURCE", MIX) not in SOURCES:
        raise BadInput(f"{where}: no SOURCE {said['SOURCE']!r}: there are {', '.join(SOURCES)}")
    return Entry(name, float(weight), dict(rename), {key: value for key, value in said.items() if key in DATA_KEYS})


def file_of(entry: Path | str) -> Path:
    """The recipe that an entry of DATA.FILES names: itself, or FILE in a folder."""
    path = Path(entry)
    return path / FILE if path.is_dir() else path


def listed_in(path: Path) -> Any:
    """What a recipe says of DATA.MIX, None where it says nothing. BadInput: it cannot be read."""
    tree = read_yaml(path)
    data = tree.get("DATA") if isinstance(tree, dict) else None
    return data.get("MIX") if isinstance(data, dict) else None
