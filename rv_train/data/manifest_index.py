"""Where the samples of manifests stand: one pass over all lines, of which a few numbers stay in memory."""

import dataclasses
import hashlib
import os
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from libs.errors import BadInput
from libs.manifest import BadLine, Line, Rules, numbered_lines, read_line
from libs.manifest.lines import check_pictures

BLOCK = 200  # lines: as much as one demo can be where lines do not say which demo they come from
LISTED = 10  # bad lines that a message names
SPLITS = (None, "train", "valid", "neither")
OF_A_SAMPLE = {"source": "i", "offset": "q", "length": "i", "line": "i", "demo": "i", "frame": "i"}  # types of array


@dataclass(frozen=True, eq=False)
class ManifestFile:
    """One manifest. path; rules: what its lines fit; info: its manifest_info.json, {} where it has none; version: size
    and time of change when it was read."""

    path: Path
    rules: Rules
    info: dict
    version: tuple

    def line(self, offset: int, length: int) -> Line:
        """The Line at a place; BadInput where the file is no longer the one that was read."""
        # Opened for each line (10 us beside 1 ms for its pictures): nothing to share between loader processes.
        with open(self.path, "rb") as file:
            file.seek(offset)
            raw = file.read(length)
            changed = version(file) != self.version
        if changed:
            raise BadInput(f"manifest {self.path} changed while it was in use: start again with files that stay")
        return read_line(raw, self.rules)


@dataclass(frozen=True)
class Found:
    """What stands in some manifests.

    Of every sample, (N,) each: source: number of its file; offset, length: of its line, bytes; line: its number; demo:
    number of its demo; frame: of the demo, the line's number where the line does not say.
    Of every demo: group: number of what is a file for the split; goal: of its instruction; split: its place in SPLITS.
    bad: the first lines that cannot be used, and why; num_bad: of all of them. num_hidden: samples with hidden digits.
    largest: integer. instructions: each once. digest: of all demos, instructions and texts.
    """

    source: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    line: np.ndarray
    demo: np.ndarray
    frame: np.ndarray
    group: np.ndarray
    goal: np.ndarray
    split: np.ndarray
    bad: list[str]
    num_bad: int
    num_hidden: int
    largest: int
    instructions: list[str]
    digest: str

    def of_demos(self, demos: Collection[int]) -> "Found":
        """The samples of these demos alone."""
        kept = np.isin(self.demo, list(demos))
        return dataclasses.replace(self, **{name: getattr(self, name)[kept] for name in OF_A_SAMPLE})


def read_lines(files: Sequence[ManifestFile]) -> Found:
    """Look at every line: where the good ones stand, what the bad ones lack."""
    columns = {name: array(kind) for name, kind in OF_A_SAMPLE.items()}
    demos, digest, bad, instructions = _Numbers(), hashlib.sha256(), [], {}
    num_bad = num_hidden = largest = 0
    total = sum(file.version[0] for file in files)
    bar = tqdm(desc="lines", total=total, unit="B", unit_scale=True, delay=10, disable=None)  # on a terminal
    for place, file in enumerate(files):
        for line_number, start, raw in numbered_lines(file.path):
            bar.update(len(raw))
            try:
                line = read_line(raw, file.rules)
                check_pictures(line)
            except BadLine as error:
                num_bad += 1
                if len(bad) < LISTED:
                    bad.append(f"{file.path}, line {line_number}: {error}")
                continue
            hidden = None in line.numbers
            num_hidden += hidden
            known = [value for value in line.numbers if value is not None] if hidden else line.numbers
            largest = max(largest, max(known, default=0))
            instructions[line.instruction] = None
            demo = demos.number(place, line)
            frame = line_number if line.frame is None else line.frame
            values = (place, start, len(raw), line_number, demo, frame)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            digest.update(f"{demo}\n{line.instruction}\n{line.text}\n".encode())
    bar.close()
    return Found(
        **{name: np.array(column) for name, column in columns.items()},
        group=np.array(demos.groups),
        goal=np.array(demos.goals),
        split=np.array(demos.splits),
        bad=bad,
        num_bad=num_bad,
        num_hidden=num_hidden,
        largest=largest,
        instructions=list(instructions),
        digest=digest.hexdigest(),
    )


class _Numbers:
    """Numbers the demos that lines come from, and the groups ("files") of demos."""

    def __init__(self):
        # Of each demo: its group, the number of its instruction, its place in SPLITS.
        self.groups, self.goals, self.splits = array("i"), array("i"), array("b")
        self._known, self._group_numbers, self._goal_numbers = {}, {}, {}
        self._run, self._left = None, 0

    def number(self, source: int, line: Line) -> int:
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
        self.goals.append(self._goal_numbers.setdefault(line.instruction, len(self._goal_numbers)))
        self.splits.append(SPLITS.index(line.split))


def version(file: BinaryIO) -> tuple[int, int]:
    """Size and time of change of an open file."""
    now = os.fstat(file.fileno())
    return now.st_size, now.st_mtime_ns
