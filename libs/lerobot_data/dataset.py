"""A LeRobot data set that is read directly: numbers, tasks and pictures of every frame."""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from libs.errors import BadInput
from libs.files import kind_of, named_path
from libs.files.kept_open import KeptOpen
from libs.lerobot_data.layout import Episode, Layout, read_layout
from libs.lerobot_data.marks import INFO
from libs.lerobot_data.rows import Rows, read_rows
from libs.lerobot_data.stored import StoredPictures
from libs.lerobot_data.video import TOLERANCE_S, Video

OPEN_VIDEOS = KeptOpen(32)  # each with a decoder and its pictures; there may be hundreds of sets


class LeRobotSet:
    """The episodes of a set that have frames. It can be pickled, and used under forked or spawned loader workers.

    Args:
        root: its folder (see `find_set` for names of the hub).
        vectors: states and actions to read, by the set's own names; they are held in memory, 4 bytes a number.
        cameras: whose pictures will be asked for, by the set's own names.

    Raises:
        BadInput, in one line: another version, a name that the set does not have (with those that it has), a file that
            is missing, cut off or damaged, a column that is missing, another number of rows than the table of episodes
            has, timestamps that contradict the frames per second.
    """

    def __init__(self, root: Path | str, vectors: Collection[str] = (), cameras: Collection[str] = ()) -> None:
        self.layout: Layout = read_layout(root)
        self.layout.check_cameras(cameras)
        self.cameras = list(cameras)
        self.rows: Rows = read_rows(self.layout, list(vectors))
        self.episodes: dict[int, Episode] = {
            episode.index: episode for episode in self.layout.episodes if episode.index in self.rows.spans
        }
        self._check_episodes()
        self._check_rate()
        self._check_videos()
        self._forget()

    def _forget(self):
        self._videos: dict[Path, Video] = {}
        images = [name for name in self.cameras if self.layout.cameras[name].kind == "image"]
        self._stored = StoredPictures(images)

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.layout.fps

    def num_frames(self, episode: int) -> int:
        """Frames of an episode."""
        span = self.rows.spans[episode]
        return span.stop - span.start

    def vector(self, episode: int, name: str) -> np.ndarray:
        """(T, dim) float32 as recorded: a number may be missing, then it is NaN."""
        return self.rows.vectors[name][self.rows.spans[episode]]

    def instruction(self, episode: int, frame: int) -> str:
        """What was to be done at a frame: the text of the frame's own task; where the set has none of that number, of
        its episode's only one. BadInput where there is neither."""
        number = int(self.rows.task[self.rows.spans[episode]][frame])
        if (text := self.layout.tasks.get(number)) is not None:
            return text
        if len(self.episodes[episode].tasks) == 1:
            return self.episodes[episode].tasks[0]
        raise BadInput(
            f"{self.layout.root}, episode {episode}, frame {frame}: the set has no task {number}; "
            f"it has {', '.join(map(str, self.layout.tasks)) or 'none'}"
        )

    def picture(self, episode: int, frame: int, camera: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright: the frame that LeRobot's own reader returns, decoded anew at every call.

        BadInput, naming file, episode and frame, where it is damaged or not there.
        """
        return next(self.pictures(episode, camera, [frame]))

    def pictures(self, episode: int, camera: str, frames: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """The pictures of an episode one after another (see `picture`); frames: which, ascending; None: all."""
        frames = range(self.num_frames(episode)) if frames is None else frames
        rows, span = self.rows, self.rows.spans[episode]
        try:
            if self.layout.cameras[camera].kind == "video":
                clip = self.episodes[episode].clips[camera]
                yield from self._video(clip.path).frames(clip.start + rows.time[span][frame] for frame in frames)
            else:
                for place in (span.start + frame for frame in frames):
                    yield self._stored.read(rows.files[rows.file[place]], int(rows.row[place]), camera)
        except BadInput as error:
            raise BadInput(f"{error} (episode {episode}, camera {camera})") from None

    def fingerprint(self) -> str:
        """sha256 of what the set says of itself and of the size of every file: another one for another recording, the
        same wherever it lies."""
        layout, digest = self.layout, hashlib.sha256()
        episodes = [(episode.index, episode.length, episode.tasks) for episode in layout.episodes]
        digest.update(repr((layout.version, layout.fps, sorted(layout.tasks.items()), episodes)).encode())
        clips = {clip.path for episode in self.episodes.values() for clip in episode.clips.values()}
        for path in sorted({*layout.data_files, *clips}):
            with named_path(path):
                digest.update(f"{path.relative_to(layout.root)} {os.stat(path).st_size}\n".encode())
        for episode in self.episodes:
            digest.update(self.rows.time[self.rows.spans[episode]].tobytes())
        return digest.hexdigest()

    def _video(self, path):
        if path not in self._videos:
            self._videos[path] = Video(path)
        return OPEN_VIDEOS.used(self._videos[path])

    def _check_episodes(self):
        root = self.layout.root
        lengths = {episode.index: episode.length for episode in self.layout.episodes}
        for number, span in self.rows.spans.items():
            if number not in lengths:
                raise BadInput(f"{root}: the data files hold episode {number}, the table of episodes does not")
            count, frames = span.stop - span.start, self.rows.frame[span]
            if count != lengths[number]:
                raise BadInput(f"{root}, episode {number}: {lengths[number]} frames by its table, {count} rows")
            if not np.array_equal(frames, np.arange(count)):
                wrong = int(np.argmax(frames != np.arange(count)))
                raise BadInput(f"{root}, episode {number}: row {wrong} says frame_index {frames[wrong]}")
        lost = [number for number, length in lengths.items() if length > 0 and number not in self.rows.spans]
        if lost:
            raise BadInput(f"{root}, episode {lost[0]}: {lengths[lost[0]]} frames by its table, but no rows")

    def _check_rate(self):
        """BadInput where the frames of most episodes follow each other in other steps than 1 / fps."""
        fps = self.layout.fps
        steps = {
            number: float(np.median(np.diff(self.rows.time[span])))
            for number, span in self.rows.spans.items()
            if span.stop - span.start > 1
        }
        wrong = {number: step for number, step in steps.items() if not abs(step - 1 / fps) <= TOLERANCE_S}
        if 2 * len(wrong) > len(steps):
            number, step = next(iter(wrong.items()))
            raise BadInput(
                f"{self.layout.root / INFO} says fps {fps:g}, but the timestamps of episode {number} are {step:.4f} s "
                f"apart{f' ({1 / step:.4g} fps)' if step > 0 else ''}: correct the one that is wrong"
            )

    def _check_videos(self):
        seen = set()
        for episode in self.episodes.values():
            for camera in set(self.cameras) & set(episode.clips):
                path = episode.clips[camera].path
                if path not in seen and kind_of(path) != "file":
                    raise BadInput(f"video {path} (episode {episode.index}, camera {camera}) does not exist")
                seen.add(path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_videos": None, "_stored": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
