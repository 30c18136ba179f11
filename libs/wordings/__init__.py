"""Other wordings of instructions: a file that says how else a task can be asked for. Its format: docs/wordings.md."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from libs.errors import BadInput
from libs.files import read_json_object

# What a wording says otherwise than its instruction does, see docs/wordings.md.
AXES = ("object", "place", "action", "structure", "request")


@dataclass(frozen=True)
class Wording:
    """One way to ask for a task. axes: those of AXES along which it differs from the instruction; () where unsorted."""

    text: str
    axes: tuple[str, ...]


def read_wordings(path: Path | str, needed: Iterable[str] = ()) -> dict[str, list[Wording]]:
    """The wordings of each instruction of a file, in the file's order.

    needed: instructions that must be among them.
    Raises BadInput, naming the file and the instruction, for one that is missing or stands there twice, has no
    wordings, or has one that is malformed, stands there twice or is the instruction itself.
    """
    found = {}
    for instruction, entries in read_json_object(path, unique=True).items():
        try:
            found[instruction] = _wordings(instruction, entries)
        except BadInput as error:
            raise BadInput(f"{path}: {instruction!r}: {error}") from None
    for instruction in needed:
        if instruction not in found:
            raise BadInput(f"{path} has no wordings of {instruction!r}: add them")
    return found


def _wordings(instruction, entries):
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"needs a list of at least one wording, got {entries!r}")
    wordings = [_wording(entry) for entry in entries]
    texts = [wording.text for wording in wordings]
    if instruction in texts:
        raise BadInput("the instruction itself is among its other wordings: take it out")
    twice = [text for text in texts if texts.count(text) > 1]
    if twice:
        raise BadInput(f"the wording {twice[0]!r} stands there twice")
    return wordings


def _wording(entry):
    if not isinstance(entry, dict) or set(entry) != {"text", "axes"}:
        raise BadInput(f'a wording is {{"text": "...", "axes": [...]}}, got {entry!r}')
    text, axes = entry["text"], entry["axes"]
    if not isinstance(text, str) or not text or text != " ".join(text.split()):
        raise BadInput(f"text must be words with single spaces between them, got {text!r}")
    if not isinstance(axes, list) or any(axis not in AXES for axis in axes) or len(axes) != len(set(axes)):
        raise BadInput(f"axes must be some of {', '.join(AXES)}, each once, got {axes!r} for {text!r}")
    return Wording(text, tuple(axes))
