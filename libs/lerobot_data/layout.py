"""What a LeRobot data set says of itself: its folder `meta`, of version 2.0, 2.1 or 3.0.

v2.x   meta/{info.json, tasks.jsonl, episodes.jsonl}; a parquet file and videos per episode
v3.0   meta/{info.json, tasks.parquet, episodes/*/*.parquet}; many episodes in a file
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.errors import BadInput
from libs.files import kind_of, read_json_object, read_text
from libs.lerobot_data.marks import INFO, OLD_INFO
from libs.lerobot_data.parquet import read_columns, sorted_files

VERSIONS = ("v2.0", "v2.1", "v3.0")
# Columns that every set has: what stands where.
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
NUMBERS = ("float", "int", "uint", "bool")  # how the types of numbers begin


@dataclass(frozen=True)
class Camera:
    """kind: "video" or "image" (a picture file in each row); height, width: of its pictures, pixels, as declared."""

    name: str
    kind: str
    height: int
    width: int


@dataclass(frozen=True)
class Vector:
    """`dim` numbers in each row: a state, an action, or whatever was recorded. names: one for each."""

    name: str
    dim: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Clip:
    """An episode's part of a video file: from `start` seconds on, to `end`, None where the file is the episode's."""

    path: Path
    start: float
    end: float | None


@dataclass(frozen=True)
class Episode:
    """As the set's table of episodes has it. tasks: of its frames, empty where the table does not say; clips: {camera:
    Clip} of the cameras that are videos."""

    index: int
    length: int
    tasks: tuple[str, ...]
    clips: dict[str, Clip]


@dataclass(frozen=True)
class Layout:
    """fps: frames a second; tasks: {task_index: text}; data_files: the files with the rows, in their order."""

    root: Path
    version: str
    robot: str
    fps: float
    cameras: dict[str, Camera]
    vectors: dict[str, Vector]
    tasks: dict[int, str]
    episodes: tuple[Episode, ...]
    data_files: tuple[Path, ...]
    info: dict

    def check_cameras(self, names: Iterable[str]) -> None:
        """BadInput, with those that there are, where one is not of this set."""
        self._check(names, self.cameras, "camera")

    def check_vectors(self, names: Iterable[str]) -> None:
        """BadInput, with those that there are, where one is not of this set."""
        self._check(names, {name: vector.dim for name, vector in self.vectors.items()}, "numbers")

    def _check(self, names, known, what):
        for name in names:
            if name not in known:
                there = ", ".join(f"{key} ({value})" if what == "numbers" else key for key, value in known.items())
                raise BadInput(f"{self.root} has no {what} {name!r}; it has {there or 'none'}")


def read_layout(root: Path | str) -> Layout:
    """What stands in `meta`. BadInput, naming file and entry, for another version and for what is missing or wrong."""
    root = Path(root)
    if kind_of(root / INFO) != "file":
        raise BadInput(_not_a_set(root))
    info = read_json_object(root / INFO)
    version, path = info.get("codebase_version"), root / INFO
    if version not in VERSIONS:
        raise BadInput(_other_version(path, version))
    features = _entry(info, "features", dict, path)
    cameras, vectors = {}, {}
    for name, feature in features.items():
        kind, shape = _kind_and_shape(name, feature, path)
        if kind in ("video", "image"):
            cameras[name] = Camera(name, kind, *_picture_size(name, feature, shape, path))
        elif kind.startswith(NUMBERS) and name not in BOOKKEEPING:
            dim = math.prod(shape)
            vectors[name] = Vector(name, dim, _names_of(feature.get("names"), name, dim))
    fps = _entry(info, "fps", (int, float), path)
    if isinstance(fps, bool) or not fps > 0:
        raise BadInput(f"{path}: fps must be a number above 0, got {fps!r}")
    videos = [name for name, camera in cameras.items() if camera.kind == "video"]
    read = _read_v3 if version == "v3.0" else _read_v2
    tasks, episodes, files = read(root, info, videos)
    robot = str(info.get("robot_type") or "")
    return Layout(root, version, robot, float(fps), cameras, vectors, tasks, tuple(episodes), tuple(files), info)


def _not_a_set(root):
    if not kind_of(root):
        return f"{root} does not exist"
    if kind_of(root / OLD_INFO):
        return _other_version(root, "1.x")
    return f"{root} is no LeRobot data set: it has no {INFO}"


def _other_version(path, version):
    text = f"{path}: a LeRobot data set of version {version}; this reads {', '.join(VERSIONS)}"
    if str(version).lstrip("v").startswith("1"):
        text += ". LeRobot's own script lerobot/common/datasets/v2/convert_dataset_v1_to_v2.py brings it to v2.0"
    return text


def _read_v2(root, info, videos):
    path = root / INFO
    chunk_size = _entry(info, "chunks_size", int, path)
    if chunk_size < 1:
        raise BadInput(f"{path}: chunks_size must be at least 1, got {chunk_size}")
    tasks = {}
    for where, line in json_lines(root / "meta/tasks.jsonl"):
        tasks[_entry(line, "task_index", int, where)] = _entry(line, "task", str, where)
    episodes, files = [], []
    for where, line in json_lines(root / "meta/episodes.jsonl"):
        index, length = (_entry(line, name, int, where) for name in ("episode_index", "length"))
        place = {"episode_chunk": index // chunk_size, "episode_index": index}
        clips = {
            name: Clip(root / _filled(info, "video_path", path, video_key=name, **place), 0.0, None) for name in videos
        }
        episodes.append(Episode(index, length, _texts(line.get("tasks")), clips))
        if length > 0:
            files.append(root / _filled(info, "data_path", path, **place))
    return tasks, episodes, files


def _read_v3(root, info, videos):
    table = root / "meta/tasks.parquet"
    # pandas' index, named by version: __index_level_0__, task
    columns = read_columns(table, ["task_index"], optional=["__index_level_0__", "task"])
    texts = next((columns[name] for name in ("__index_level_0__", "task") if name in columns), None)
    if texts is None:
        raise BadInput(f"{table} has no column of texts, __index_level_0__ or task")
    tasks = dict(zip(columns["task_index"].to_pylist(), map(str, texts.to_pylist()), strict=True))
    keys = {name: f"videos/{name}" for name in videos}
    needed = ["episode_index", "length"]
    for key in keys.values():
        needed += [f"{key}/{part}" for part in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
    episodes = []
    for path in sorted_files(root / "meta/episodes"):
        columns = read_columns(path, needed, optional=["tasks"])
        for row in _rows(columns):
            clips = {name: _clip(root, info, name, row, key) for name, key in keys.items()}
            episodes.append(Episode(row["episode_index"], row["length"], _texts(row.get("tasks")), clips))
    if not episodes:
        raise BadInput(f"{root / 'meta/episodes'} holds no table of episodes (chunk-000/file-000.parquet)")
    files = sorted_files(root / "data")
    if not files:
        raise BadInput(f"{root / 'data'} holds no parquet file (chunk-000/file-000.parquet)")
    return tasks, episodes, files


def _rows(columns):
    lists = {name: column.to_pylist() for name, column in columns.items()}
    return (dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True))


def _clip(root, info, name, row, key):
    place = {part: row[f"{key}/{part}"] for part in ("chunk_index", "file_index")}
    path = root / _filled(info, "video_path", root / INFO, video_key=name, **place)
    return Clip(path, float(row[f"{key}/from_timestamp"]), float(row[f"{key}/to_timestamp"]))


def json_lines(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where: file and number of the line, object) of every line of a .jsonl file; BadInput where one is no object."""
    # Not splitlines: it would end lines within texts, too, at U+2028 and the like, which JSON writes as they are.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            found = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{where} is not valid JSON: {error}") from None
        if not isinstance(found, dict):
            raise BadInput(f"{where} is not a JSON object")
        yield where, found


