"""A kind of data to show how one is added: a folder of demo_000.npz, demo_001.npz ..., each a demo.

instruction  the language goal, a text
actions      (T, A) numbers
state        (T, S) numbers
front        (T, H, W, 3) uint8, upright: a camera; every other array of that shape is one, too
"""

from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.data import checks
from rv_train.data.base import Demo, Facts
from rv_train.data.trajectories import Trajectories


class NpzFile:
    """One demo's file; a picture is read when it is asked for."""

    def __init__(self, path: Path):
        self.path = path
        with np.load(path) as arrays:
            self.numbers = {name: arrays[name] for name in ("instruction", "actions", "state")}
            self.cameras = {name: arrays[name].shape[1:3] for name in arrays.files if arrays[name].ndim == 4}


class NpzDemos(Trajectories):
    """The demos of some files, as `Demonstrations`."""

    def __init__(self, files: list[NpzFile], cfg: CfgNode):
        demos = [
            Demo(
                file=file,
                instruction=str(file.numbers["instruction"]),
                name=file.path.stem,
                actions=file.numbers["actions"].astype(np.float32),
                proprio=file.numbers["state"][:, : None if cfg.DATA.PROPRIO else 0].astype(np.float32),
            )
            for file in files
        ]
        checks.refuse(checks.number_problems(demos))
        super().__init__(demos, cfg.DATA.VIEWS, cfg.ACTION.HORIZON, facts_of(files[0]), cfg.DATA.PROPRIO)

    def picture(self, number: int, frame: int, view: str) -> np.ndarray:
        """See `Demonstrations`."""
        with np.load(self.demos[number].file.path) as arrays:
            return arrays[view][frame]


class Npz:
    """The `Source`."""

    NUMBERS, PROPRIO = True, True
    ABOUT = "folders of .npz files, one per demo"

    def fits(self, entry: Path) -> bool:
        """See `Source`."""
        return entry.is_dir() and any(entry.glob("demo_*.npz"))

    def look(self, cfg: CfgNode) -> Facts:
        """See `Source`; without DATA.FILES no key of this kind says what there is, which is BadInput."""
        return facts_of(find_files(cfg)[0])

    def open(self, cfg: CfgNode) -> NpzDemos:
        """See `Source`."""
        files = find_files(cfg)
        for file in files:
            checks.refuse(checks.choice_problems(facts_of(file), cfg, file.path))
        checks.refuse(checks.unlike_problems([(file.path, facts_of(file)) for file in files], cfg))
        return NpzDemos(files, cfg)


def find_files(cfg: CfgNode) -> list[NpzFile]:
    """All files of DATA.FILES; BadInput where there is none."""
    paths = [path for folder in cfg.DATA.FILES for path in sorted(Path(folder).glob("demo_*.npz"))]
    if not paths:
        raise BadInput(f"DATA.FILES {cfg.DATA.FILES} holds no demo_*.npz: list folders that do")
    return [NpzFile(path) for path in paths]


def facts_of(file: NpzFile) -> Facts:
    """What a file holds; it does not say its rate."""
    numbers = file.numbers
    return Facts(file.cameras, numbers["actions"].shape[1], {"state": numbers["state"].shape[1]}, rate=None)
