"""Manifests → `Sample`: training data as lines of text with their pictures beside, instead of demonstration files."""

import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from libs.action_text import ActionTextCodec
from libs.errors import BadInput
from libs.files import named_path
from libs.manifest import Rules, read_picture
from libs.manifest.lines import first_line, manifest_file
from rv_train.data import checks
from rv_train.data.base import Demo, Facts, Sample
from rv_train.data.manifest_index import SPLITS, ManifestFile, read_lines, version
from rv_train.data.manifest_stats import check_written, manifest_stats, read_info
from rv_train.data.stats import action_range
from rv_train.data.trajectories import STANDARD_RENDER, check_count, side_or_size, split_demos

MOST_PICTURES = 2000  # that a fingerprint looks at


class ManifestDataset:
    """Every sample of every manifest, in the order of the lines: `Demonstrations`.

    All lines are read once, when it is made. What stays in memory are 32 bytes a sample: where its line stands, which
    demo it is of and which frame. Line and pictures are read when a sample is asked for. It can be pickled.

    Lines that do not name their demo are grouped: neighbours with one instruction and one folder of pictures, up to
    BLOCK lines, count as a demo, and all lines of one instruction as a file.

    Args:
        paths: manifest files.
        views: cameras to read.
        horizon: actions per chunk.
        codec: the ActionTextCodec that their integers were written with.
        written_with: (the statistics that the codec's range is of, where they lie).
        instruction: the language goal of every line; "": what it states.

    Raises:
        BadInput: manifests that were written otherwise than asked for, or differently; no line that can be used.
    """

    mix = ()

    def __init__(
        self,
        paths: Iterable[Path | str],
        views: Iterable[str],
        horizon: int,
        codec: ActionTextCodec,
        written_with: tuple[dict, str],
        instruction: str = "",
    ) -> None:
        self.views, self.horizon, self.codec, self.written_with = list(views), horizon, codec, written_with
        self.parts: dict[str, int] = {}
        self.files = [self._open(path, instruction) for path in paths]
        renders = {file.info.get("render", STANDARD_RENDER): file.path for file in self.files}
        if len(renders) > 1:
            listed = "; ".join(f"{render}: {path}" for render, path in renders.items())
            raise BadInput(f"manifests were rendered with different settings, do not mix them: {listed}")
        (self.render,) = renders
        self.found = read_lines(self.files)
        if not len(self):
            raise BadInput(f"{self.files[0].path}: no line can be used{'; '.join(['', *self.found.bad[:1]])}")
        pictures = dict(zip(self.views, self._line(0).pictures, strict=True))
        cameras = {view: self._picture(0, path).shape[:2] for view, path in pictures.items()}
        self._size = cameras[self.views[0]]  # of the stored main view
        others = dict.fromkeys(named_cameras(first_line(self.files[0].path)))
        self.facts = Facts({**others, **cameras}, codec.action_dim, {})

    def _open(self, path, instruction):
        path = Path(path)
        info = read_info(path.parent)
        wanted = {"horizon": self.horizon, "action_dim": self.codec.action_dim, "num_bins": self.codec.num_bins}
        keys = {"horizon": "ACTION.HORIZON", "action_dim": "ACTION.DIM", "num_bins": "ACTION.NUM_BINS"}
        for name, value in wanted.items():
            if info.get(name, value) != value:
                raise BadInput(f"{path} was written with {name} {info[name]}, {keys[name]} is {value}")
        sizes = self.horizon, self.codec.action_dim, self.codec.num_bins
        rules = Rules(str(path.parent), tuple(self.views), *sizes, instruction)
        with named_path(path), open(path, "rb") as file:
            return ManifestFile(path, rules, info, version(file))

    def __len__(self) -> int:
        return len(self.found.offset)

    def __getitem__(self, index: int) -> Sample:
        line = self._line(index)
        return Sample(
            views=[self._picture(index, path, None if n else self._size) for n, path in enumerate(line.pictures)],
            instruction=line.instruction,
            actions=self._actions(line.numbers),
            proprio=np.zeros(0, dtype=np.float32),
            file=line.file or str(self.files[self.found.source[index]].path),
            demo=line.demo or "",
            frame=int(self.found.frame[index]),
            action_text=line.text,
        )

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_places"}

    @functools.cached_property
    def _places(self) -> list[np.ndarray]:
        """Of every demo its samples, in the order of its frames."""
        order = np.lexsort((self.found.frame, self.found.demo))
        _, starts = np.unique(self.found.demo[order], return_index=True)
        return np.split(order, starts[1:])

    @property
    def demos(self) -> Sequence[Demo]:
        """See `Demonstrations`: each is read when it is asked for, a line per frame. Its actions are what integers
        stand for, NaN where a digit is hidden."""
        return _Demos(self)

    def index(self, number: int, frame: int) -> int:
        """See `Demonstrations`."""
        return int(self._places[number][frame])

    def picture(self, number: int, frame: int, view: str) -> np.ndarray:
        """See `Demonstrations`."""
        index, place = self.index(number, frame), self.views.index(view)
        return self._picture(index, self._line(index).pictures[place], None if place else self._size)

    @property
    def instructions(self) -> list[str]:
        """See `Demonstrations`."""
        return self.found.instructions

    def demo(self, number: int) -> Demo:
        """What `demos` gives."""
        places = self._places[number]
        lines = [self._line(index) for index in places]
        name = lines[0].demo or f"lines from {self.found.line[places[0]]}"
        actions = np.stack([self._actions(line.numbers)[0] for line in lines])
        file, no_proprio = self.files[self.found.source[places[0]]], np.zeros((len(lines), 0), np.float32)
        return Demo(file, lines[0].instruction, name, actions, no_proprio)

    def _line(self, index):
        return self.files[self.found.source[index]].line(int(self.found.offset[index]), int(self.found.length[index]))

    def _picture(self, index, path, size=None):
        """(H, W, 3) uint8; BadInput, naming the line, where it cannot be read or is not of `size`, (H, W)."""
        try:
            picture = read_picture(path)
        except BadInput as error:
            raise BadInput(f"{self._place(index)}: {error}") from None
        height, width = picture.shape[:2]
        if size not in (None, (height, width)):
            expected = f"{size[1]} x {size[0]} as the first one is"
            raise BadInput(f"{self._place(index)}: picture {path} is {width} x {height}, not {expected}")
        return picture

    def _actions(self, numbers):
        """(horizon, A) float32; NaN where a digit is hidden."""
        hidden = np.array([value is None for value in numbers]).reshape(self.horizon, -1)
        integers = np.array([value or 0 for value in numbers]).reshape(self.horizon, -1)
        return np.where(hidden, np.float32("nan"), self.codec.from_integers(integers))

    def _place(self, index):
        return f"{self.files[self.found.source[index]].path}, line {self.found.line[index]}"

    def where(self, index: int) -> str:
        """Sample number → "path/manifest.jsonl, line 18, demo_3, frame 17", for messages."""
        line = self._line(index)
        known = [line.demo, None if line.frame is None else f"frame {line.frame}"]
        return ", ".join([self._place(index), *filter(None, known)])

    @property
    def num_demos(self) -> int:
        return len(self._places)

    def prepare(self, workers: int) -> None:
        """See `Demonstrations`: here nothing."""

    def about(self) -> dict[str, Any]:
        """See `Demonstrations`: num_clipped, num_bad_lines (left out) and num_hidden (samples with hidden digits)."""
        clipped = sum(file.info.get("num_clipped", 0) for file in self.files)
        return {"num_clipped": clipped, "num_bad_lines": self.found.num_bad, "num_hidden": self.found.num_hidden}

    def remarks(self) -> list[str]:
        """See `Demonstrations`."""
        found, lines = self.found, []
        if found.num_bad:
            lines.append(f"{self.bad_lines()} are left out: {self.listed()}")
        if found.num_hidden:
            lines.append(f"{found.num_hidden} of {len(self)} samples hide digits (X): nothing is learned there")
        if found.largest < 0.9 * self.codec.num_bins:
            lines.append(
                f"the largest integer of {self.files[0].path} is {found.largest}, ACTION.NUM_BINS is "
                f"{self.codec.num_bins}: is that what its lines were written with? If not, answers are read as other "
                "actions"
            )
        return lines

    def bad_lines(self) -> str:
        """How many lines cannot be used."""
        return f"{self.found.num_bad} bad lines of {self.found.num_bad + len(self)}"

    def listed(self) -> str:
        """The first of the lines that cannot be used, and why."""
        return "; ".join(self.found.bad) + ("; ..." if self.found.num_bad > len(self.found.bad) else "")

    def fingerprint(self) -> str:
        """See `Demonstrations`.

        It covers what that of demonstration files does, but for the actions the text of every sample. Pictures: the
        first of every demo (main view), of at most MOST_PICTURES demos. Where the files lie does not matter.
        """
        about = ["manifest", self.views, self.render, side_or_size(self._size), self.found.digest]
        digest = hashlib.sha256(json.dumps(about).encode())
        _, first = np.unique(self.found.demo, return_index=True)
        for index in first[:: -(-len(first) // MOST_PICTURES)]:
            digest.update(self._picture(index, self._line(index).pictures[0], self._size).tobytes())
        return digest.hexdigest()

    def own_split(self) -> list[str | None]:
        """See `Demonstrations`."""
        return [SPLITS[self.found.split[demo]] for demo in np.unique(self.found.demo)]

    def split(self, val_share: float, seed: int) -> tuple["ManifestDataset", "ManifestDataset | None"]:
        """See `Demonstrations`: the same demos of the same data are held out as of demonstration files."""
        if val_share == 0:
            return self, None
        groups, goals = (column[np.unique(self.found.demo)].tolist() for column in (self.found.group, self.found.goal))
        chosen = split_demos(groups, goals, self.own_split(), val_share, seed, self.files[0].path)
        return self._subset(chosen["train"]), self._subset(chosen["valid"]) if chosen["valid"] else None

    def first(self, count: int) -> "ManifestDataset":
        """See `Demonstrations`."""
        check_count(count, self)
        part = self._subset(range(count))
        digest = hashlib.sha256(f"{count} of {self.found.digest}".encode()).hexdigest()
        part.found = dataclasses.replace(part.found, digest=digest)
        return part

    def _subset(self, numbers):
        part = copy.copy(self)
        part.__dict__.pop("_places", None)
        part.found = self.found.of_demos(np.unique(self.found.demo)[list(numbers)])
        return part


class _Demos(Sequence):
    """The demos of a ManifestDataset, read one by one."""

    def __init__(self, data: ManifestDataset):
        self._data = data

    def __len__(self) -> int:
        return self._data.num_demos

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._data.demo(number)


class Manifests:
    """The `Source` of manifests."""

    NUMBERS, PROPRIO = False, False
    ABOUT = "manifests, or folders that hold a manifest.jsonl"

    def fits(self, entry: Path) -> bool:
        """See `Source`."""
        try:
            return manifest_file(entry).suffix == ".jsonl"
        except BadInput:
            return False

    def look(self, cfg: CfgNode) -> Facts:
        """See `Source`: what the first line of the first manifest says."""
        path = find_manifests(cfg.DATA.FILES)[0]
        line = first_line(path)
        info, dim, horizon = read_info(path.parent), line.get("D"), line.get("H")
        # Of the one picture of a line any name will do, where nothing beside the manifest says it.
        cameras = named_cameras(line) or (info.get("views", ["image"]) if "image_path" in line else [])
        if not cameras or type(dim) is not int or type(horizon) is not int:
            raise BadInput(f"{path}: its first line names no picture (image_path, image_paths), or no size (H, D)")
        needs = {"ACTION.HORIZON": horizon, "ACTION.NUM_BINS": info.get("num_bins", cfg.ACTION.NUM_BINS)}
        return Facts(dict.fromkeys(cameras), dim, {}, needs=needs)

    def open(self, cfg: CfgNode) -> ManifestDataset:
        """See `Source`; also where lines cannot be used and DATA.SKIP_BAD does not leave them out."""
        paths = find_manifests(cfg.DATA.FILES)
        check_written(paths, cfg.ACTION.RANGE)
        stats, origin = manifest_stats(paths, cfg)
        codec = ActionTextCodec(*action_range(stats, cfg.ACTION.RANGE), cfg.ACTION.NUM_BINS)
        chosen = cfg.DATA.VIEWS, cfg.ACTION.HORIZON, codec, (stats, origin), cfg.DATA.INSTRUCTION
        data = ManifestDataset(paths, *chosen)
        problems = filter(None, map(checks.text_problem, data.instructions))
        checks.refuse(f"{', '.join(map(str, paths))}: an instruction {problem}" for problem in problems)
        if data.found.num_bad and not cfg.DATA.SKIP_BAD:
            raise BadInput(
                f"{data.bad_lines()}: {data.listed()}; tools/peek_manifest.py lists all, DATA.SKIP_BAD True "
                "(--skip_bad) goes on without"
            )
        return data


def named_cameras(line: dict) -> list[str]:
    """The cameras that a line of a manifest names, [] where it names none: its one picture is of none in particular."""
    paths = line.get("image_paths")
    return list(map(str, paths)) if isinstance(paths, dict) else []


def find_manifests(entries: Iterable[Path | str]) -> list[Path]:
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
