"""Key maps: where an HDF5 file of demonstrations keeps its pictures, robot states, actions and instruction.

Every file of this family (robomimic's, LIBERO's, Isaac Lab's) has a group data/demo_i per demo and differs in the names
below it. A map is a JSON file, its name the file's:

    about        a line for people: whose layout this is
    views        {camera: key}, the main camera first: uint8 (T, H, W, 3); a key is a path below data/demo_i
    upside_down  true where frames are stored as LIBERO stores them: upright is [::-1, ::-1]
    proprio      {part: {"key", "dim"}}: parts of the robot's state, numbers (T, dim)
    actions      {"key", "dim"}: numbers (T, dim)
    instruction  {"attribute", "json_key", "text"}: an attribute of `data`, the entry of it where it is JSON ("" where
                 it is the text itself), and what holds where a file states none; each may be ""

Those of this project are in key_maps/ beside this file; configs/key_maps leads there, too.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from libs.errors import BadInput
from libs.files import read_text, without_repeats

SHIPPED = Path(__file__).with_name("key_maps")
NAME = re.compile(r"\w[\w.-]*")  # of views and parts: names of files in manifests, words on command lines
KEY = re.compile(r"[^/.][^/]*(/[^/.][^/]*)*")


class Place(NamedTuple):
    """Numbers of shape (T, dim) at `key` below data/demo_i."""

    key: str
    dim: int


class InstructionPlace(NamedTuple):
    """See the module's docstring."""

    attribute: str
    json_key: str
    text: str


@dataclass(frozen=True)
class KeyMap:
    """A layout, see the module's docstring. Maps are equal where they say the same, whatever they are called."""

    name: str = field(compare=False)
    about: str = field(compare=False)
    views: dict
    upside_down: bool
    proprio: dict
    actions: Place
    instruction: InstructionPlace

    @classmethod
    def load(cls, path):
        """From a JSON file; BadInput, naming file and entry, for anything missing, unknown or of the wrong kind."""
        path = Path(path)
        text = read_text(path)
        try:
            return cls(name=path.stem, **_checked(json.loads(text, object_pairs_hook=without_repeats)))
        except (json.JSONDecodeError, RecursionError) as error:
            raise BadInput(f"key map {path} is not valid JSON: {error}") from None
        except BadInput as error:
            raise BadInput(f"key map {path}: {error}") from None

    @classmethod
    def find(cls, entry):
        """One of this project's by its name, or a JSON file by its path; BadInput as `load`."""
        entry = str(entry)
        if not NAME.fullmatch(entry) or entry.endswith(".json"):
            return cls.load(entry)
        if entry not in shipped():
            known = ", ".join(shipped())
            raise BadInput(f"no key map {entry!r}: there are {known}; or give the path of a JSON file")
        return cls.load(SHIPPED / f"{entry}.json")

    @property
    def main_view(self):
        """The camera that every demo must have: the first."""
        return next(iter(self.views))

    def dim(self, parts):
        """How many numbers these parts are together; BadInput as `check_parts`."""
        self.check_parts(parts)
        return sum(self.proprio[part].dim for part in parts)

    def check_views(self, views):
        """BadInput where one is not of this map."""
        self._check_known(views, self.views, "view")

    def check_parts(self, parts):
        """BadInput where one is not of this map."""
        self._check_known(parts, self.proprio, "proprio part")

    def _check_known(self, names, known, what):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise BadInput(f"key map {self.name} has no {what} {unknown[0]!r}; it has {', '.join(known) or 'none'}")

    def layout(self, views, parts):
        """What of this map these views and parts depend on, as JSON: two maps that agree in it read the same."""
        return {
            "views": {view: self.views[view] for view in views},
            "upside_down": self.upside_down,
            "proprio": {part: list(self.proprio[part]) for part in parts},
            "actions": list(self.actions),
        }


def shipped():
    """The names of this project's maps, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def _checked(tree):
    """The fields of a KeyMap but its name."""
    _check_entries(tree, ("about", "views", "upside_down", "proprio", "actions", "instruction"), "the map")
    if not isinstance(tree["about"], str):
        raise BadInput(f"about must be text, got {tree['about']!r}")
    if not isinstance(tree["upside_down"], bool):
        raise BadInput(f"upside_down must be true or false, got {tree['upside_down']!r}")
    for group in ("views", "proprio"):
        if not isinstance(tree[group], dict):
            raise BadInput(f"{group} must be an object of names, got {tree[group]!r}")
        wrong = [name for name in tree[group] if not NAME.fullmatch(name)]
        if wrong:
            raise BadInput(f"{group}: {wrong[0]!r} is no name: letters, digits, '_', '-' and '.'")
    if not tree["views"]:
        raise BadInput("views needs at least one camera")
    for view, key in tree["views"].items():
        _check_key(key, f"views: {view}")
    return {
        **tree,
        "proprio": {part: _place(value, f"proprio: {part}") for part, value in tree["proprio"].items()},
        "actions": _place(tree["actions"], "actions"),
        "instruction": _instruction_place(tree["instruction"]),
    }


def _check_entries(tree, names, what):
    if not isinstance(tree, dict):
        raise BadInput(f"{what} must be an object with {', '.join(names)}, got {tree!r}")
    missing, unknown = [name for name in names if name not in tree], [name for name in tree if name not in names]
    if missing or unknown:
        problem = f"no entry {missing[0]!r}" if missing else f"unknown entry {unknown[0]!r}"
        raise BadInput(f"{what}: {problem}; it has {', '.join(names)}")


def _check_key(key, what):
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise BadInput(f"{what}: a key is a path below data/demo_i such as 'obs/agentview_rgb', got {key!r}")


def _place(tree, what):
    _check_entries(tree, Place._fields, what)
    _check_key(tree["key"], what)
    if type(tree["dim"]) is not int or tree["dim"] < 1:
        raise BadInput(f"{what}: dim must be a whole number above 0, got {tree['dim']!r}")
    return Place(**tree)


def _instruction_place(tree):
    _check_entries(tree, InstructionPlace._fields, "instruction")
    wrong = [name for name, value in tree.items() if not isinstance(value, str)]
    if wrong:
        raise BadInput(f"instruction: {wrong[0]} must be text, got {tree[wrong[0]]!r}")
    if tree["json_key"] and not tree["attribute"]:
        raise BadInput("instruction: json_key needs an attribute")
    return InstructionPlace(**tree)


LIBERO = KeyMap.find("libero")
