"""One line of a manifest.

    {"image_paths": {"agentview": "frames/.../000012_agentview.png", ...}, "instruction": "pick up ...",
     "target_action_text": "509 500 651 ...", "H": 8, "D": 7, "file": "...", "demo": "demo_3", "frame": 12}

The first five keys make a sample; with one view, "image_path" may name its picture. Paths are relative to the manifest,
or absolute. The rest says where the sample comes from: only manifests of tools/build_manifest.py must have it ("split",
too, where the demonstration file had lists of demos to train on and to hold out).

Other people's manifests hide digits of the text ("50X"): each X, ? or _ in a number is a digit that is not known.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from libs.errors import BadInput
from libs.files import kind_of

MANIFEST, INFO, SUMS = "manifest.jsonl", "manifest_info.json", "SHA256SUMS"  # the files of a manifest's folder
HIDDEN = "X"  # a digit that is not known, in `Line.text`, whichever character the manifest has
LONGEST = 1 << 20  # bytes; a longer line is no sample
_MASKS = str.maketrans("?_", HIDDEN * 2)
_WORD = re.compile(r"[0-9X]+")


class BadLine(BadInput):
    """What is wrong with a line."""


@dataclass(frozen=True)
class Rules:
    """What the lines of a manifest must fit. folder: the manifest's; views: in the order of `Line.pictures`; the text
    holds horizon x action_dim integers from 0 to num_bins; instruction: of every line in place of its own, "": that."""

    folder: str
    views: tuple
    horizon: int
    action_dim: int
    num_bins: int
    instruction: str = ""


@dataclass(frozen=True)
class Line:
    """A sample. pictures: a path per view; text: integers with single spaces between, hidden digits as HIDDEN; numbers:
    its integers, None for one with a hidden digit.

    file, demo, frame: where it comes from, split: "train", "valid" or "neither"; None where the line does not say.
    """

    pictures: list
    instruction: str
    text: str
    numbers: list
    file: str | None
    demo: str | None
    frame: int | None
    split: str | None


def manifest_file(entry: Path | str) -> Path:
    """The manifest `entry`, or the manifest.jsonl of the folder `entry`; BadInput where there is none."""
    entry, is_folder = Path(entry), kind_of(entry) == "folder"
    path = entry / MANIFEST if is_folder else entry
    if kind_of(path) != "file":
        raise BadInput(f"{entry} holds no {MANIFEST}" if is_folder else f"{entry} does not exist")
    return path


def first_line(path: Path | str) -> dict:
    """The first line of a manifest as it stands there, {} where it is no JSON object."""
    _, _, raw = next(numbered_lines(path), (0, 0, b""))
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def numbered_lines(path: Path | str) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, offset in bytes, line as bytes) of every line of a file; blank ones are left out.

    Of a line longer than LONGEST come the first LONGEST + 1 bytes.
    """
    with open(path, "rb") as file:
        number = offset = 0
        while raw := file.readline(LONGEST + 1):
            number += 1
            length = len(raw)
            rest = raw
            while not rest.endswith(b"\n") and (rest := file.readline(LONGEST)):
                length += len(rest)
            if not raw.isspace():
                yield number, offset, raw
            offset += length


