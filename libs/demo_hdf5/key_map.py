"""Key maps: where an HDF5 file of demonstrations keeps its pictures, robot states, actions and instruction.

Files of robomimic's family (LIBERO's, Isaac Lab's) have a group data/demo_i per demo, those of ACT and ALOHA are one
demo each; they differ in the names below. A map is a JSON file, its name the file's:

    about        a line for people: whose layout this is
    views        {camera: key}, the main camera first: uint8 (T, H, W, 3), or the bytes of a JPEG or PNG file per frame,
                 uint8 (T, N) or (T,) of any length; a key is a path below the demo
    upside_down  true where frames are stored as LIBERO stores them: upright is [::-1, ::-1]
    proprio      {part: {"key", "dim"}}: parts of the robot's state, numbers (T, dim)
    actions      {"key", "dim"}: numbers (T, dim)
    instruction  {"attribute", "json_key", "text"}: an attribute of `data`, the entry of it where it is JSON ("" where
                 it is the text itself), and what holds where a file states none; each may be ""; and, if wanted,
                 "demo": {"key", "attribute", "json_key"}, where a demo states its own: in an attribute of the group or
                 array at `key` below it ("": of the demo), or without an attribute in the array at `key`
    demos        if wanted: "data", as without; "": the file is one demo, keys are paths in it
    encoded      if wanted: the colours of encoded pictures, "rgb" as any viewer shows them, as without; "bgr": red and
                 blue are swapped there, because who wrote them gave RGB to OpenCV, which takes BGR

Those of this project are in key_maps/ beside this file; configs/key_maps leads there, too.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from libs.errors import BadInput
from libs.files import read_text, without_repeats

SHIPPED = Path(__file__).with_name("key_maps")
NAME = re.compile(r"\w[\w.-]*")  # of views and parts: names of files in manifests, words on command lines
KEY = re.compile(r"[^/.][^/]*(/[^/.][^/]*)*")


class Place(NamedTuple):
    """Numbers of shape (T, dim) at `key` below a demo."""

    key: str
    dim: int


class DemoText(NamedTuple):
    """Where a demo states its own instruction, see the module's docstring."""

    key: str
    attribute: str
    json_key: str


class InstructionPlace(NamedTuple):
    """See the module's docstring."""

    attribute: str
    json_key: str
    text: str
    demo: DemoText | None = None


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
    demos: str = "data"
    encoded: str = "rgb"

    @classmethod
    def load(cls, path: Path | str) -> "KeyMap":
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
    def find(cls, entry: Path | str) -> "KeyMap":
        """One of this project's by its name, or a JSON file by its path; BadInput as `load`."""
        entry = str(entry)
        if not NAME.fullmatch(entry) or entry.endswith(".json"):
            return cls.load(entry)
        if entry not in shipped():
            known = ", ".join(shipped())
            raise BadInput(f"no key map {entry!r}: there are {known}; or give the path of a JSON file")
        return cls.load(SHIPPED / f"{entry}.json")

    @property
    def main_view(self) -> str:
        """The camera that every demo must have: the first."""
        return next(iter(self.views))

    def dim(self, parts: Sequence[str]) -> int:
        """How many numbers these parts are together; BadInput as `check_parts`."""
        self.check_parts(parts)
        return sum(self.proprio[part].dim for part in parts)

    def check_views(self, views: Iterable[str]) -> None:
        """BadInput where one is not of this map."""
        self._check_known(views, self.views, "view")

    def check_parts(self, parts: Iterable[str]) -> None:
        """BadInput where one is not of this map."""
        self._check_known(parts, self.proprio, "proprio part")

    def _check_known(self, names, known, what):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise BadInput(f"key map {self.name} has no {what} {unknown[0]!r}; it has {', '.join(known) or 'none'}")

    def layout(self, views: Iterable[str], parts: Iterable[str]) -> dict[str, Any]:
        """What of this map these views and parts depend on, as JSON: two maps that agree in it read the same."""
        return {
            "views": {view: self.views[view] for view in views},
            "upside_down": self.upside_down,
            "proprio": {part: list(self.proprio[part]) for part in parts},
            "actions": list(self.actions),
            **({} if self.demos else {"demos": self.demos}),
            **({} if self.encoded == "rgb" else {"encoded": self.encoded}),
        }

    def path(self, demo: str, key: str) -> str:
        """Where a key of a demo stands in the file."""
        return f"data/{demo}/{key}" if self.demos else key


def shipped() -> list[str]:
    """The names of this project's maps, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def _checked(tree):
    """The fields of a KeyMap but its name."""
    names = ("about", "views", "upside_down", "proprio", "actions", "instruction")
    _check_entries(tree, names, "the map", optional=("demos", "encoded"))
    for name, choices in (("demos", ("data", "")), ("encoded", ("rgb", "bgr"))):
        if tree.get(name, choices[0]) not in choices:
            raise BadInput(f"{name} must be {' or '.join(map(repr, choices))}, got {tree[name]!r}")
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


def _check_entries(tree, names, what, optional=()):
    if not isinstance(tree, dict):
        raise BadInput(f"{what} must be an object with {', '.join(names)}, got {tree!r}")
    missing, unknown = (
        [name for name in names if name not in tree],
        [name for name in tree if name not in (*names, *optional)],
    )
    if missing or unknown:
        problem = f"no entry {missing[0]!r}" if missing else f"unknown entry {unknown[0]!r}"
        also = f", and may have {', '.join(optional)}" if optional else ""
        raise BadInput(f"{what}: {problem}; it has {', '.join(names)}{also}")


def _check_key(key, what):
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise BadInput(f"{what}: a key is a path below a demo such as 'obs/agentview_rgb', got {key!r}")


def _place(tree, what):
    _check_entries(tree, Place._fields, what)
    _check_key(tree["key"], what)
    if type(tree["dim"]) is not int or tree["dim"] < 1:
        raise BadInput(f"{what}: dim must be a whole number above 0, got {tree['dim']!r}")
    return Place(**tree)


def _instruction_place(tree):
    _check_entries(tree, ("attribute", "json_key", "text"), "instruction", optional=("demo",))
    of_file = {name: value for name, value in tree.items() if name != "demo"}
    _check_texts(of_file, "instruction")
    if tree["json_key"] and not tree["attribute"]:
        raise BadInput("instruction: json_key needs an attribute")
    return InstructionPlace(**of_file, demo=_demo_text(tree["demo"]) if "demo" in tree else None)


def _demo_text(tree):
    _check_entries(tree, DemoText._fields, "instruction: demo")
    _check_texts(tree, "instruction: demo")
    if tree["key"]:
        _check_key(tree["key"], "instruction: demo")
    elif not tree["attribute"]:
        raise BadInput("instruction: demo: needs a key, an attribute or both")
    return DemoText(**tree)


def _check_texts(tree, what):
    wrong = [name for name, value in tree.items() if not isinstance(value, str)]
    if wrong:
        raise BadInput(f"{what}: {wrong[0]} must be text, got {tree[wrong[0]]!r}")


LIBERO = KeyMap.find("libero")
