"""Manifests → `Sample`: training data as lines of text with their pictures beside, instead of demonstration files."""

import copy
import hashlib
import json
import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libs.demo_hdf5.schema import STANDARD_RENDER
from libs.errors import BadInput
from libs.files import kind_of, named_path, read_json_object
from libs.manifest import BadLine, Rules, numbered_lines, read_line, read_picture
from libs.manifest.lines import INFO, check_pictures, manifest_file
from rv_train.data.demos import Sample, split_at_random

BLOCK = 200  # lines: as much as one demo can be where lines do not say which demo they come from
LISTED = 10  # bad lines that a message names
MOST_PICTURES = 2000  # that a fingerprint looks at
SPLITS = (None, "train", "valid", "neither")


@dataclass(frozen=True)
class ManifestFile:
    """One manifest. path; rules: what its lines fit; info: its manifest_info.json, {} where it has none; version: size
    and time of change when it was read."""

    path: Path
    rules: Rules
    info: dict
    version: tuple

    def line(self, offset, length):
        """The Line at a place; BadInput where the file is no longer the one that was read."""
        # Opened for each line (10 us beside 1 ms for its pictures): nothing to share between loader processes.
        with open(self.path, "rb") as file:
            file.seek(offset)
            raw = file.read(length)
            changed = _version(file) != self.version
        if changed:
            raise BadInput(f"manifest {self.path} changed while it was in use: start again with files that stay")
        return read_line(raw, self.rules)


