"""Pictures of a LeRobot data set, decoded once: for training, which reads frames at random.

    <folder>/<camera>.<what it was made of>/settings.json   the set, and a `Plan`
    <folder>/<camera>.<what it was made of>/000012.frames   an episode's pictures (`libs.lerobot_data.packed`)

A file depends on the set, the plan and the episode only, and appears under its name when it is whole: what was begun
goes on, and another recording, or another plan, gets a folder of its own beside.
"""

import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from libs.errors import BadInput
from libs.files import make_folder, write_whole
from libs.jobs import held_folder, run_jobs
from libs.lerobot_data.dataset import LeRobotSet
from libs.lerobot_data.packed import PackedFrames, encode, write_packed
from libs.manifest.pictures import decode_picture

SAMPLES = 16  # pictures per camera that an estimate of the size is made from
SPARE = 1.05  # how much more than estimated must be free
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Plan:
    """What is kept of a camera's pictures.

    box: (top, left, height, width) that is cut out, pixels; None: all. size: (height, width) to which that is resized
    then, by areas where it shrinks and bilinear where not, None: as it is. jpeg_quality: 1 to 100, 0: lossless.
    """

    camera: str
    box: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None
    jpeg_quality: int = 0

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> what is kept of it; BadInput where the box leaves the picture."""
        if self.box is not None:
            top, left, height, width = self.box
            if min(self.box) < 0 or top + height > picture.shape[0] or left + width > picture.shape[1]:
                raise BadInput(f"camera {self.camera}: no box {self.box} in pictures of {picture.shape[:2]} pixels")
            picture = picture[top : top + height, left : left + width]
        if self.size is None or picture.shape[:2] == tuple(self.size):
            return picture
        import cv2  # wants libGL, which a machine that only builds models may lack

        height, width = self.size
        shrinks = height <= picture.shape[0] and width <= picture.shape[1]
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Job:
    """An episode of a camera."""

    plan: Plan
    episode: int


@dataclass(frozen=True)
class Estimate:
    """frames, bytes: of all pictures; missing_frames, missing_bytes: of those that are not in the cache yet; free: of
    the disk. bytes are estimated from SAMPLES pictures a camera."""

    frames: int
    bytes: int
    missing_frames: int
    missing_bytes: int
    free: int


class FrameCache:
    """A cache that is filled by `build`, then read by `picture`; it can be pickled.

    data: the set, with the cameras of the plans; plans: one a camera; folder: where the cache is to lie.
    """

    def __init__(self, data: LeRobotSet, plans: Iterable[Plan], folder: Path | str) -> None:
        self.data, self.folder = data, Path(folder)
        self.plans = {plan.camera: plan for plan in plans}
        made_of = data.fingerprint()
        self._settings = {plan.camera: {"set": made_of, **asdict(plan)} for plan in plans}
        self._places = {name: self.folder / _folder_name(name, tree) for name, tree in self._settings.items()}
        self._open: dict[tuple[str, int], PackedFrames] = {}  # (camera, episode) -> PackedFrames

    def missing(self, episodes: Iterable[int] | None = None) -> list[Job]:
        """What is not there yet, of all episodes of the set or of these, in their order."""
        there = {name: set(os.listdir(place)) if place.is_dir() else set() for name, place in self._places.items()}
        return [
            Job(plan, episode)
            for episode in (self.data.episodes if episodes is None else episodes)
            for name, plan in self.plans.items()
            if _file_name(episode) not in there[name]
        ]

    def estimate(self, episodes: Sequence[int] | None = None) -> Estimate:
        """How much the cache takes, of all episodes or of these, and how much of that is still to be made."""
        chosen = self.data.episodes if episodes is None else episodes
        lengths = {episode: self.data.num_frames(episode) for episode in chosen}
        per_frame = {name: self._bytes_per_frame(plan) for name, plan in self.plans.items()}
        frames, missing = sum(lengths.values()), self.missing(episodes)
        existing = self.folder.absolute()
        while not existing.exists():
            existing = existing.parent
        return Estimate(
            frames=frames * len(self.plans),
            bytes=int(frames * sum(per_frame.values())),
            missing_frames=sum(lengths[job.episode] for job in missing),
            missing_bytes=int(sum(lengths[job.episode] * per_frame[job.plan.camera] for job in missing)),
            free=shutil.disk_usage(existing).free,
        )

    def check_disk(self, episodes: Sequence[int] | None = None) -> Estimate:
        """The estimate; BadInput where the disk has no room for what is missing."""
        estimate = self.estimate(episodes)
        if estimate.missing_bytes * SPARE > estimate.free:
            raise BadInput(
                f"the frame cache in {self.folder} needs {estimate.missing_bytes / 1e9:,.1f} GB, and "
                f"{estimate.free / 1e9:,.1f} GB are free: another folder, smaller pictures, or JPEG"
            )
        return estimate

    def build(self, workers: int, done: Callable[[Job], None], episodes: Sequence[int] | None = None) -> None:
        """Make what is missing, of all episodes or of these; the same call goes on after an interruption.

        done(job): called with each `Job` that is finished. BadInput: a picture cannot be read, another process is at
        it. RuntimeError: a process died. OSError: the disk.
        """
        make_folder(self.folder)
        in_use = f"{self.folder} is in use: another process builds a frame cache there"
        with held_folder(self.folder, in_use):
            for name, place in self._places.items():
                write_whole(place / SETTINGS, json.dumps(self._settings[name], indent=1).encode())
                for rest in place.glob("*.part.frames"):  # what a kill cut off
                    rest.unlink()
            pack = functools.partial(_pack, self.data, self._places)
            run_jobs(pack, self.missing(episodes), workers, done, self.folder)

    def check_complete(self) -> None:
        """BadInput where pictures are missing."""
        if missing := self.missing():
            job = missing[0]
            raise BadInput(
                f"the frame cache {self.folder} lacks {len(missing)} of {len(self.data.episodes) * len(self.plans)} "
                f"pieces, first episode {job.episode} of {job.plan.camera}: build it"
            )

    def picture(self, episode: int, frame: int, camera: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB as the plan has it. BadInput where it is not in the cache, or damaged there."""
        packed = self._open.get((camera, episode))
        if packed is None:
            packed = PackedFrames(self._places[camera] / _file_name(episode))
            self._open[camera, episode] = packed
        return packed.read(frame)

    def picture_or_made(self, episode: int, frame: int, camera: str) -> np.ndarray:
        """As `picture`; where the cache lacks it, made of the set's: to the bit what the cache would hold."""
        if (camera, episode) in self._open or (self._places[camera] / _file_name(episode)).is_file():
            return self.picture(episode, frame, camera)
        plan = self.plans[camera]
        picture = plan.apply(self.data.picture(episode, frame, camera))
        if not plan.jpeg_quality:
            return picture
        decoded = decode_picture(encode(picture, plan))
        assert decoded is not None, "what was just encoded can be read"
        return decoded

    def _bytes_per_frame(self, plan):
        episodes = list(self.data.episodes)
        chosen = [episodes[n] for n in np.linspace(0, len(episodes) - 1, min(SAMPLES, len(episodes))).astype(int)]
        sizes = [
            len(encode(plan.apply(self.data.picture(episode, self.data.num_frames(episode) // 2, plan.camera)), plan))
            for episode in chosen
        ]
        return float(np.mean(sizes)) + 8  # its place in the file's table

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def default_folder(root: Path | str) -> Path:
    """Beside the set: NAME.frames."""
    root = Path(root)
    return root.with_name(f"{root.name}.frames")


def _pack(data, places, job):
    """One job: decode an episode of a camera, keep it."""
    pictures = data.pictures(job.episode, job.plan.camera)
    write_packed(
        places[job.plan.camera] / _file_name(job.episode), (job.plan.apply(picture) for picture in pictures), job.plan
    )


def _file_name(episode):
    return f"{episode:06d}.frames"


def _folder_name(camera, settings):
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{re.sub(r'[^0-9A-Za-z._-]', '_', camera)}.{digest[:12]}"
