"""Reading demonstration files: this project's, LIBERO's own, re-rendered ones, and what else a key map describes."""

import json
import math
import os
from pathlib import Path

import deflate
import h5py
import numpy as np

from libs.demo_hdf5.key_map import LIBERO
from libs.demo_hdf5.layout import are_numbers, are_pictures, demo_groups
from libs.demo_hdf5.opening import Unreadable, check_file, check_readable, find, open_file, sound
from libs.demo_hdf5.schema import STANDARD_RENDER
from libs.demo_hdf5.task_text import benchmark_text
from libs.errors import BadInput


class DemoFile:
    """A demonstration file, checked when it is made and opened again lazily in each process.

    It can be pickled and used under forked or spawned loader workers: every process has its own handle.

    path: the file; key_map: its layout; instruction: the language goal in place of the file's, "" for the file's.
    views: the cameras that it has, of those of the map. Raises BadInput, naming file and demo, where a demo lacks
    actions or pictures, or (Unreadable) the file cannot be opened, a link leads nowhere or a filter is not installed;
    and later, from every method that reads, where the file is no longer the one it was.
    """

    def __init__(self, path, key_map=LIBERO, instruction=""):
        self.path, self.key_map, self._given_instruction = Path(path), key_map, instruction
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
        groups, views = demo_groups(file), self.key_map.views
        self.demos = list(groups)
        self.attrs = {key: _plain(value) for key, value in file["data"].attrs.items()}
        name, first = next(iter(groups.items()))
        where = f"demo file {self.path}, {name}"
        found = {view for view, key in views.items() if find(first, key, where) is not None}
        self.views = [view for view in views if view == self.key_map.main_view or view in found]
        self._sizes = {}  # (demo, view) -> (height, width)
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
                expected = f"expected uint8 of shape ({len(actions)}, H, W, 3)"
                raise BadInput(f"{where}: {key} has shape {pictures.shape} and type {pictures.dtype}, {expected}")
            check_readable(pictures, f"{where}: {key}")
            self._sizes[demo, view] = pictures.shape[1:3]
        for key in ("states", "robot_states"):  # groups in Isaac Lab's files
            rows = find(group, key, where)
            if isinstance(rows, h5py.Dataset) and rows.shape[:1] != actions.shape[:1]:
                raise BadInput(f"{where}: {len(actions)} actions, but {key} has shape {rows.shape}")
        return len(actions)

    def _checked_mask(self, masks, name):
        names = find(masks, name, f"demo file {self.path}: mask")
        values = [_plain(name) for name in names[()]] if isinstance(names, h5py.Dataset) and names.ndim == 1 else [None]
        if not all(isinstance(value, str) for value in values):
            raise BadInput(f"demo file {self.path}: mask/{name} is not a list of demo names")
        return values

    @property
    def instruction(self):
        """The language goal: the given one; of a file named after a task of LIBERO's what its benchmark will state
        (see `task_text`); else what the file or the map states. BadInput where these state nothing."""
        if self._given_instruction:
            return self._given_instruction
        stated = self.stated_instruction
        named = benchmark_text(self.path, self.attrs.get("bddl_file_name"))
        return named if named and any(map(str.isalnum, stated)) else stated

    @property
    def stated_instruction(self):
        """The language goal that the file states, else the map's, whatever was given; BadInput where there is none."""
        attribute, json_key, fixed = self.key_map.instruction
        try:
            text = json.loads(self.attrs[attribute])[json_key] if json_key else self.attrs[attribute]
            return _sentence(text).strip('"')  # some of LIBERO's files quote the text
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            if fixed:
                return fixed
            place = f"{json_key or 'instruction'} in data's {attribute or 'attributes'}"
            raise BadInput(f"demo file {self.path}: no {place}") from error

    @property
    def render(self):
        """How the pictures were rendered; "standard" where the file does not say."""
        return self.attrs.get("render", STANDARD_RENDER)

    def num_frames(self, demo):
        return self._lengths[demo]

    def picture_size(self, demo, view=None):
        """(height, width) of a view's pictures, pixels; None: the main view's."""
        return self._sizes[demo, view or self.key_map.main_view]

    def mask(self, name):
        """Demo names of `mask/<name>` (robomimic's train and valid), None where the file has no such list."""
        return self._masks.get(name)

    def actions(self, demo):
        """(T, A) as stored; LIBERO: (T, 7) float64"""
        return self._read(demo, self.key_map.actions.key)

    def proprio(self, demo, parts):
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

    def states(self, demo):
        """(T, 1 + nq + nv) float64"""
        return self._read(demo, "states")

    def robot_states(self, demo):
        """(T, 9) float64: gripper 2, end effector position 3, quaternion xyzw 4"""
        return self._read(demo, "robot_states")

    def frame(self, demo, t, view):
        """(H, W, 3) uint8, upright. BadInput where the file is damaged there."""
        import cv2  # here: playing a checkpoint reads no demo file, and must not need what OpenCV links to

        stored = self._read(demo, self.key_map.views[view], t, read_picture)
        if not self.key_map.upside_down:
            return stored
        return cv2.flip(stored, -1)  # both axes; numpy's [::-1, ::-1] with a copy takes 0.4 ms at 256 pixels, this 5 us

    def demo_attrs(self, demo):
        with sound(self.path):
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
                self._file, self._pid = open_file(self.path), os.getpid()
            except (Unreadable, OSError):
                self._check_version()
                raise
            self._check_version()
        return self._file

    def _read(self, demo, key, part=(), read=lambda file, path, part: file[path][part]):
        try:
            values = read(self._handle, f"data/{demo}/{key}", part)
        except (KeyError, TypeError, OSError, RuntimeError) as error:  # TypeError: a group
            self._check_version()
            where = f"demo file {self.path}, {demo}"
            array = find(self._handle, f"data/{demo}/{key}", where)
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

    def __getstate__(self):
        return {**self.__dict__, "_file": None, "_pid": None}