class ManifestDataset:
    """Every sample of every manifest, in the order of the lines; takes the place of a `DemoDataset`.

    All lines are read once, when it is made. What stays in memory are 28 bytes a sample: where its line stands and
    which demo it is of. Line and pictures are read when a sample is asked for. It can be pickled.

    Lines that do not name their demo are grouped: neighbours with one instruction and one folder of pictures, up to
    BLOCK lines, count as a demo, and all lines of one instruction as a file.

    Args:
        paths: manifest files.
        views: cameras to read.
        horizon: actions per chunk.
        codec: the ActionTextCodec that their integers were written with.
    Raises:
        BadInput: manifests that were written otherwise than asked for, or differently; no line that can be used.
    """

    def __init__(self, paths, views, horizon, codec):
        self.views, self.horizon, self.codec = list(views), horizon, codec
        self.files = [self._open(path) for path in paths]
        found = {file.info.get("render", STANDARD_RENDER): file.path for file in self.files}
        if len(found) > 1:
            listed = "; ".join(f"{render}: {path}" for render, path in found.items())
            raise BadInput(f"manifests were rendered with different settings, do not mix them: {listed}")
        (self.render,) = found
        self._read_lines()
        if not len(self):
            raise BadInput(f"{self.files[0].path}: no line can be used{_first(self.bad)}")
        self.resolution = len(self._picture(0, self._line(0).pictures[0]))  # side of the stored main view, pixels

    def _open(self, path):
        path = Path(path)
        info = read_info(path.parent)
        wanted = {"horizon": self.horizon, "action_dim": self.codec.action_dim, "num_bins": self.codec.num_bins}
        keys = {"horizon": "ACTION.HORIZON", "action_dim": "ACTION.DIM", "num_bins": "ACTION.NUM_BINS"}
        for name, value in wanted.items():
            if info.get(name, value) != value:
                raise BadInput(f"{path} was written with {name} {info[name]}, {keys[name]} is {value}")
        rules = Rules(str(path.parent), tuple(self.views), self.horizon, self.codec.action_dim, self.codec.num_bins)
        with named_path(path), open(path, "rb") as file:
            return ManifestFile(path, rules, info, _version(file))

    def _read_lines(self):
        """Look at every line: where the good ones stand, what the bad ones lack."""
        source, offset, length, number, demo = (array(kind) for kind in "iqiqi")
        demos, digest = _Demos(), hashlib.sha256()
        self.bad, self.num_bad, self.num_hidden, self.largest = [], 0, 0, 0
        self.instructions = {}
        total = sum(file.version[0] for file in self.files)
        bar = tqdm(desc="lines", total=total, unit="B", unit_scale=True, delay=10, disable=None)  # on a terminal
        for place, file in enumerate(self.files):
            for line_number, start, raw in numbered_lines(file.path):
                bar.update(len(raw))
                try:
                    line = read_line(raw, file.rules)
                    check_pictures(line)
                except BadLine as error:
                    self.num_bad += 1
                    if len(self.bad) < LISTED:
                        self.bad.append(f"{file.path}, line {line_number}: {error}")
                    continue
                hidden = None in line.numbers
                self.num_hidden += hidden
                known = [value for value in line.numbers if value is not None] if hidden else line.numbers
                self.largest = max(self.largest, max(known, default=0))
                self.instructions[line.instruction] = None
                for values, value in (
                    (source, place),
                    (offset, start),
                    (length, len(raw)),
                    (number, line_number),
                    (demo, demos.number(place, line)),
                ):
                    values.append(value)
                digest.update(f"{demo[-1]}\n{line.instruction}\n{line.text}\n".encode())
        bar.close()
        self.instructions = list(self.instructions)
        self._source, self._offset, self._length, self._number, self._demo = map(
            np.array, (source, offset, length, number, demo)
        )
        self._group_of, self._split_of = np.array(demos.groups), np.array(demos.splits)
        self._digest = digest.hexdigest()

    def __len__(self):
        return len(self._offset)

    def __getitem__(self, index):
        line = self._line(index)
        return Sample(
            views=[self._picture(index, path, None if n else self.resolution) for n, path in enumerate(line.pictures)],
            instruction=line.instruction,
            actions=self._actions(line.numbers),
            proprio=np.zeros(0, dtype=np.float32),
            file=line.file or str(self.files[self._source[index]].path),
            demo=line.demo or "",
            frame=int(self._number[index]) if line.frame is None else line.frame,
            action_text=line.text,
        )

    def _line(self, index):
        return self.files[self._source[index]].line(int(self._offset[index]), int(self._length[index]))

    def _picture(self, index, path, side=None):
        """(H, H, 3) uint8; BadInput, naming the line, where it cannot be read or has another side than `side`."""
        try:
            picture = read_picture(path)
        except BadInput as error:
            raise BadInput(f"{self._place(index)}: {error}") from None
        height, width = picture.shape[:2]
        if height != width or side not in (None, height):
            expected = f"{side} x {side} as the first one is" if side else "square"
            raise BadInput(f"{self._place(index)}: picture {path} is {width} x {height}, not {expected}")
        return picture

    def _actions(self, numbers):
        """(horizon, A) float32; NaN where a digit is hidden."""
        hidden = np.array([value is None for value in numbers]).reshape(self.horizon, -1)
        integers = np.array([value or 0 for value in numbers]).reshape(self.horizon, -1)
        return np.where(hidden, np.float32("nan"), self.codec.from_integers(integers))

    def _place(self, index):
        return f"{self.files[self._source[index]].path}, line {self._number[index]}"

    def where(self, index):
        """Sample number → "path/manifest.jsonl, line 18, demo_3, frame 17", for messages."""
        line = self._line(index)
        known = [line.demo, None if line.frame is None else f"frame {line.frame}"]
        return ", ".join([self._place(index), *filter(None, known)])

    @property
    def num_demos(self):
        return len(np.unique(self._demo))

    def fingerprint(self):
        """What a run's data is known by: sha256 in hexadecimal, see `data_fingerprint`.

        It covers what that of demonstration files does, but for the actions the text of every sample. Pictures: the
        first of every demo (main view), of at most MOST_PICTURES demos. Where the files lie does not matter.
        """
        about = ["manifest", self.views, self.render, self.resolution, self._digest]
        digest = hashlib.sha256(json.dumps(about).encode())
        _, first = np.unique(self._demo, return_index=True)
        for index in first[:: -(-len(first) // MOST_PICTURES)]:
            digest.update(self._picture(index, self._line(index).pictures[0], self.resolution).tobytes())
        return digest.hexdigest()

    def split(self, val_share, seed):
        """Hold whole demos out for validation, as `DemoDataset.split` does, and the same ones of the same data.

        Returns:
            (ManifestDataset to train on, held-out ManifestDataset or None where there is none).
        Raises:
            BadInput: nothing is left to train on.
        """
        if val_share == 0:
            return self, None
        chosen = {"train": [], "valid": []}
        demos = np.unique(self._demo)
        demos = demos[np.argsort(self._group_of[demos], kind="stable")]
        groups, starts = np.unique(self._group_of[demos], return_index=True)
        # Groups are numbered in the order of the lines, as demonstration files are: the same ones are drawn.
        for group, members in zip(groups, np.split(demos, starts[1:]), strict=True):
            listed = self._split_of[members]
            if listed.any():
                kept, held_out = (members[listed == SPLITS.index(name)] for name in ("train", "valid"))
            else:
                kept, held_out = split_at_random(members, val_share, [seed, int(group)])
            chosen["train"].extend(kept)
            chosen["valid"].extend(held_out)
        if not chosen["train"]:
            raise BadInput(f"{self.files[0].path}: every demo is held out for validation, none is left to train on")
        return self._subset(chosen["train"]), self._subset(chosen["valid"]) if chosen["valid"] else None

    def _subset(self, demos):
        part, kept = copy.copy(self), np.isin(self._demo, demos)
        for name in ("_source", "_offset", "_length", "_number", "_demo"):
            setattr(part, name, getattr(self, name)[kept])
        return part


class _Demos:
    """Numbers the demos that lines come from, and the groups ("files") of demos."""

    def __init__(self):
        self.groups, self.splits = array("i"), array("b")  # of each demo: its group, its place in SPLITS
        self._known, self._group_numbers = {}, {}
        self._run, self._left = None, 0

    def number(self, source, line):
        """The number of a line's demo; `source` tells manifests apart. To be called in the order of the lines."""
        if line.demo is None:
            run = (source, line.instruction, os.path.dirname(line.pictures[0]))
            if run != self._run or self._left == 0:
                self._run, self._left = run, BLOCK
                self._add((source, line.instruction), line)
            self._left -= 1
            return len(self.groups) - 1
        self._run = None
        group = (source, line.file or line.instruction)
        key = (*group, line.demo)
        if key not in self._known:
            self._known[key] = len(self.groups)
            self._add(group, line)
        return self._known[key]

    def _add(self, group, line):
        self.groups.append(self._group_numbers.setdefault(group, len(self._group_numbers)))
        self.splits.append(SPLITS.index(line.split))


def find_manifests(entries):
    """Files and folders → the list of manifest files.

    Raises:
        BadInput: no entry, one that does not exist, or a folder without a manifest.jsonl.
    """
    if not entries:
        raise BadInput("DATA.FILES is empty; give manifests or their folders (tools/build_manifest.py writes them)")
    paths = []
    for entry in entries:
        try:
            paths.append(manifest_file(entry))
        except BadInput as error:
            raise BadInput(f"DATA.FILES: {error}") from None
    return list(dict.fromkeys(paths))


def read_info(folder):
    """What tools/build_manifest.py wrote of a manifest, {} where it did not; BadInput where it cannot be read."""
    path = Path(folder) / INFO
    return read_json_object(path) if kind_of(path) else {}


def _first(bad):
    return f"; {bad[0]}" if bad else ""


def _version(file):
    now = os.fstat(file.fileno())
    return now.st_size, now.st_mtime_ns
