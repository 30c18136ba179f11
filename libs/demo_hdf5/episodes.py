"""Recording somebody's own robot: a folder with a file per episode, and the key map that reads them.

writer = EpisodeWriter("data/mine", cameras=("front", "wrist"), state={"joints": 7, "gripper": 1}, action_dim=8,
                       rate=20)
for _ in range(50):
    with writer.episode("put the cup on the shelf") as episode:
        while robot.is_driven():
            pictures, joints, gripper = robot.look()
            action = robot.step()
            episode.add(pictures, {"joints": joints, "gripper": gripper}, action)

data/mine/key_map.json           DATA.KEY_MAP
data/mine/episode_000000.hdf5    data/demo_0/{actions, obs/CAMERA, obs/PART}, in robomimic's layout
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from libs.demo_hdf5.key_map import KeyMap
from libs.demo_hdf5.output import Output
from libs.demo_hdf5.schema import IMAGE_CONVENTIONS, STORAGE
from libs.errors import BadInput
from libs.files import make_folder, whole_file, write_whole

MAP_NAME = "key_map.json"
DEMO = "data/demo_0"


class EpisodeWriter:
    """Appends episodes to a folder, new or its own, each in a file that appears when the episode is complete.

    An episode that ends in an exception, such as a full disk's OSError, leaves nothing, and so does one that is cut
    off by a kill or a power cut; those before it stay. Frames go to the disk one by one, so that an episode may be
    longer than memory.

    folder: where; cameras: their names, the main one first; state: {part of the robot's state: numbers in it};
    action_dim: numbers per action; rate: frames a second; packed: compress pictures (gzip 1: half the space, about
    10 ms for 640 x 480 pixels), False: store them as they are, where the robot leaves no time.

    BadInput: a name that is none, or a folder that was recorded otherwise.
    """

    def __init__(
        self,
        folder: Path | str,
        cameras: Iterable[str],
        state: Mapping[str, int],
        action_dim: int,
        rate: float,
        packed: bool = True,
    ) -> None:
        if not rate > 0:
            raise BadInput(f"a rate is frames a second, above 0, not {rate!r}")
        self.folder, self.rate = make_folder(folder), float(rate)
        self.key_map = self._write_map(list(cameras), dict(state), action_dim)
        self._packing = STORAGE if packed else {}
        self._sizes: dict[str, tuple] = {}  # of every camera, as its first frame has it

    def _write_map(self, cameras, state, action_dim):
        tree = {
            "about": f"recorded by EpisodeWriter at {self.rate:g} frames a second",
            "views": {camera: f"obs/{camera}" for camera in cameras},
            "upside_down": False,
            "proprio": {part: {"key": f"obs/{part}", "dim": dim} for part, dim in state.items()},
            "actions": {"key": "actions", "dim": action_dim},
            "instruction": {"attribute": "problem_info", "json_key": "language_instruction", "text": ""},
        }
        twice = [name for name in cameras if name in state or cameras.count(name) > 1]
        if twice:
            raise BadInput(f"{twice[0]!r} names two things: cameras and parts of the state need names of their own")
        path = self.folder / MAP_NAME
        known = KeyMap.load(path) if path.exists() else None
        if known is None:
            write_whole(path, json.dumps(tree, indent=2) + "\n")
            try:
                return KeyMap.load(path)
            except BadInput:
                path.unlink()
                raise
        hidden = self.folder / f".{MAP_NAME}"
        write_whole(hidden, json.dumps(tree))
        try:
            wanted = KeyMap.load(hidden)
        finally:
            hidden.unlink()
        if known != wanted or known.about != wanted.about:
            raise BadInput(f"{self.folder} was recorded with other cameras, states, actions or rate: see {path}")
        return known

    @contextlib.contextmanager
    def episode(self, instruction: str, attrs: Mapping[str, str | float] | None = None) -> Iterator["Episode"]:
        """The next episode; it is kept where the block ends well and holds a step. attrs: more attributes of its
        `data`. BadInput: an instruction without a word, no step."""
        if not any(map(str.isalnum, instruction)):
            raise BadInput(f"an instruction says in words what is done, not {instruction!r}")
        path = self.folder / f"episode_{self._next():06d}.hdf5"
        hidden = path.with_name(f".{path.name}")  # readers of the folder look at no hidden files
        with whole_file(hidden, sync=True) as part, contextlib.closing(Output(part)) as output:
            episode = Episode(output, self.key_map, self._packing, self._sizes)
            yield episode
            if not episode.length:
                raise BadInput(f"{path}: an episode without a step: nothing was added")
            episode.finish(instruction, self.rate, attrs or {})
        os.rename(hidden, path)

    def paths(self) -> list[Path]:
        """The files of the complete episodes, in their order."""
        return sorted(self.folder.glob("episode_[0-9]*.hdf5"), key=_number)

    def _next(self):
        return max(map(_number, self.paths()), default=-1) + 1


def _number(path):
    return int(path.stem.rpartition("_")[2])


class Episode:
    """One episode in the making, of an EpisodeWriter."""

    def __init__(self, output: Output, key_map: KeyMap, packing: dict, sizes: dict[str, tuple]) -> None:
        self._output, self._map, self._packing, self._sizes = output, key_map, packing, sizes
        self._rows: dict[str, list] = {place.key: [] for place in (key_map.actions, *key_map.proprio.values())}
        self.length = 0

    def add(self, pictures: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], action: np.ndarray) -> None:
        """One step: what was seen and known, and the action that was taken on it.

        pictures: {camera: (H, W, 3) uint8 RGB, upright}, of any size that stays; state: {part: its numbers}; action:
        (action_dim,). More entries are ignored. BadInput: one is missing, has another shape, or is not finite.
        """
        rows = {self._map.actions.key: self._numbers("the action", action, self._map.actions.dim)}
        for part, place in self._map.proprio.items():
            rows[place.key] = self._numbers(part, state.get(part), place.dim)
        frames = {view: self._frame(view, pictures.get(view)) for view in self._map.views}
        with self._output.writing() as file:
            for view, frame in frames.items():
                self._append(file, f"{DEMO}/{self._map.views[view]}", frame)
        for key, values in rows.items():
            self._rows[key].append(values)
        self.length += 1

    def finish(self, instruction: str, rate: float, attrs: Mapping[str, str | float]) -> None:
        """Write what belongs to the whole episode."""
        more = {
            "problem_info": json.dumps({"language_instruction": instruction}),
            "env_args": json.dumps({"env_kwargs": {"control_freq": rate}}),
            "macros_image_convention": IMAGE_CONVENTIONS[False],
            "num_demos": 1,
            "total": self.length,
            **attrs,
        }
        with self._output.writing() as file:
            for key, rows in self._rows.items():
                file[f"{DEMO}/{key}"] = np.stack(rows)
            file[DEMO].attrs["num_samples"] = self.length
            file["data"].attrs.update(more)

    def _numbers(self, name, values, dim):
        found = np.asarray(values, dtype=np.float64) if values is not None else None
        if found is None or found.shape != (dim,):
            what = "is missing" if found is None else f"has shape {found.shape}"
            raise BadInput(f"step {self.length}: {name} {what}, expected {dim} numbers")
        if not np.isfinite(found).all():
            raise BadInput(f"step {self.length}: {name} holds a number that is not finite: {found.tolist()}")
        return found

    def _frame(self, view, picture):
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            raise BadInput(f"step {self.length}: camera {view} is missing, or no (H, W, 3) uint8 picture")
        expected = self._sizes.setdefault(view, picture.shape)
        if picture.shape != expected:
            raise BadInput(f"step {self.length}: camera {view} has shape {picture.shape}, expected {expected}")
        return picture

    def _append(self, file, key, frame):
        if key not in file:
            shape, more = (0, *frame.shape), {"maxshape": (None, *frame.shape), "chunks": (1, *frame.shape)}
            file.create_dataset(key, shape, dtype=np.uint8, **more, **self._packing)
        file[key].resize(self.length + 1, axis=0)
        file[key][self.length] = frame
