"""Reading demonstration files: this project's, LIBERO's own, and re-rendered ones."""

import json
import os
from pathlib import Path

import h5py
import numpy as np

from libs.demo_hdf5.schema import ACTION_DIM, STANDARD_RENDER, VIEW_KEYS, demo_number


class DemoFile:
    """A demonstration file, checked when it is made and opened again lazily in each process.

    It can be pickled and used under forked or spawned loader workers: every process has its own handle.

    path: the file. Raises ValueError, naming file and demo, where it is missing, truncated, not HDF5, or a demo
    lacks actions or pictures.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._file, self._pid = None, None
        if not self.path.is_file():
            raise ValueError(f"demo file {self.path} does not exist")
        try:
            with h5py.File(self.path, "r") as file:
                self._read_outline(file)
        except OSError as error:
            raise ValueError(
                f"demo file {self.path} cannot be opened ({error}): truncated or not HDF5; get it again"
            ) from None

    def _read_outline(self, file):
        if "data" not in file:
            raise ValueError(f"demo file {self.path} has no group 'data': not a LIBERO demonstration file")
        data = file["data"]
        self.attrs = {key: _plain(value) for key, value in data.attrs.items()}
        names = [name for name in data if name.startswith("demo_") and name[5:].isdigit()]
        if not names:
            raise ValueError(f"demo file {self.path} holds no demos (data/demo_0, data/demo_1, ...)")
        self.demos = sorted(names, key=demo_number)
        self.views = [view for view, key in VIEW_KEYS.items() if f"obs/{key}" in data[self.demos[0]]]
        self._lengths = {name: self._checked_length(data, name) for name in self.demos}
        self._masks = {name: [_plain(v) for v in values[()]] for name, values in file.get("mask", {}).items()}

    def _checked_length(self, data, demo):
        group = data[demo]
        where = f"demo file {self.path}, {demo}"
        if "actions" not in group:
            raise ValueError(f"{where}: no actions")
        shape = group["actions"].shape
        if len(shape) != 2 or shape[1] != ACTION_DIM or shape[0] == 0:
            raise ValueError(f"{where}: actions have shape {shape}, expected (T, {ACTION_DIM})")
        for view in self.views or ["agentview"]:
            key = f"obs/{VIEW_KEYS[view]}"
            if key not in group:
                raise ValueError(f"{where}: no {key}; render the pictures first")
            if group[key].ndim != 4 or group[key].shape[0] != shape[0] or group[key].shape[3] != 3:
                raise ValueError(f"{where}: {key} has shape {group[key].shape}, expected ({shape[0]}, H, W, 3)")
        return shape[0]

    @property
    def instruction(self):
        """The language goal; ValueError where the file names none."""
        try:
            text = json.loads(self.attrs["problem_info"])["language_instruction"]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"demo file {self.path}: no language_instruction in data's problem_info") from error
        return "".join(text) if isinstance(text, list) else text

    @property
    def render(self):
        """How the pictures were rendered; "standard" where the file does not say."""
        return self.attrs.get("render", STANDARD_RENDER)

    def num_frames(self, demo):
        return self._lengths[demo]

    def mask(self, name):
        """Demo names of `mask/<name>` (robomimic's train and valid), None where the file has no such list."""
        return self._masks.get(name)

    def actions(self, demo):
        """(T, 7) float64"""
        return self._read(demo, "actions")

    def states(self, demo):
        """(T, 1 + nq + nv) float64"""
        return self._read(demo, "states")

    def robot_states(self, demo):
        """(T, 9) float64: gripper 2, end effector position 3, quaternion xyzw 4"""
        return self._read(demo, "robot_states")

    def frame(self, demo, t, view):
        """(H, W, 3) uint8, upright."""
        return np.ascontiguousarray(self._dataset(demo, f"obs/{VIEW_KEYS[view]}")[t][::-1, ::-1])

    def demo_attrs(self, demo):
        return {key: _plain(value) for key, value in self._handle["data"][demo].attrs.items()}

    def close(self):
        """Close this process's handle; it opens again when needed."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    @property
    def _handle(self):
        if self._file is None or self._pid != os.getpid():  # a handle does not survive a fork
            try:
                self._file, self._pid = h5py.File(self.path, "r"), os.getpid()
            except OSError as error:
                raise ValueError(f"demo file {self.path} cannot be opened: {error}") from None
        return self._file

    def _dataset(self, demo, key):
        try:
            return self._handle["data"][demo][key]
        except KeyError:
            raise ValueError(f"demo file {self.path}, {demo}: no {key}") from None

    def _read(self, demo, key):
        return self._dataset(demo, key)[()]

    def __getstate__(self):
        return {**self.__dict__, "_file": None, "_pid": None}


def _plain(value):
    """HDF5 attribute → str or numpy value."""
    return value.decode() if isinstance(value, bytes) else value
