"""Samples of a LeRobot set in random order: this code, with and without its frame cache, and LeRobot's own loader.

A sample is a picture of every camera and a chunk of actions; each reader stands under a DataLoader without processes of
its own, and takes its turn in every round: samples per second and core.
"""

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libs.errors import BadInput
from libs.lerobot_data import FrameCache, LeRobotSet, Plan, read_layout
from libs.lerobot_data.checks import suggest
from tools.dev.benchmarks.samples import columns, rotated, spread, with_quartiles

THEIRS = Path(__file__).with_name("lerobot_theirs.py")
BACKENDS = ("torchcodec", "pyav")
FIRST = "this code, frame cache"
JPEG_QUALITY = 95
HORIZON, BATCH, LOOK = 8, 8, 10


class OurSamples(torch.utils.data.Dataset):
    """Frames of a set as samples. pictures: what they are read from, a LeRobotSet or a FrameCache of it."""

    def __init__(self, data: LeRobotSet, action: str, pictures: LeRobotSet | FrameCache) -> None:
        self.data, self.action, self.pictures = data, action, pictures
        self.places = [(episode, frame) for episode in data.episodes for frame in range(data.num_frames(episode))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple:
        episode, frame = self.places[index]
        actions = self.data.vector(episode, self.action)
        steps = np.minimum(np.arange(frame, frame + HORIZON), len(actions) - 1)
        views = [torch.from_numpy(self.pictures.picture(episode, frame, name)) for name in self.data.cameras]
        return views, actions[steps], self.data.instruction(episode, frame)


def measure(
    root: Path, python: str, samples: int, rounds: int, folder: Path | None, report: Callable[[str], None]
) -> dict:
    """Compare the readers of the set in `root`.

    python: an interpreter that has LeRobot, None for none; folder: where the caches are written.
    Returns {"settings", "frames", "cache": {name: ...}, "loaders": {name: ...}, "theirs": {backend: LeRobot's version,
    or why not}, "problems"}.
    """
    torch.set_num_threads(1)
    layout = read_layout(root)
    action = suggest(layout)["action"]
    if not isinstance(action, str):
        raise BadInput(f"{root} has no actions")
    data = LeRobotSet(root, [action], list(layout.cameras))
    order = np.random.default_rng(0).integers(0, len(data.rows.frame), samples).tolist()
    with tempfile.TemporaryDirectory(dir=folder) as caches, contextlib.ExitStack() as stack:
        built, pictures = {}, {}
        for name, quality in ((FIRST, 0), (f"{FIRST} (JPEG {JPEG_QUALITY})", JPEG_QUALITY)):
            pictures[name], built[name] = _built(data, quality, Path(caches) / str(quality))
            report(f"{name}: {built[name]['frames_per_s']:.0f} frames/s to build")
        pictures["this code, read through"] = data
        ours = {name: OurSamples(data, action, source) for name, source in pictures.items()}
        theirs, versions = {}, {}
        for backend in BACKENDS if python else ():
            out = Path(caches) / f"{backend}.npz"
            asked = {"root": str(root), "backend": backend, "action": action, "cameras": data.cameras}
            asked |= {"horizon": HORIZON, "batch": BATCH, "order": order, "look": order[:LOOK], "out": str(out)}
            started = Theirs(python, asked)
            versions[backend] = started.version
            if started.works:
                theirs[f"LeRobot's own, {backend}"] = stack.enter_context(started)
        times = {name: [] for name in (*ours, *theirs)}
        for number in range(rounds):
            for name in rotated(list(times), number):
                seconds = theirs[name].seconds() if name in theirs else _seconds(ours[name], order)
                times[name].append(seconds)
                report(f"{name}: {samples / seconds:.0f} samples/s")
        problems = [problem for name, other in theirs.items() for problem in other.problems(name, ours[FIRST])]
    return {
        "settings": {"data": str(root), "samples": samples, "rounds": rounds},
        "frames": {
            "number": len(data.rows.frame),
            "cameras": {name: [camera.kind, camera.height, camera.width] for name, camera in layout.cameras.items()},
        },
        "cache": built,
        "loaders": {
            name: {
                "per_s": spread([samples / seconds for seconds in taken]),
                "cache_faster_by": statistics.median(a / b for a, b in zip(taken, times[FIRST], strict=True)),
            }
            for name, taken in times.items()
        },
        "theirs": versions,
        "problems": problems,
    }


def _built(data, quality, folder):
    """(a whole cache, {"frames_per_s", "bytes_per_frame", "estimated_bytes_per_frame"}), made in this process."""
    cache = FrameCache(data, [Plan(name, jpeg_quality=quality) for name in data.cameras], folder)
    estimate, start = cache.check_disk(), time.process_time()
    cache.build(1, lambda job: None)
    seconds = time.process_time() - start
    size = sum(path.stat().st_size for path in folder.rglob("*.frames"))
    return cache, {
        "frames_per_s": estimate.frames / seconds,
        "bytes_per_frame": size / estimate.frames,
        "estimated_bytes_per_frame": estimate.bytes / estimate.frames,
    }


def _seconds(dataset, order):
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, sampler=order)
    start = time.process_time()
    for _ in loader:
        pass
    return time.process_time() - start