def read_picture(file, path, t):
    """`file[path][t]` of pictures (T, H, W, 3) uint8, by HDF5's own calls: unpacked ones in 0.05 instead of 0.14 ms.

    Pictures in chunks of their own, packed by gzip alone (as this project writes them), are unpacked by libdeflate in
    less than half the time of HDF5's zlib.

    Raises:
        KeyError: nothing of that name, or no array; IndexError: t is not in 0..T-1; OSError: damaged.
    """
    pictures = h5py.h5d.open(file.id, path.encode())
    length, *shape = pictures.shape
    if not 0 <= t < length:
        raise IndexError(f"{path} has pictures 0..{length - 1}, not {t}")
    if _are_gzip_chunks(pictures, (1, *shape)):
        left_unpacked, stored = pictures.read_direct_chunk((t, 0, 0, 0))  # HDF5 leaves what gzip would not shrink
        return _picture(stored, bool(left_unpacked), shape, f"{path}[{t}]")
    place = pictures.get_space()
    place.select_hyperslab((t, 0, 0, 0), (1, *shape))
    picture = np.empty((1, *shape), dtype=np.uint8)
    pictures.read(h5py.h5s.create_simple(picture.shape), place, picture)
    return picture[0]


def _are_gzip_chunks(pictures, chunk):
    """Whether every picture stands in the file, each in a chunk of its own that gzip alone was to pack."""
    made = pictures.get_create_plist()
    if made.get_layout() != h5py.h5d.CHUNKED or made.get_chunk() != chunk or pictures.dtype != np.uint8:
        return False
    if made.get_nfilters() != 1 or made.get_filter(0)[0] != h5py.h5z.FILTER_DEFLATE:
        return False
    return pictures.get_num_chunks() == pictures.shape[0]


def _picture(stored, unpacked, shape, where):
    """(H, W, 3) uint8 out of a chunk's bytes; OSError where they are damaged or of another number."""
    size = math.prod(shape)
    try:
        picture = bytearray(stored) if unpacked else deflate.zlib_decompress(stored, size)
    except deflate.DeflateError:
        picture = b""
    if len(picture) != size:
        raise OSError(f"{where} is damaged: its {len(stored)} bytes are no picture of {size}")
    return np.frombuffer(picture, dtype=np.uint8).reshape(shape)


def _sentence(stored):
    """A language goal as it stands in a file: a text, the list of its words (as LIBERO's task files are parsed) or of
    its characters (as some of its demonstration files have it). TypeError where it is none of them."""
    if isinstance(stored, str):
        return stored
    if not isinstance(stored, (list, np.ndarray)):
        raise TypeError(f"an instruction is a text or a list of texts, not {stored!r}")
    parts = [_plain(part) for part in stored]
    characters = all(len(part) == 1 for part in parts)
    return "".join(parts) if characters else " ".join(" ".join(parts).split())


def _plain(value):
    """HDF5 attribute → str or numpy value."""
    return value.decode() if isinstance(value, bytes) else value