def _entry(tree, name, kind, where):
    """tree[name]; BadInput where it is missing or of another type."""
    value = tree.get(name)
    if not isinstance(value, kind):
        raise BadInput(f"{where}: {name} is {value!r}" if name in tree else f"{where} has no {name}")
    return value


def _filled(info, name, path, **place):
    pattern = _entry(info, name, str, path)
    try:
        return pattern.format(**place)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path}: {name} {pattern!r} cannot be filled in with {place} ({error!r})") from None


def _kind_and_shape(name, feature, path):
    where = f"{path}: feature {name}"
    if not isinstance(feature, dict):
        raise BadInput(f"{where} is {feature!r}, expected an object with dtype and shape")
    kind, shape = _entry(feature, "dtype", str, where), _entry(feature, "shape", list, where)
    if not all(type(size) is int and size > 0 for size in shape):
        raise BadInput(f"{where}: shape {shape} must be whole numbers above 0")
    return kind, shape


def _picture_size(name, feature, shape, path):
    """(height, width), however the axes are declared: most say (H, W, C), some (C, H, W)."""
    if len(shape) != 3:
        raise BadInput(f"{path}: camera {name} has shape {shape}, expected height, width, channels")
    names = feature.get("names")
    first = str(names[0]) if isinstance(names, list) and names else ""
    channels_first = first.startswith("channel") or (shape[0] in (1, 3) and shape[2] not in (1, 3))
    return shape[1:] if channels_first else shape[:2]


def _names_of(names, feature, dim):
    """One name for each number: names come as a list, as a list of lists, as {"motors": [...]}, or not at all."""
    found = []

    def collect(tree):
        for part in tree.values() if isinstance(tree, dict) else tree:
            if isinstance(part, dict | list):
                collect(part)
            else:
                found.append(str(part))

    if isinstance(names, dict | list):
        collect(names)
    return tuple(found) if len(found) == dim else tuple(f"{feature}.{n}" for n in range(dim))


def _texts(value):
    return tuple(map(str, value)) if isinstance(value, list) else ()
