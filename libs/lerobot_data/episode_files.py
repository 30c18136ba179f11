"""One episode of a set that is being written: its rows, videos and statistics, in a folder of their own.

rows.parquet     timestamp, frame_index, the vectors, and the pictures where they are not videos
CAMERA.mp4       where they are
episode.json     its length, tasks, and histograms of its pictures
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from libs.errors import BadInput
from libs.lerobot_data.statistics import histogram
from libs.manifest.pictures import encode_picture

ROWS, EPISODE = "rows.parquet", "episode.json"
# A key frame every other frame, as LeRobot has it: its reader draws frames at random. One thread: processes share the
# cores.
ENCODERS = {
    "h264": ("libx264", {"g": "2", "crf": "18", "bf": "0", "threads": "1"}),
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "8", "svtav1-params": "lp=1"}),
}
PICTURES = ("png", *ENCODERS)  # how pictures are kept


@dataclass(frozen=True)
class SetSpec:
    """What a set is to be.

    fps: frames a second; robot: its type, "" for unknown; cameras: {name: (height, width)}, names without spaces;
    vectors: {name: a name for each number}; pictures: "png", lossless in the rows, "h264" or "av1" in videos;
    source: what it is made from, so that what was begun from something else is not gone on with.
    """

    fps: float
    robot: str
    cameras: dict[str, tuple[int, int]]
    vectors: dict[str, tuple[str, ...]]
    pictures: str
    source: str

    def check(self) -> None:
        """BadInput where it cannot be written."""
        if self.pictures not in PICTURES:
            raise BadInput(f"pictures are kept as {', '.join(PICTURES)}, not {self.pictures!r}")
        if not self.fps > 0:
            raise BadInput(f"fps must be above 0, got {self.fps!r}")
        for name, (height, width) in self.cameras.items():
            if self.pictures != "png" and (height % 2 or width % 2):
                raise BadInput(f"camera {name} has {height} x {width} pixels: a video needs even numbers, png does not")

    @property
    def rate(self) -> Fraction:
        """The frames per second as a fraction: 30000/1001 is that, 29.97 is 2997/100."""
        return Fraction(self.fps).limit_denominator(1001)


@dataclass(frozen=True)
class EpisodeFrames:
    """T frames. instructions: one, or one per frame; vectors: {name: (T, dim)}; pictures: {camera: T pictures (H, W, 3)
    uint8 RGB upright, one after another}."""

    instructions: list[str]
    vectors: dict[str, np.ndarray]
    pictures: dict[str, Iterable[np.ndarray]]


def write_episode(folder: Path | str, spec: SetSpec, number: int, frames: EpisodeFrames) -> None:
    """Make the folder of episode `number`; it is there whole or not at all.

    BadInput, naming the episode, where lengths or sizes disagree, or a number is not finite.
    """
    folder, where = Path(folder), f"episode {number}"
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    length = len(next(iter(frames.vectors.values())))
    columns = {}
    counts = {name: np.zeros((3, 256), dtype=np.int64) for name in spec.cameras}
    for name in spec.cameras:
        pictures = _checked(frames.pictures[name], spec.cameras[name], length, counts[name], f"{where}, camera {name}")
        if spec.pictures == "png":
            stored = [
                {"bytes": encode_picture(picture, "png", 0), "path": f"frame-{frame:06d}.png"}
                for frame, picture in enumerate(pictures)
            ]
            columns[name] = pa.array(stored, type=pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        else:
            encode_video(beside / f"{name}.mp4", pictures, spec)
    for name, names in spec.vectors.items():
        values = np.ascontiguousarray(frames.vectors[name], dtype=np.float32)
        if values.shape != (length, len(names)) or not np.isfinite(values).all():
            raise BadInput(f"{where}: {name} must be {length} x {len(names)} finite numbers, got {values.shape}")
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), len(names))
    columns["timestamp"] = pa.array(np.arange(length) / spec.fps, type=pa.float32())
    columns["frame_index"] = pa.array(np.arange(length))
    texts = frames.instructions * length if len(frames.instructions) == 1 else frames.instructions
    if len(texts) != length or not all(text.strip() for text in texts):
        raise BadInput(f"{where}: needs an instruction, or one for each of its {length} frames, got {len(texts)}")
    tasks = list(dict.fromkeys(texts))
    columns["task"] = pa.array([tasks.index(text) for text in texts])
    pq.write_table(pa.table(columns), beside / ROWS)
    about = {"length": length, "tasks": tasks, "histograms": {name: found.tolist() for name, found in counts.items()}}
    (beside / EPISODE).write_text(json.dumps(about))
    os.rename(beside, folder)


def encode_video(path: Path | str, pictures: Iterable[np.ndarray], spec: SetSpec) -> None:
    """Pictures -> a video file, a frame every 1 / fps seconds from 0 on."""
    codec, options = ENCODERS[spec.pictures]
    os.environ.setdefault("SVT_LOG", "1")  # errors only: that encoder prints its settings for every video
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=spec.rate, options=options)
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, 1 / spec.rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _checked(pictures, size, length, counts, where):
    """The pictures, counted into the histogram; BadInput where there are fewer or more, or they are of another size."""
    number = 0
    for picture in pictures:
        number += 1
        if picture.dtype != np.uint8 or picture.shape != (*size, 3):
            raise BadInput(f"{where}: {picture.dtype} {picture.shape}, expected uint8 {(*size, 3)}")
        counts += histogram(picture)
        yield np.ascontiguousarray(picture)
    if number != length:
        raise BadInput(f"{where}: {length} frames, but {number} pictures")
