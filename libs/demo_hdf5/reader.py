"""Reading demonstration files: this project's, LIBERO's own, re-rendered ones, and what else a key map describes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from libs.demo_hdf5.instructions import plain, stated_by_demo, stated_by_file
from libs.demo_hdf5.key_map import LIBERO, KeyMap
from libs.demo_hdf5.layout import are_numbers, demo_groups
from libs.demo_hdf5.opening import Unreadable, check_file, check_readable, find, open_file, sound
from libs.demo_hdf5.schema import STANDARD_RENDER
from libs.demo_hdf5.stored import are_pictures, read_frame, stored_size
from libs.demo_hdf5.task_text import benchmark_text, named_text
from libs.errors import BadInput


class DemoFile:
    """A demonstration file, checked when it is made and opened again lazily in each process.

    It can be pickled and used under forked or spawned loader workers: every process has its own handle.

    path: the file; key_map: its layout; instruction: the language goal in place of the file's, "" for the file's.
    views: the cameras that it has, of those of the map. Raises BadInput, naming file and demo, where a demo lacks
    actions or pictures, or (Unreadable) the file cannot be opened, a link leads nowhere or a filter is not installed;
    and later, from every method that reads, where the file is no longer the one it was.
    """

    def __init__(self, path: Path | str, key_map: KeyMap = LIBERO, instruction: str = "") -> None:
        self.path, self.key_map, self.given_instruction = Path(path), key_map, instruction
        self._file, self._pid = None, None
        check_file(self.path)
        self._version = self._version_now()
        self._file, self._pid = open_file(self.path), os.getpid()
        try:
            with sound(self.path):
                self._read_outline(self._file)
        except BadInput:
            self.close()
            raise
        self._check_version()

    def _read_outline(self, file):
        groups, views = demo_groups(file, self.key_map), self.key_map.views
        self.demos = list(groups)
        holder = file["data"] if self.key_map.demos else file
        self.attrs = {key: plain(value) for key, value in holder.attrs.items()}
        name, first = next(iter(groups.items()))
        where = f"demo file {self.path}, {name}"
        found = {view for view, key in views.items() if find(first, key, where) is not None}
        self.views = [view for view in views if view == self.key_map.main_view or view in found]
        self._sizes = {}  # (demo, view) -> (height, width)
        place = self.key_map.instruction.demo
        texts = {name: stated_by_demo(group, place, f"demo file {self.path}, {name}") for name, group in groups.items()}
        self._texts = {name: text for name, text in texts.items() if any(map(str.isalnum, text))}
        self._lengths = {name: self._checked_length(group, name) for name, group in groups.items()}
        masks = find(file, "mask", f"demo file {self.path}")
        if isinstance(masks, h5py.Dataset):
            raise BadInput(f"demo file {self.path}: 'mask' is an array, expected a group of lists of demos")
        self._masks = {name: self._checked_mask(masks, name) for name in masks or ()}

    def _checked_length(self, group, demo):
        where = f"demo file {self.path}, {demo}"
        key, dim = self.key_map.actions
        actions = find(group, key, where)
        if not isinstance(actions, h5py.Dataset):
            raise BadInput(f"{where}: no {key}")
        if actions.ndim != 2 or len(actions) == 0 or not are_numbers(actions, len(actions), dim):
            expected = f"expected numbers of shape (T, {dim})"
            raise BadInput(f"{where}: {key} have shape {actions.shape} and type {actions.dtype}, {expected}")
        check_readable(actions, f"{where}: {key}")
        for view in self.views:
            key = self.key_map.views[view]
            pictures = find(group, key, where)
            if not isinstance(pictures, h5py.Dataset):
                raise BadInput(f"{where}: no {key}; render the pictures first")
            if not are_pictures(pictures, len(actions)):
                expected = f"expected uint8 of shape ({len(actions)}, H, W, 3), or as many JPEG or PNG files"
                raise BadInput(f"{where}: {key} has shape {pictures.shape} and type {pictures.dtype}, {expected}")
            check_readable(pictures, f"{where}: {key}")
            self._sizes[demo, view] = stored_size(pictures, self.key_map.encoded, f"{where}: {key}")
        for key in ("states", "robot_states"):  # groups in Isaac Lab's files
            rows = find(group, key, where)
            if isinstance(rows, h5py.Dataset) and rows.shape[:1] != actions.shape[:1]:
                raise BadInput(f"{where}: {len(actions)} actions, but {key} has shape {rows.shape}")
        return len(actions)

    def _checked_mask(self, masks, name):
        names = find(masks, name, f"demo file {self.path}: mask")
        values = [plain(name) for name in names[()]] if isinstance(names, h5py.Dataset) and names.ndim == 1 else [None]
        if not all(isinstance(value, str) for value in values):
            raise BadInput(f"demo file {self.path}: mask/{name} is not a list of demo names")
        return values

    def instruction_of(self, demo: str) -> str:
        """The language goal of a demo: the given one, what the demo itself states, or the file's."""
        return self.given_instruction or self._texts.get(demo) or self.instruction

    @property
    def demos_state(self) -> bool:
        """Whether demos state instructions of their own, and none is given in their place."""
        return bool(self._texts) and not self.given_instruction

    @property
    def instructions(self) -> list[str]:
        """The language goals of all demos, each once."""
        return list(dict.fromkeys(map(self.instruction_of, self.demos)))

    @property
    def instruction(self) -> str:
        """The language goal of demos that state none: the given one; of a file named after a task of LIBERO's what its
        benchmark will state (see `task_text`); else what the file or the map states; else what the file's name says by
        LIBERO's rule, NAME_demo.hdf5. BadInput where there is none of these."""
        if self.given_instruction:
            return self.given_instruction
        bddl = self.attrs.get("bddl_file_name")
        named = benchmark_text(self.path, bddl)
        try:
            stated = self.stated_instruction
        except BadInput:
            if named or named_text(self.path, bddl):
                return named or named_text(self.path, bddl)
            raise
        return named if named and any(map(str.isalnum, stated)) else stated

    @property
    def stated_instruction(self) -> str:
        """The language goal that the file states, else the map's, whatever was given; BadInput where there is none."""
        return stated_by_file(self.path, self.attrs, self.key_map.instruction)

    def group(self, file: h5py.File, demo: str) -> h5py.Group:
        """The group of a demo in an open file."""
        return file[f"data/{demo}"] if self.key_map.demos else file

    @property
    def render(self) -> str:
        """How the pictures were rendered; "standard" where the file does not say."""
        return self.attrs.get("render", STANDARD_RENDER)

    def num_frames(self, demo: str) -> int:
        return self._lengths[demo]

    def picture_size(self, demo: str, view: str | None = None) -> tuple[int, int]:
        """(height, width) of a view's pictures, pixels; None: the main view's."""
        return self._sizes[demo, view or self.key_map.main_view]

    def mask(self, name: str) -> list[str] | None:
        """Demo names of `mask/<name>` (robomimic's train and valid), None where the file has no such list."""
        return self._masks.get(name)

    def actions(self, demo: str) -> np.ndarray:
        """(T, A) as stored; LIBERO: (T, 7) float64"""
        return self._read(demo, self.key_map.actions.key)

    def proprio(self, demo: str, parts: Sequence[str]) -> np.ndarray:
        """Parts of the robot's state, one after another: (T, P) float32; P is 0 without parts.

        BadInput, naming demo and key, where the map has no such part, or the demo lacks it or has it in another form.
        """
        self.key_map.check_parts(parts)
        length = self.num_frames(demo)
        rows = [np.zeros((length, 0), dtype=np.float32)]
        for part in parts:
            key, dim = self.key_map.proprio[part]
            values, where = self._read(demo, key), f"demo file {self.path}, {demo}"
            if not are_numbers(values, length, dim):
                expected = f"expected numbers of shape ({length}, {dim})"
                raise BadInput(f"{where}: {key} has shape {values.shape} and type {values.dtype}, {expected}")
            if not np.isfinite(values).all():
                raise BadInput(f"{where}: {key} holds a number that is not finite")
            rows.append(values.astype(np.float32))
        return np.concatenate(rows, axis=1)

    def states(self, demo: str) -> np.ndarray:
        """(T, 1 + nq + nv) float64"""
        return self._read(demo, "states")

    def robot_states(self, demo: str) -> np.ndarray:
        """(T, 9) float64: gripper 2, end effector position 3, quaternion xyzw 4"""
        return self._read(demo, "robot_states")

    def frame(self, demo: str, t: int, view: str) -> np.ndarray:
        """(H, W, 3) uint8, upright. BadInput where the file is damaged there."""
        import cv2  # here: playing a checkpoint reads no demo file, and must not need what OpenCV links to

        order = self.key_map.encoded
        stored = self._read(demo, self.key_map.views[view], t, lambda file, path, t: read_frame(file, path, t, order))
        if not self.key_map.upside_down:
            return stored
        return cv2.flip(stored, -1)  # both axes; numpy's [::-1, ::-1] with a copy takes 0.4 ms at 256 pixels, this 5 us

    def demo_attrs(self, demo: str) -> dict[str, Any]:
        with sound(self.path):
            return {key: plain(value) for key, value in self.group(self._handle, demo).attrs.items()}

    def close(self) -> None:
        """Close this process's handle; it opens again when needed."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    @property
    def _handle(self):
        if self._file is None or self._pid != os.getpid():  # a handle does not survive a fork
            try:
                self._file, self._pid = open_file(self.path), os.getpid()
            except (Unreadable, OSError):
                self._check_version()
                raise
            self._check_version()
        return self._file

    def _read(self, demo, key, part=(), read=lambda file, path, part: file[path][part]):
        try:
            values = read(self._handle, self.key_map.path(demo, key), part)
        except (KeyError, TypeError, OSError, RuntimeError) as error:  # TypeError: a group
            self._check_version()
            where = f"demo file {self.path}, {demo}"
            array = find(self._handle, self.key_map.path(demo, key), where)
            if not isinstance(array, h5py.Dataset):
                raise BadInput(f"{where}: no {key}") from None
            check_readable(array, f"{where}: {key}")
            place = key if part == () else f"{key} at frame {part}"
            raise Unreadable(f"{where}: {place} is damaged ({error}); get the file again") from None
        self._check_version()  # after reading: what has been read is still the file that was checked
        return values

    def _version_now(self):
        """Size and time of change: what every file system, networked ones too, gives in microseconds.

        Not the inode: some networked file systems make up a new one for the same file.
        """
        try:
            now = os.stat(self.path)
        except OSError as error:
            raise BadInput(
                f"demo file {self.path} changed while it was in use: it is gone ({error.strerror}); start again"
            ) from None
        return now.st_size, now.st_mtime_ns

    def _check_version(self):
        """BadInput if the file was replaced or rewritten since the outline was read, possibly by another process."""
        now = self._version_now()
        if now != self._version:
            (size, changed), (size_now, changed_now) = self._version, now
            what = f"{size:,} bytes then, {size_now:,} now" if size != size_now else "rewritten with the same size"
            raise BadInput(
                f"demo file {self.path} changed while it was in use: {what}, {(changed_now - changed) / 1e9:+,.1f} s "
                "between the two versions; start again with files that stay as they are"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": None}
