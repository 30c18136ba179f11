"""Demonstration files -> a manifest and its pictures, demo by demo, in as many processes as wanted.

    <out>/manifest.jsonl         a line per sample; it appears last, when everything else is there
    <out>/frames/<file>/<demo>/000012_agentview.png, ... and SHA256SUMS, as `sha256sum -c` reads it
    <out>/.parts/<file>/<demo>.jsonl    while it is built: the lines of a finished demo

What a demo gives depends on its file and the settings only. Its pictures are written into a folder beside and renamed,
then its lines are, so a kill leaves nothing half done, and the bytes in the end depend neither on kills nor on the
number of processes.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from libs.action_text import ActionTextCodec
from libs.errors import BadInput
from libs.files import make_folder, named_path, read_json_object, whole_file, write_whole
from libs.jobs import held_folder, run_jobs
from libs.manifest.lines import MANIFEST, SUMS
from libs.manifest.pictures import SUFFIXES, encode_picture

PARTS, SETTINGS = ".parts", "settings.json"


@dataclass(frozen=True)
class Settings:
    """Everything that the bytes depend on.

    views: cameras; horizon: actions per sample; num_bins: the largest integer; low, high: (A,) range of the actions;
    picture_format: "png" or "jpeg"; jpeg_quality: 1 to 100, 0 for png; fingerprint: of the demonstrations.
    """

    views: list
    horizon: int
    num_bins: int
    low: list
    high: list
    picture_format: str
    jpeg_quality: int
    fingerprint: str


class Readable(Protocol):
    """Demonstrations of any kind, which can be pickled. views: of a sample, in its order; demos: each with file.path,
    name and actions (T, A)."""

    views: list[str]

    @property
    def demos(self) -> Sequence[Any]: ...

    def index(self, number: int, frame: int) -> int:
        """The sample of a frame of demo `number`."""

    def __getitem__(self, index: int) -> Any:
        """A sample, with views (H, W, 3) uint8 upright, its own instruction and actions (horizon, A)."""


@dataclass(frozen=True)
class DemoTask:
    """One demo. number: among all; folder: what its file is called in the manifest; demo: "demo_3"; frames: how many;
    split: "train", "valid", "neither" by the data's own lists, None where it has none."""

    number: int
    folder: str
    demo: str
    frames: int
    split: str | None


class Build:
    """A manifest in the making; a context manager that holds its folder, so that no other process builds there.

    Raises:
        BadInput: another process builds there, it was begun with other settings, or the folder holds other things.
    """

    def __init__(self, out: Path, settings: Settings, data: Readable, tasks: list[DemoTask]) -> None:
        self.out, self.settings, self.data, self.tasks = Path(out), settings, data, tasks
        self.parts = self.out / PARTS

    def __enter__(self) -> "Build":
        make_folder(self.out)
        with named_path(self.out, "written"):
            if not self.parts.exists() and any(self.out.iterdir()):
                raise BadInput(f"{self.out} is not empty, and nothing that this tool began: choose another --out")
        self._held = held_folder(self.parts, f"{self.out} is in use: another process builds a manifest there")
        self._held.__enter__()
        record = self.parts / SETTINGS
        if record.exists():
            check_same(self.settings, read_json_object(record), self.out)
        else:
            write_whole(record, json.dumps(asdict(self.settings)).encode())
        for rest in self.parts.glob("*/*.frames"):  # what a kill cut off
            shutil.rmtree(rest)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def missing(self) -> list[DemoTask]:
        """The tasks that are not finished."""
        return [task for task in self.tasks if not self._lines(task).exists()]

    def run(self, workers: int, progress: Callable[[DemoTask], None]) -> None:
        """Do what is missing; `progress(task)` is called after each demo.

        Raises:
            BadInput: a demonstration file that is damaged or has changed.
            OSError: something cannot be written. RuntimeError: a process died.
        """
        build = functools.partial(build_demo, self.out, self.settings, self.data)
        run_jobs(build, self.missing(), workers, progress, self.out)

    def finish(self, companions: dict[str, bytes]) -> None:
        """Join the lines, write the files beside the manifest, then show it.

        Args:
            companions: {file name: bytes}.
        """
        digest = hashlib.sha256()
        with whole_file(self.out / MANIFEST, sync=True) as beside:
            with open(beside, "wb") as file:
                for task in self.tasks:
                    lines = self._lines(task).read_bytes()
                    digest.update(lines)
                    file.write(lines)
            self._write_companions(companions, digest.hexdigest())
        clear_parts(self.out)

    def _write_companions(self, companions, manifest_sum):
        sums = {MANIFEST: manifest_sum}
        for name, content in companions.items():
            write_whole(self.out / name, content)
            sums[name] = hashlib.sha256(content).hexdigest()
        write_whole(self.out / SUMS, _sums(sums))

    def _lines(self, task):
        return self.parts / task.folder / f"{task.demo}.jsonl"


