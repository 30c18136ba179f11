"""The language goals that a demonstration file states, in any of the ways that its key map says."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from libs.demo_hdf5.key_map import DemoText, InstructionPlace
from libs.demo_hdf5.opening import find
from libs.errors import BadInput


def plain(value: Any) -> Any:
    """HDF5 attribute → str or numpy value."""
    return value.decode() if isinstance(value, bytes) else value


def stated_by_file(path: Path | str, attrs: dict, place: InstructionPlace) -> str:
    """What the attributes of a file state, else the map's text; BadInput where there is neither."""
    attribute, json_key, fixed = place.attribute, place.json_key, place.text
    try:
        return _read(attrs[attribute], json_key)
    except (KeyError, TypeError, ValueError) as error:
        if fixed:
            return fixed
        at = f"{json_key or 'instruction'} in data's {attribute or 'attributes'}"
        raise BadInput(f"demo file {path}: no {at}") from error


def stated_by_demo(demo: h5py.Group, place: DemoText | None, where: str) -> str:
    """What a demo states where its map says that it may, "" where it states nothing.

    where: "demo file X, demo_0", for messages. BadInput where what stands there is no text.
    """
    if place is None:
        return ""
    holder = find(demo, place.key, where) if place.key else demo
    if holder is None or (place.attribute and place.attribute not in holder.attrs):
        return ""
    if not place.attribute and not isinstance(holder, h5py.Dataset):
        return ""
    try:
        return _read(holder.attrs[place.attribute] if place.attribute else holder[()], place.json_key)
    except (KeyError, TypeError, ValueError) as error:
        at = "/".join(filter(None, (place.key, place.attribute, place.json_key)))
        raise BadInput(f"{where}: {at} is no text ({error})") from None


def _read(stored: Any, json_key: str) -> str:
    """BadInput never: KeyError, TypeError or ValueError where it is none."""
    value = plain(stored)
    if (isinstance(value, np.ndarray) and value.dtype == np.uint8) or isinstance(value, np.void):
        value = value.tobytes().rstrip(b"\0").decode()
    elif isinstance(value, np.ndarray) and value.ndim == 0:
        value = plain(value[()])
    return _sentence(json.loads(value)[json_key] if json_key else value).strip('"')  # some of LIBERO's quote the text


def _sentence(stored):
    """A language goal as it stands in a file: a text, the list of its words (as LIBERO's task files are parsed) or of
    its characters (as some of its demonstration files have it). TypeError where it is none of them."""
    if isinstance(stored, str):
        return stored
    if not isinstance(stored, (list, np.ndarray)):
        raise TypeError(f"an instruction is a text or a list of texts, not {stored!r}")
    parts = [plain(part) for part in stored]
    characters = all(len(part) == 1 for part in parts)
    return "".join(parts) if characters else " ".join(" ".join(parts).split())