def read_line(raw: bytes, rules: Rules) -> Line:
    """A line's bytes -> Line. The pictures are not looked at: see `check_pictures`.

    Raises:
        BadLine: not JSON, a key missing or of the wrong type, other sizes than the rules', text that is not as many
            integers in range.
    """
    if len(raw) > LONGEST:
        raise BadLine(f"longer than {LONGEST:,} bytes")
    try:
        found = json.loads(raw.rstrip())
    except (ValueError, RecursionError) as error:
        raise BadLine(f"not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise BadLine("not a JSON object")
    for key, wanted in (("H", rules.horizon), ("D", rules.action_dim)):
        if type(found.get(key)) is not int or found[key] != wanted:
            raise BadLine(f"{key} is {found[key]!r}, not {wanted}" if key in found else f"no {key}")
    instruction = rules.instruction or _text(found, "instruction")
    if "<|" in instruction:
        raise BadLine(f'the instruction holds "<|", with which the marks of the model begin: {instruction[:60]!r}')
    text, numbers = _read_text(_text(found, "target_action_text"), rules)
    return Line(
        pictures=[os.path.join(rules.folder, path) for path in _picture_paths(found, rules.views)],
        instruction=instruction,
        text=text,
        numbers=numbers,
        file=found["file"] if isinstance(found.get("file"), str) else None,
        demo=str(found["demo"]) if isinstance(found.get("demo"), str | int) else None,
        frame=found["frame"] if type(found.get("frame")) is int else None,
        split=found["split"] if found.get("split") in ("train", "valid", "neither") else None,
    )


def check_pictures(line: Line) -> None:
    """BadLine where a picture's file is missing or empty; it is not opened."""
    for path in line.pictures:
        try:
            size = os.stat(path).st_size
        except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
            reason = error.strerror if isinstance(error, OSError) else error
            raise BadLine(f"picture {path} cannot be found ({reason})") from None
        if size == 0:
            raise BadLine(f"picture {path} is empty")


def _text(found, key):
    if key not in found:
        raise BadLine(f"no {key}")
    if not isinstance(found[key], str) or not found[key].strip():
        raise BadLine(f"{key} is {found[key]!r}, not a text")
    return found[key]


def _picture_paths(found, views):
    paths = found.get("image_paths")
    if paths is None and "image_path" in found:
        if len(views) != 1:
            raise BadLine(f"one picture (image_path), but {len(views)} views are asked for: {', '.join(views)}")
        paths = {views[0]: found["image_path"]}
    if not isinstance(paths, dict):
        raise BadLine("no image_path" if paths is None else "image_paths is not an object {view: path}")
    for view in views:
        if view not in paths:
            raise BadLine(f"no picture of view {view}; there are {', '.join(map(str, paths))}")
        if not isinstance(paths[view], str) or not paths[view]:
            raise BadLine(f"the path of view {view} is {paths[view]!r}, not a text")
    return [paths[view] for view in views]


def _read_text(text, rules):
    """(`Line.text`, `Line.numbers`)"""
    words = text.translate(_MASKS).split()
    numbers = _read_plain(words, rules)
    if numbers is not None:
        return " ".join(map(str, numbers)), numbers
    longest = len(str(rules.num_bins))
    numbers = [_read_word(word, longest) for word in words]
    for word, number in zip(words, numbers, strict=True):
        # Of a hidden one the smallest number that it can be.
        if (int(word.replace(HIDDEN, "0")) if number is None else number) > rules.num_bins:
            raise BadLine(f"{word} lies outside 0 to {rules.num_bins}")
    if len(words) != rules.horizon * rules.action_dim:
        wanted = f"{rules.horizon} x {rules.action_dim} = {rules.horizon * rules.action_dim}"
        raise BadLine(f"{len(words)} integers, not {wanted}")
    texts = (word if number is None else str(number) for word, number in zip(words, numbers, strict=True))
    return " ".join(texts), numbers


def _read_plain(words, rules):
    """The integers of nearly every line, several times as fast; None where something needs a closer look."""
    joined = "".join(words)
    if len(words) != rules.horizon * rules.action_dim or not (joined.isdigit() and joined.isascii()):
        return None
    if len(max(words, key=len)) > len(str(rules.num_bins)):  # keeps int() away from absurdly long ones
        return None
    numbers = [int(word) for word in words]
    return numbers if max(numbers) <= rules.num_bins else None


def _read_word(word, longest):
    """The integer, None where a digit of it is hidden."""
    if not _WORD.fullmatch(word):
        raise BadLine(f"{word[:20]!r} is not an integer")
    if len(word.lstrip("0")) > longest:  # also keeps int() away from absurdly long ones
        raise BadLine(f"{word[:20]} is longer than {longest} digits")
    return None if HIDDEN in word else int(word)