def build_demo(out: Path, settings: Settings, data: Readable, task: DemoTask) -> None:
    """Pictures, checksums and lines of one demo."""
    part = out / PARTS / task.folder
    beside, final = part / f"{task.demo}.frames", out / "frames" / task.folder / task.demo
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    codec = ActionTextCodec(settings.low, settings.high, settings.num_bins)
    sums, lines = {}, []
    for frame in range(task.frames):
        sample, names = data[data.index(task.number, frame)], {}  # as training reads it
        for view, picture in zip(data.views, sample.views, strict=True):
            content = encode_picture(picture, settings.picture_format, settings.jpeg_quality)
            names[view] = f"{frame:06d}_{view}{SUFFIXES[settings.picture_format]}"
            (beside / names[view]).write_bytes(content)
            sums[names[view]] = hashlib.sha256(content).hexdigest()
        paths = {view: f"frames/{task.folder}/{task.demo}/{name}" for view, name in names.items()}
        line = {
            **({"image_path": paths[settings.views[0]]} if len(paths) == 1 else {"image_paths": paths}),
            "instruction": sample.instruction,
            "target_action_text": codec.encode(sample.actions[None])[0],
            "H": settings.horizon,
            "D": codec.action_dim,
            "file": task.folder,
            "demo": task.demo,
            "frame": frame,
        }
        lines.append(json.dumps(line if task.split is None else {**line, "split": task.split}) + "\n")
    (beside / SUMS).write_bytes(_sums(sums))
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(final, ignore_errors=True)  # of a kill between the two renames
    os.rename(beside, final)
    write_whole(part / f"{task.demo}.jsonl", "".join(lines))


def make_tasks(data: Readable, split: Sequence[str | None]) -> Iterator[DemoTask]:
    """The DemoTasks of all demos, in order. split: of each what the data's own lists say."""
    folders, taken = {}, set()  # of a file -> its name in the manifest
    for number, demo in enumerate(data.demos):
        if demo.file not in folders:
            count, name = 1, demo.file.path.stem
            while name in taken:  # two suites may have a file of the same name
                count += 1
                name = f"{demo.file.path.stem}-{count}"
            folders[demo.file] = name
            taken.add(name)
        yield DemoTask(number, folders[demo.file], demo.name, len(demo.actions), split[number])


def check_same(settings: Settings, found: Mapping[str, Any], where: Path | str) -> None:
    """BadInput, naming what differs, where `found` (a dict) are other settings."""
    wanted = asdict(settings)
    different = [f"{key} {found.get(key)!r}, not {wanted[key]!r}" for key in wanted if found.get(key) != wanted[key]]
    if different:
        raise BadInput(f"{where} holds a manifest with {'; '.join(different)}: choose another --out")


def clear_parts(out: Path | str) -> None:
    shutil.rmtree(Path(out) / PARTS, ignore_errors=True)


def _sums(sums):
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()
