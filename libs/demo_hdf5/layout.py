"""What a demonstration file holds beside what a key map says that it should."""

import contextlib

import h5py
import numpy as np

from libs.demo_hdf5.key_map import KeyMap, shipped
from libs.demo_hdf5.schema import demo_number
from libs.errors import BadInput
from libs.files import kind_of


@contextlib.contextmanager
def readable(path):
    """Around reading an HDF5 file: BadInput, naming it, where it is missing, truncated or something else."""
    kind = kind_of(path)
    if kind != "file":
        raise BadInput(f"demo file {path} " + ("is a folder" if kind else "does not exist"))
    try:
        yield
    except OSError as error:
        raise BadInput(f"demo file {path} cannot be opened ({error}): truncated or not HDF5; get it again") from None


def demo_names(file: h5py.File) -> list[str]:
    """demo_0, demo_1, ... in the order of their numbers; BadInput where there is none."""
    if not isinstance(file.get("data"), h5py.Group):
        raise BadInput(f"demo file {file.filename} has no group 'data': not a file of demonstrations")
    data = file["data"]
    names = [
        name for name in data if name.startswith("demo_") and name[5:].isdigit() and isinstance(data[name], h5py.Group)
    ]
    if not names:
        raise BadInput(f"demo file {file.filename} holds no demos (data/demo_0, data/demo_1, ...)")
    return sorted(names, key=demo_number)


def are_numbers(values, length: int, dim: int) -> bool:
    """Whether an array or HDF5 dataset holds numbers of shape (length, dim)."""
    return values.shape == (length, dim) and values.dtype.kind in "fiu"


def are_pictures(values, length: int) -> bool:
    """Whether it holds uint8 of shape (length, H, W, 3)."""
    shape = values.shape
    return len(shape) == 4 and shape[0] == length and shape[3] == 3 and values.dtype == np.uint8


def find_key_map(path) -> KeyMap:
    """Which of this project's key maps fits a file: the one most of whose keys its demos have.

    BadInput, naming what the file's first demo has, where there are no more than actions.
    """
    with readable(path), h5py.File(path, "r") as file:
        names = demo_names(file)
        maps = [KeyMap.find(name) for name in shipped()]
        counts = [sum(any(key in file["data"][demo] for demo in names) for key in _keys(key_map)) for key_map in maps]
        if max(counts) < 2:
            found = _datasets(file["data"][names[0]])
            raise BadInput(
                f"demo file {path} fits none of the key maps {', '.join(shipped())}: its {names[0]} has "
                f"{'; '.join(found) or 'nothing'}; write a map of it (libs/demo_hdf5/key_map.py) and "
                "give it: --key_map"
            )
    return maps[int(np.argmax(counts))]


def key_problems(path, key_map: KeyMap) -> list[str]:
    """Of every key of a map that a demo lacks or has in another form, a line: what is found and wanted, and where."""
    found = {}  # (key, kind of problem) -> (text of the first, demos)
    with readable(path), h5py.File(path, "r") as file:
        names = demo_names(file)
        for demo in names:
            group = file["data"][demo]
            actions = group.get(key_map.actions.key)
            length = actions.shape[0] if isinstance(actions, h5py.Dataset) and actions.shape else None
            for key, (what, dim) in _keys(key_map).items():
                kind, text = _problem(group.get(key), length, dim)
                if kind:
                    found.setdefault((f"{key} ({what})", kind), (text, []))[1].append(demo)
    return [f"{key}: {text} in {_listed(demos, len(names))}" for (key, _), (text, demos) in found.items()]


def _keys(key_map: KeyMap) -> dict:
    """{key: (what it is, its size, None for pictures)}"""
    keys = {key_map.actions.key: ("actions", key_map.actions.dim)}
    keys |= {key: (f"view {view}", None) for view, key in key_map.views.items()}
    return keys | {place.key: (f"proprio {part}", place.dim) for part, place in key_map.proprio.items()}


def _problem(data, length: int | None, dim: int | None) -> tuple[str, str]:
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
