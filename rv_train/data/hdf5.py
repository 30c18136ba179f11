"""DATA.SOURCE hdf5: demonstration files in LIBERO's layout, or any that a key map describes (`libs.demo_hdf5`)."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from yacs.config import CfgNode

from libs.demo_hdf5 import LIBERO, DemoFile, KeyMap, demo_files
from libs.demo_hdf5.schema import json_object
from libs.errors import BadInput
from libs.files.kept_open import KeptOpen
from rv_train.data import checks, hdf5_checks
from rv_train.data.base import Demo, Facts
from rv_train.data.trajectories import Trajectories, digest_of, side_or_size

OPEN = KeptOpen(256)  # files: an operating system allows a process about a thousand


class DemoDataset(Trajectories):
    """Every frame of every demo of some files, in file and demo order. It can be pickled: a process that gets it reads
    no file before its first frame.

    Args:
        paths: demo files.
        views: cameras to read.
        horizon: actions per chunk; a chunk that runs over the demo's end repeats its last action.
        key_map: the layout of the files, a KeyMap.
        proprio: parts of the robot's state to read, names of the map; a sample has them one after another.
        instruction: the language goal of every file; "": what the files state.

    Raises:
        BadInput: a file that cannot be used, naming file and demo; demos that are not alike (see `checks`).
    """

    def __init__(
        self,
        paths: Iterable[Path | str],
        views: Iterable[str],
        horizon: int,
        key_map: KeyMap = LIBERO,
        proprio: Iterable[str] = (),
        instruction: str = "",
    ) -> None:
        views, proprio, self.key_map = list(views), list(proprio), key_map
        files = [OPEN.used(DemoFile(path, key_map, instruction)) for path in paths]
        checks.refuse(hdf5_checks.picture_problems(files, views))
        checks.refuse(hdf5_checks.instruction_problems(files))
        demos = [rows for file in files for rows in read_rows(OPEN.used(file), proprio)]
        checks.refuse(checks.number_problems(demos))
        super().__init__(demos, views, horizon, facts_of(files[0]), proprio, files[0].render)

    def picture(self, number: int, frame: int, view: str) -> np.ndarray:
        """See `Demonstrations`; any camera of the files."""
        rows = self.demos[number]
        return OPEN.used(rows.file).frame(rows.name, frame, view)

    def own_split(self) -> list[str | None]:
        """See `Demonstrations`: by the lists mask/train and mask/valid of robomimic's files. With one of them the other
        is the rest."""
        listed = {file: split_by_masks(file, [rows.name for rows in demos]) for file, demos in self._by_file().items()}
        return [listed[rows.file].get(rows.name) for rows in self.demos]

    def _by_file(self) -> dict[DemoFile, list[Demo]]:
        demos: dict[DemoFile, list[Demo]] = {}
        for rows in self.demos:
            demos.setdefault(rows.file, []).append(rows)
        return demos

    def fingerprint(self) -> str:
        """See `Demonstrations`; pictures: the first of every demo, of the main view.

        Of data in another layout than LIBERO's it covers also what of the key map it was read by. Where the files and
        the map lie and how the files are packed does not matter.
        """
        goals = []  # of a file its one instruction, or that of each demo
        for demos in self._by_file().values():
            texts = [rows.instruction for rows in demos]
            goals += texts[:1] if len(set(texts)) == 1 else texts
        about: list[Any] = [goals, self.views, self.render, side_or_size(self.facts.cameras[self.key_map.main_view])]
        if self.parts or self.key_map != LIBERO:
            about.append(self.key_map.layout(self.views, list(self.parts)))
        return digest_of(about, self.demos, self.first_pictures())

    def first_pictures(self) -> Iterator[np.ndarray]:
        """The main view's first frame of every demo, one after another: (H, W, 3) uint8."""
        return (self.picture(number, 0, self.key_map.main_view) for number in range(len(self.demos)))

    def about(self) -> dict[str, Any]:
        """See `Demonstrations`."""
        return {"key_map": self.key_map.name}

    def remarks(self) -> list[str]:
        """See `Demonstrations`."""
        return [*hdf5_checks.text_remarks(self.files), *hdf5_checks.time_remarks(self.files)]


