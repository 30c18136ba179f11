"""What a demonstration file holds beside what a key map says that it should."""

import contextlib
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from libs.demo_hdf5.key_map import LIBERO, KeyMap, shipped
from libs.demo_hdf5.opening import Unreadable, check_readable, find, open_file, sound
from libs.demo_hdf5.schema import demo_number
from libs.demo_hdf5.stored import are_pictures
from libs.errors import BadInput

DEMO = re.compile(r"demo_\d+")


def demo_groups(file: h5py.File, key_map: KeyMap) -> dict[str, h5py.Group]:
    """{"demo_0": its group, ...} in the order of their numbers; BadInput where there is none, or one leads nowhere.

    Where the map says that a file is one demo: {"demo_0": the file}.
    """
    where = f"demo file {file.filename}"
    if not key_map.demos:
        if find(file, key_map.actions.key, where) is None:
            raise BadInput(f"{where} has no {key_map.actions.key}: not a file of demonstrations")
        return {"demo_0": file}
    data = find(file, "data", where)
    if not isinstance(data, h5py.Group):
        raise BadInput(f"{where} has no group 'data': not a file of demonstrations")
    names = sorted((name for name in data if DEMO.fullmatch(str(name))), key=demo_number)
    groups = {name: find(file, f"data/{name}", where) for name in names}
    groups = {name: group for name, group in groups.items() if isinstance(group, h5py.Group)}
    if not groups:
        raise BadInput(f"{where} holds no demos (data/demo_0, data/demo_1, ...)")
    return groups


def are_numbers(values: np.ndarray | h5py.Dataset, length: int, dim: int) -> bool:
    """Whether an array or HDF5 dataset holds numbers of shape (length, dim)."""
    return values.shape == (length, dim) and values.dtype.kind in "fiu"


def find_key_map(path: Path | str) -> KeyMap:
    """Which of this project's key maps fits a file: the one most of whose keys its demos have.

    BadInput, naming what the file's first demo has, where there are no more than actions.
    """
    with open_file(path) as file, sound(path):
        maps = [KeyMap.find(name) for name in shipped()]
        counts = [_fitting_keys(file, key_map) for key_map in maps]
        if max(counts) < 2:
            demos = demo_groups(file, LIBERO)
            first = next(iter(demos))
            found = _datasets(demos[first])
            raise BadInput(
                f"demo file {path} fits none of the key maps {', '.join(shipped())}: its {first} has "
                f"{'; '.join(found) or 'nothing'}; write a map of it (libs/demo_hdf5/key_map.py) and "
                "give it: --key_map"
            )
    return maps[int(np.argmax(counts))]


def key_problems(path: Path | str, key_map: KeyMap) -> list[str]:
    """Of every key of a map that a demo lacks or has in another form, a line: what is found and wanted, and where."""
    found: dict[tuple[str, str], tuple[str, list[str]]] = {}  # (key, kind of problem) -> (text of the first, demos)
    with open_file(path) as file, sound(path):
        demos = demo_groups(file, key_map)
        total = len(demos)
        for demo, group in demos.items():
            length = None  # of the actions, which come first
            for key, (what, dim) in _keys(key_map).items():
                data = None
                try:
                    data = find(group, key, demo)
                    kind, text = _problem(data, length, dim)
                    if not kind:
                        check_readable(data, f"{demo}: {key}")
                except Unreadable as error:
                    kind, text = "unreadable", f"{error};"
                if key == key_map.actions.key and isinstance(data, h5py.Dataset) and data.shape:
                    length = data.shape[0]
                if kind:
                    found.setdefault((f"{key} ({what})", kind), (text, []))[1].append(demo)
    return [f"{key}: {text} in {_listed(having, total)}" for (key, _), (text, having) in found.items()]


def _fitting_keys(file: h5py.File, key_map: KeyMap) -> int:
    """How many keys of a map a file's demos have."""
    try:
        demos = demo_groups(file, key_map)
    except Unreadable:
        raise
    except BadInput:
        return 0
    return sum(_has(demos, key) for key in _keys(key_map))


def _has(demos: dict[str, h5py.Group], key: str) -> bool:
    """Whether any demo has something of that name, be it a link that leads nowhere."""
    with contextlib.suppress(Unreadable):
        return any(find(group, key, "") is not None for group in demos.values())
    return True


def _keys(key_map: KeyMap) -> dict:
    """{key: (what it is, its size, None for pictures)}"""
    keys = {key_map.actions.key: ("actions", key_map.actions.dim)}
    keys |= {key: (f"view {view}", None) for view, key in key_map.views.items()}
    return keys | {place.key: (f"proprio {part}", place.dim) for part, place in key_map.proprio.items()}


def _problem(data: Any, length: int | None, dim: int | None) -> tuple[str, str]:
    """(kind, text) of what is wrong with one array, ("", "") if nothing. length: of the actions, if there are any."""
    if not isinstance(data, h5py.Dataset):
        return "missing", "missing"
    rows = length if length is not None else next(iter(data.shape), 0)
    if rows > 0 and (are_pictures(data, rows) if dim is None else are_numbers(data, rows, dim)):
        return "", ""
    steps = "T" if length is None or rows == 0 else length
    wanted = f"uint8 ({steps}, H, W, 3)" if dim is None else f"numbers ({steps}, {dim})"
    return f"{data.dtype} {data.shape[1:]}", f"{data.dtype} {data.shape}, wanted {wanted},"


def _listed(demos: list[str], total: int) -> str:
    if len(demos) == total:
        return f"all {total} demos"
    return f"{demos[0]} and {len(demos) - 1} more" if len(demos) > 1 else demos[0]


def _datasets(group: h5py.Group) -> list[str]:
    """ "obs/eef_pos float32 (57, 3)", ... of every array below a group."""
    found = []

    def note(key, data):
        if isinstance(data, h5py.Dataset):
            found.append(f"{key} {data.dtype} {data.shape}")

    group.visititems(note)
    return found
