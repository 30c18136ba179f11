"""Demo files → `Sample`: the frame at time t and the chunk of actions that starts there."""

import bisect
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libs.demo_hdf5 import DemoFile
from libs.demo_hdf5.schema import IMAGE_CONVENTION


@dataclass(frozen=True)
class Sample:
    """One supervised example, before any augmentation.

    views: one (H, W, 3) uint8 upright frame per camera; instruction: the language goal;
    actions: (horizon, A) float32, environment units; proprio: (P,) float32;
    file, demo, frame: where it came from.
    """

    views: list
    instruction: str
    actions: np.ndarray
    proprio: np.ndarray
    file: str
    demo: str
    frame: int


class DemoDataset:
    """Every frame of every demo, in file and demo order.

    Actions and robot states are small and read at once; frames are read one by one when asked for.

    Args:
        paths: demo files.
        views: cameras to read.
        horizon: actions per chunk; a chunk that runs over the demo's end repeats its last action.
    Raises:
        ValueError: a file that cannot be used, naming file and demo; files rendered with different settings.
    """

    def __init__(self, paths, views, horizon):
        self.views, self.horizon = list(views), horizon
        self.files = [DemoFile(path) for path in paths]
        self._demos = []  # (file, instruction, demo name, actions (T, A), proprio (T, P))
        for file in self.files:
            convention = file.attrs.get("macros_image_convention", IMAGE_CONVENTION)
            if convention != IMAGE_CONVENTION:
                raise ValueError(
                    f"{file.path}: pictures stored as {convention!r}, expected {IMAGE_CONVENTION!r}: they would stand "
                    "on their heads"
                )
            missing = [view for view in self.views if view not in file.views]
            if missing:
                raise ValueError(f"{file.path}: no camera {missing[0]}; it has {', '.join(file.views)}")
            for demo in file.demos:
                actions = np.asarray(file.actions(demo), dtype=np.float32)
                if not np.isfinite(actions).all():
                    raise ValueError(f"{file.path}, {demo}: an action is not a finite number")
                proprio = np.asarray(file.robot_states(demo), dtype=np.float32)
                self._demos.append((file, file.instruction, demo, actions, proprio))
        settings = {(file.render, self._resolution(file)): str(file.path) for file in self.files}
        if len(settings) > 1:
            raise ValueError(f"demo files were rendered with different settings, do not mix them: {settings}")
        ((self.render, self.resolution),) = settings  # resolution: side of the stored frames, pixels
        self._ends = list(itertools.accumulate(len(actions) for _, _, _, actions, _ in self._demos))

    def __len__(self):
        return self._ends[-1]

    def __getitem__(self, index):
        number = bisect.bisect_right(self._ends, index)
        file, instruction, demo, actions, proprio = self._demos[number]
        frame = index - (self._ends[number] - len(actions))
        steps = np.minimum(np.arange(frame, frame + self.horizon), len(actions) - 1)
        return Sample(
            views=[file.frame(demo, frame, view) for view in self.views],
            instruction=instruction,
            actions=actions[steps],
            proprio=proprio[frame],
            file=str(file.path),
            demo=demo,
            frame=int(frame),
        )

    @property
    def num_demos(self):
        return len(self._demos)

    @property
    def instructions(self):
        """The language goal of each file, in order."""
        return [file.instruction for file in self.files]

    def _resolution(self, file):
        return int(file.frame(file.demos[0], 0, self.views[0]).shape[0])

    def all_actions(self):
        """(N, A) float32: every action once."""
        return np.concatenate([actions for _, _, _, actions, _ in self._demos])


def find_demo_files(entries):
    """Files and folders → the sorted list of demo files.

    Raises:
        ValueError: no entry, one that does not exist, or a folder without *.hdf5.
    """
    if not entries:
        raise ValueError("no demonstrations: set DATA.FILES to HDF5 files or folders (DATA.FILES path/to/folder)")
    paths = []
    for entry in map(Path, entries):
        found = [entry] if entry.is_file() else sorted(entry.rglob("*.hdf5")) if entry.is_dir() else []
        if not found:
            reason = "holds no *.hdf5 file" if entry.is_dir() else "does not exist"
            raise ValueError(f"DATA.FILES: {entry} {reason}")
        paths += [path for path in found if not any(part.startswith(".") for part in path.parts[1:])]
    return list(dict.fromkeys(paths))