class Theirs:
    """LeRobot's loader in its process. works: whether it could be started; version: LeRobot's, or why not."""

    def __init__(self, python: str, asked: Mapping[str, Any]) -> None:
        self._out, self._look = asked["out"], asked["look"]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        if stub := os.environ.get("LEROBOT_PYTHONPATH"):
            env["PYTHONPATH"] = stub
        else:
            env.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python, THEIRS, json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        assert self._process.stdin, "a pipe"
        self._stdin, self._python = self._process.stdin, python
        try:
            self.version = self._answer()
            self.seconds()  # the first one opens what later ones find open
            self.works = True
        except BadInput as error:
            self.version, self.works = str(error), False

    def seconds(self) -> float:
        """Processor time that reading all samples took."""
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            self._stdin.write("\n")
            self._stdin.flush()
        return self._answer()

    def problems(self, name: str, ours: OurSamples) -> Iterator[str]:
        """What differs from our samples: lines."""
        self._stdin.close()
        self._process.wait()
        with np.load(self._out) as found:
            for index in self._look:
                views, actions, task = ours[index]
                pairs = [(found[f"{index}/action"], actions), (found[f"{index}/task"], np.array(task))]
                pairs += [
                    (found[f"{index}/{camera}"], view.numpy())
                    for camera, view in zip(ours.data.cameras, views, strict=True)
                ]
                if not all(np.array_equal(one, other) for one, other in pairs):
                    yield f"{name}: frame {index} is another one"

    def _answer(self):
        assert self._process.stdout and self._process.stderr, "both are pipes"
        line = self._process.stdout.readline()
        if not line:
            reason = self._process.stderr.read().strip().splitlines()
            raise BadInput(f"{self._python}: {reason[-1] if reason else 'ended'}")
        return json.loads(line)

    def __enter__(self) -> "Theirs":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()


def table(result: Mapping[str, Any]) -> str:
    """The summary as text."""
    frames = result["frames"]
    sizes = ", ".join(f"{kind} {height} x {width}" for kind, height, width in frames["cameras"].values())
    rows: list[tuple[str, ...]] = [(f"samples of {sizes}", "samples /s/core", "the cache is faster by")]
    for name, numbers in result["loaders"].items():
        rows.append((name, with_quartiles(numbers["per_s"], 0), f"{numbers['cache_faster_by']:.1f}x"))
    lines = [columns(rows), ""]
    rows = [("frame cache", "frames /s/core to build", "KiB/frame", "estimated")]
    for name, numbers in result["cache"].items():
        size, estimated = (numbers[key] / 1024 for key in ("bytes_per_frame", "estimated_bytes_per_frame"))
        rows.append((name, f"{numbers['frames_per_s']:.0f}", f"{size:.1f}", f"{estimated:.1f}"))
    lines += [columns(rows), ""]
    lines += [f"LeRobot, {backend}: {version}" for backend, version in result["theirs"].items()]
    if not result["theirs"]:
        lines.append("LeRobot's own loader is not among them: see --lerobot_python")
    return "\n".join(lines)
