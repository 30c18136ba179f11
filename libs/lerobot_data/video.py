"""Frames of a video file by their time, as LeRobot's reader finds them."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from libs.errors import BadInput, first_line
from libs.files import named_path

TOLERANCE_S = 1e-4  # LeRobot's: how far a frame may be from the time that is asked for
AHEAD = 4  # frames that are decoded on the way to one that is near, instead of going back to the key frame before it
AGAIN = "a copy or download that was cut off; get it again"


def tolerance_at(time: float | np.ndarray) -> np.ndarray:
    """How far a frame may be from a time, or from each of an array of times: see `Video.frames`."""
    return np.maximum(TOLERANCE_S, np.spacing(np.float32(time)))


class Video:
    """A video file that is opened when a frame is wanted, anew in each process; it can be pickled.

    Decoding takes one thread: many processes read at once.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._container: Any = None  # of PyAV, and the process that opened it
        self._pid: int | None = None

    def frame(self, time: float) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the frame at `time` seconds. BadInput as `frames`."""
        return next(self.frames([time]))

    def frames(self, times: Iterable[float]) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB of each time, seconds in ascending order.

        The frame nearest to the time, at most TOLERANCE_S away. LeRobot compares in float32, whose step is larger than
        that beyond 1024 s: there a step is allowed.

        Raises:
            BadInput: no such file, no video, a codec that cannot be decoded; the file ends before that time, or has no
                frame there.
        """
        with self._sound():
            for time in times:
                yield self._at(time).to_ndarray(format="rgb24")

    def frame_times(self) -> np.ndarray:
        """(N,) seconds: when each frame is shown, ascending, read from the file's table without decoding.

        BadInput as `frames`.
        """
        with self._sound():
            self._open()
            self._container.seek(0, stream=self._stream)
            packets = self._container.demux(self._stream)
            times = [float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None]
            self.close()  # what was decoded no longer fits where the file is read
        return np.sort(np.array(times))

    def close(self) -> None:
        """Give the file back; it is opened again when needed."""
        if self._container is not None and self._pid == os.getpid():
            self._container.close()
        self._container = None

    def _at(self, time):
        tolerance = float(tolerance_at(time))
        frame = self._near(time, tolerance)
        while frame is not None and frame.time < time - tolerance:
            frame = self._next()
        if frame is None:
            raise BadInput(f"video {self.path} ends before {time:.4f} s: {AGAIN}, or its table of episodes is wrong")
        if frame.time > time + tolerance:
            raise BadInput(f"video {self.path} has no frame at {time:.4f} s; the next one is at {frame.time:.4f} s")
        return frame

    def _near(self, time, tolerance):
        """A frame at or before that time to go on from, None at the file's end."""
        self._open()
        last = self._last
        if last is not None and last.time - tolerance <= time <= last.time + AHEAD * self._step + tolerance:
            return last
        self._seek(time)
        frame = self._next()
        if frame is not None and frame.time > time + tolerance:  # a file whose table of key frames misleads
            self.close()
            self._open()
            frame = self._next()
        return frame

    def _seek(self, time):
        base = self._stream.time_base
        self._container.seek(max(0, int(time / base)), stream=self._stream)  # to the key frame at or before it
        self._decoded = self._container.decode(self._stream)

    def _next(self):
        for frame in self._decoded:
            if frame.pts is not None:
                self._last = frame
                return frame
        self._last = None
        return None

    def _open(self):
        if self._container is not None and self._pid == os.getpid():  # a decoder does not survive a fork
            return
        with named_path(self.path), open(self.path, "rb"):
            pass
        self._container, self._pid = av.open(str(self.path)), os.getpid()
        if not self._container.streams.video:
            raise BadInput(f"{self.path} holds no video")
        self._stream = self._container.streams.video[0]
        if self._stream.codec_context is None:
            raise BadInput(f"video {self.path} has a codec that cannot be decoded here")
        self._stream.codec_context.thread_count = 1
        rate = self._stream.average_rate
        self._step = float(1 / rate) if rate else 0.0
        self._decoded, self._last = self._container.decode(self._stream), None

    @contextlib.contextmanager
    def _sound(self):
        """BadInput, naming the file, for what FFmpeg finds wrong with it."""
        try:
            yield
        except (av.codec.codec.UnknownCodecError, av.error.DecoderNotFoundError) as error:
            self.close()
            raise BadInput(f"video {self.path} has a codec that cannot be decoded here ({first_line(error)})") from None
        except av.error.FFmpegError as error:
            self.close()
            raise BadInput(
                f"video {self.path} is truncated or damaged ({error.strerror or first_line(error)}): {AGAIN}"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_container": None, "_pid": None}