class Hdf5:
    """The `Source` of demonstration files."""

    NUMBERS, PROPRIO = True, True
    ABOUT = "HDF5 files, or folders that are searched for them"

    def fits(self, entry: Path) -> bool:
        """See `Source`."""
        if entry.is_file():
            return h5py.is_hdf5(entry)
        try:
            return entry.is_dir() and bool(demo_files(entry))
        except BadInput:
            return False

    def look(self, cfg: CfgNode) -> Facts:
        """See `Source`: what the first file has of what the key map names."""
        key_map = find_key_map(cfg)
        if cfg.DATA.FILES:
            return facts_of(DemoFile(find_demo_files(cfg.DATA.FILES)[0], key_map))
        return Facts(dict.fromkeys(key_map.views), key_map.actions.dim, dims_of(key_map))

    def open(self, cfg: CfgNode) -> DemoDataset:
        """See `Source`."""
        paths, key_map, data = find_demo_files(cfg.DATA.FILES), key_map_of(cfg), cfg.DATA
        return DemoDataset(paths, data.VIEWS, cfg.ACTION.HORIZON, key_map, data.PROPRIO, data.INSTRUCTION)


def find_key_map(cfg: CfgNode) -> KeyMap:
    """The KeyMap of DATA.KEY_MAP; BadInput where there is none."""
    try:
        return KeyMap.find(cfg.DATA.KEY_MAP)
    except BadInput as error:
        raise BadInput(f"DATA.KEY_MAP: {error}") from None


def key_map_of(cfg: CfgNode) -> KeyMap:
    """The KeyMap of DATA.KEY_MAP; BadInput where it does not exist or has other views, parts or actions than cfg."""
    key_map = find_key_map(cfg)
    try:
        key_map.check_views(cfg.DATA.VIEWS)
        key_map.check_parts(cfg.DATA.PROPRIO)
    except BadInput as error:
        raise BadInput(f"DATA.KEY_MAP, VIEWS and PROPRIO: {error}") from None
    if key_map.actions.dim != cfg.ACTION.DIM:
        raise BadInput(
            f"ACTION.DIM is {cfg.ACTION.DIM}, actions of key map {key_map.name} have {key_map.actions.dim} dimensions"
        )
    return key_map


def facts_of(file: DemoFile) -> Facts:
    """What a file holds of what its key map names; sizes are those of its first demo."""
    sizes = {}
    for view in file.views:
        height, width = file.picture_size(file.demos[0], view)
        sizes[view] = int(height), int(width)
    return Facts(sizes, file.key_map.actions.dim, dims_of(file.key_map), rate_of(file))


def dims_of(key_map: KeyMap) -> dict[str, int]:
    """{part of the robot's state: numbers in it}"""
    return {part: place.dim for part, place in key_map.proprio.items()}


def rate_of(file: DemoFile) -> float | None:
    """Frames a second, from robosuite's env_args; None where these state none."""
    kwargs = json_object(file.attrs, "env_args").get("env_kwargs")
    rate = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
    return float(rate) if isinstance(rate, int | float) and rate > 0 and rate is not True else None


def read_rows(file: DemoFile, parts: Sequence[str]) -> Iterator[Demo]:
    """Every demo of a DemoFile that states an instruction."""
    for name in file.demos:
        actions = np.asarray(file.actions(name), dtype=np.float32)
        yield Demo(file, file.instruction_of(name), name, actions, file.proprio(name, parts))


def split_by_masks(file: DemoFile, names: Iterable[str]) -> dict[str, str]:
    """{demo: "train", "valid" or "neither"} by the lists of a DemoFile, {} where it has none."""
    train, valid = (file.mask(name) for name in ("train", "valid"))
    if train is None and valid is None:
        return {}
    for mask, listed in (("train", train or []), ("valid", valid or [])):
        unknown = sorted(set(listed) - set(file.demos))
        if unknown:
            raise BadInput(f"{file.path}: mask/{mask} lists {unknown[0]}, but the file has no such demo")
    kept, held_out = set(train or []), set(valid or [])  # a file may have tens of thousands of demos
    if both := sorted(kept & held_out):
        raise BadInput(f"{file.path}: mask/train and mask/valid both list {both[0]}")

    def part(name):
        if name in held_out or (valid is None and name not in kept):
            return "valid"
        return "train" if train is None or name in kept else "neither"

    return {name: part(name) for name in names}


def find_demo_files(entries: Iterable[Path | str]) -> list[Path]:
    """Files and folders → the list of demo files (see demo_files).

    Raises:
        BadInput: no entry, one that does not exist, or a folder without demo files.
    """
    if not entries:
        raise BadInput(
            "DATA.FILES is empty; give demo files or folders of them (tools/regenerate_libero.py writes them)"
        )
    try:
        return demo_files(*entries)
    except BadInput as error:
        raise BadInput(f"DATA.FILES: {error}") from None
