"""Demo files → `Sample`: the frame at time t and the chunk of actions that starts there."""

import bisect
import copy
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from libs.demo_hdf5 import LIBERO, DemoFile, demo_files
from libs.errors import BadInput
from rv_train.data import checks


@dataclass(frozen=True)
class Sample:
    """One supervised example, before any augmentation.

    views: one (H, W, 3) uint8 upright frame per camera; instruction: the language goal;
    actions: (horizon, A) float32, environment units; proprio: (P,) float32, the chosen parts of the robot's state one
    after another, empty where none are chosen; file, demo, frame: where it came from; action_text: the actions as
    integers, where the data holds them so (a manifest): an X in them is a digit that nobody knows, and its action NaN.
    """

    views: list
    instruction: str
    actions: np.ndarray
    proprio: np.ndarray
    file: str
    demo: str
    frame: int
    action_text: str | None = None


class DemoRows(NamedTuple):
    """One demo. file: its DemoFile; name: "demo_3"; actions (T, A) float32; proprio (T, P) float32, P may be 0."""

    file: DemoFile
    instruction: str
    name: str
    actions: np.ndarray
    proprio: np.ndarray


class DemoDataset:
    """Every frame of every demo, in file and demo order.

    Held in memory: the actions and the chosen parts of the robot's state, as float32, demo by demo; every sample needs
    them, and they take 4 (A + P) bytes per frame, 136 MB for a million frames of 7 actions and 27 states. Pictures are
    read one by one when asked for. It can be pickled: a process that gets it reads no file before its first frame.

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

    def __init__(self, paths, views, horizon, key_map=LIBERO, proprio=(), instruction=""):
        self.views, self.horizon, self.key_map, self.parts = list(views), horizon, key_map, list(proprio)
        files = [DemoFile(path, key_map, instruction) for path in paths]
        checks.refuse(checks.picture_problems(files, self.views))
        checks.refuse(checks.instruction_problems(files))
        self.render = files[0].render
        self.resolution = files[0].picture_size(files[0].demos[0])[0]  # side of the stored frames, pixels
        demos = [rows for file in files for rows in read_rows(file, self.parts)]
        checks.refuse(checks.number_problems(demos))
        self._set_demos(demos)

    def _set_demos(self, demos):
        self.demos = demos
        self.files = list(dict.fromkeys(rows.file for rows in demos))
        self._ends = list(itertools.accumulate(len(rows.actions) for rows in demos))

    def __len__(self):
        return self._ends[-1]

    def __getitem__(self, index):
        rows, frame = self._place(index)
        steps = np.minimum(np.arange(frame, frame + self.horizon), len(rows.actions) - 1)
        return Sample(
            views=[rows.file.frame(rows.name, frame, view) for view in self.views],
            instruction=rows.instruction,
            actions=rows.actions[steps],
            proprio=rows.proprio[frame],
            file=str(rows.file.path),
            demo=rows.name,
            frame=frame,
        )

    def _place(self, index):
        """Number of a frame → (DemoRows, number of the frame within it)."""
        number = bisect.bisect_right(self._ends, index)
        rows = self.demos[number]
        return rows, int(index - (self._ends[number] - len(rows.actions)))

    def where(self, index):
        """Frame number → "path/file.hdf5, demo_3, frame 17", for messages."""
        rows, frame = self._place(index)
        return f"{rows.file.path}, {rows.name}, frame {frame}"

    @property
    def num_demos(self):
        return len(self.demos)

    @property
    def instructions(self):
        """The language goal of each file, in order."""
        return [file.instruction for file in self.files]

    def all_actions(self):
        """(N, A) float32: every action once."""
        return np.concatenate([rows.actions for rows in self.demos])

    def first_pictures(self):
        """The main view's first frame of every demo, one after another: (H, W, 3) uint8."""
        return (rows.file.frame(rows.name, 0, self.key_map.main_view) for rows in self.demos)

    def split(self, val_share, seed):
        """Hold whole demos of every file out for validation; nothing is read again.

        A file with mask/train or mask/valid (robomimic) is split by them: with one of them the other is the rest, with
        both a demo in neither is left out. In other files round(val_share * demos) are drawn from (seed, number of the
        file), at least one where there are two or more.

        Args:
            val_share: 0 holds nothing out and ignores the masks.
        Returns:
            (DemoDataset to train on, held-out DemoDataset or None where there is none).
        Raises:
            BadInput: a demo in both masks, a mask that names one that does not exist; nothing is left to train on.
        """
        if val_share == 0:
            return self, None
        train, valid = set(), set()  # (file, name)
        for number, file in enumerate(self.files):
            names = [rows.name for rows in self.demos if rows.file is file]
            kept, held_out = split_by_masks(file, names) or split_at_random(names, val_share, [seed, number])
            train |= {(file, name) for name in kept}
            valid |= {(file, name) for name in held_out}
        if not train:
            raise BadInput(f"{self.files[0].path}: every demo is held out for validation, none is left to train on")
        return self._subset(train), self._subset(valid) if valid else None

    def _subset(self, chosen):
        part = copy.copy(self)
        part._set_demos([rows for rows in self.demos if (rows.file, rows.name) in chosen])
        return part


def read_rows(file, parts):
    """DemoRows of every demo of a DemoFile that states an instruction."""
    for name in file.demos:
        actions = np.asarray(file.actions(name), dtype=np.float32)
        yield DemoRows(file, file.instruction, name, actions, file.proprio(name, parts))


def split_by_masks(file, names):
    """(demos to train on, held-out demos) by the lists of a DemoFile; None where it has none."""
    train, valid = (file.mask(name) for name in ("train", "valid"))
    if train is None and valid is None:
        return None
    for mask, listed in (("train", train or []), ("valid", valid or [])):
        unknown = sorted(set(listed) - set(names))
        if unknown:
            raise BadInput(f"{file.path}: mask/{mask} lists {unknown[0]}, but the file has no such demo")
    both = sorted(set(train or []) & set(valid or []))
    if both:
        raise BadInput(f"{file.path}: mask/train and mask/valid both list {both[0]}")
    train = set(names) - set(valid) if train is None else train
    return train, set(names) - set(train) if valid is None else valid


def split_at_random(names, val_share, seed):
    """(demos to train on, held-out demos); always at least one to train on."""
    count = min(max(1, round(val_share * len(names))), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[n] for n in order[count:]], [names[n] for n in order[:count]]


def find_demo_files(entries):
    """Files and folders → the list of demo files (see demo_files).

    Raises:
        BadInput: no entry, one that does not exist, or a folder without demo files.
    """
    if not entries:
        raise BadInput("no demonstrations: set DATA.FILES to HDF5 files or folders (DATA.FILES path/to/folder)")
    try:
        return demo_files(*entries)
    except BadInput as error:
        raise BadInput(f"DATA.FILES: {error}") from None
