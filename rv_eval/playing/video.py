"""A video per episode: the views side by side; instruction, step and outcome are written under them. Beside it lies its
poster, a small picture of its end, which a page can show before the video is loaded."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from libs.files import whole_file, write_whole

VIEW_SIDE = 256  # height of a view in the video, pixels
LINE_HEIGHT = 18
END_SECONDS = 1.0  # how long the last picture stands
POSTER_WIDTH, POSTER_QUALITY = 320, 75  # pixels, JPEG's 0 to 100: about 10 kB


class EpisodeFrames:
    """Collects an episode's pictures: one frame every `every` steps, each view as it was rendered last.

    control_hz: steps per second of the environment, which a video shows in real time.
    """

    def __init__(self, every: int, control_hz: float) -> None:
        self.every, self.control_hz = every, control_hz
        self._latest = {}
        self._frames = []  # (step, {view: (R, R, 3) uint8})

    def views_at(self, step: int) -> tuple[str, ...]:
        """What to render after `step` steps for the video alone: the first camera, at its own rate."""
        return tuple(self._latest)[:1] if step % self.every == 0 else ()

    def add(self, step: int, views: dict) -> None:
        """Take the pictures (may be none) that were rendered after `step` steps."""
        self._latest = self._latest | views
        if step % self.every == 0 and self._latest:
            self._frames.append((step, dict(self._latest)))

    def __iter__(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(step, {view: (R, R, 3) uint8}) of every frame."""
        return iter(self._frames)

    def write(self, path: Path | str, instruction: str, success: bool, steps: int) -> None:
        """Write the video to `path` (.mp4), in real time, and its poster; a file under these names is always complete.

        OSError: it cannot be written.
        """
        import imageio

        fps = self.control_hz / self.every
        outcome = f"success after {steps} steps" if success else f"no success in {steps} steps"
        with whole_file(path) as part:
            with imageio.get_writer(part, fps=fps, codec="libx264", macro_block_size=2, quality=6) as writer:
                for step, views in self._frames:
                    picture = draw_frame(views, instruction, f"step {step}")
                    writer.append_data(picture)
                if self._frames:
                    colour = (110, 220, 110) if success else (240, 110, 110)
                    picture = draw_frame(self._frames[-1][1], instruction, outcome, colour)
                    for _ in range(max(1, round(END_SECONDS * fps))):
                        writer.append_data(picture)
            if not _is_whole(part):
                raise OSError(f"the encoder left no whole video of {path}: is the disk full?")
            if self._frames:
                _write_poster(path, picture)


def poster_path(video: Path | str) -> Path:
    return Path(video).with_suffix(".jpg")


def make_poster(video: Path | str) -> bool:
    """Write the poster of a video that has none, from its last picture; False where it cannot be read.

    OSError: the poster cannot be written.
    """
    import cv2

    file, picture = cv2.VideoCapture(str(video)), None
    file.set(cv2.CAP_PROP_POS_FRAMES, max(0.0, file.get(cv2.CAP_PROP_FRAME_COUNT) - 1))
    read, picture = file.read()
    file.release()
    if read:
        _write_poster(video, picture[..., ::-1])
    return read


def _write_poster(video: Path | str, picture: np.ndarray) -> None:
    """picture: (H, W, 3) uint8 RGB, one of the video's."""
    import cv2

    size = POSTER_WIDTH, round(picture.shape[0] * POSTER_WIDTH / picture.shape[1])
    small = cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, POSTER_QUALITY])[1]
    write_whole(poster_path(video), jpeg.tobytes())


def _is_whole(path: Path | str) -> bool:
    """Whether an MP4 file came to its end: nobody says so where ffmpeg fails at the last. The file is a row of boxes,
    each with its length in bytes and its kind (ISO/IEC 14496-12), and ffmpeg writes the index, "moov", last."""
    kind = b""
    with open(path, "rb") as file:
        length, end = os.fstat(file.fileno()).st_size, 0
        while end < length:
            file.seek(end)
            size, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
            if size < 8:  # never filled in
                return False
            end += size
    return end == length and kind == b"moov"


def draw_frame(
    views: dict, instruction: str, status: str, colour: tuple[int, int, int] = (255, 255, 255)
) -> np.ndarray:
    """views {name: (H, W, 3) uint8 upright} -> one picture (H, W, 3) uint8 with lines of text below."""
    import cv2

    row = np.concatenate([_to_side(view) for view in views.values()], axis=1)
    lines = [(line, (255, 255, 255)) for line in _wrap(instruction, row.shape[1] // 7)]
    lines.append((status, colour))
    board = np.zeros((LINE_HEIGHT * len(lines) + 6, row.shape[1], 3), np.uint8)  # an even height, for the codec
    for i, (line, line_colour) in enumerate(lines):
        place = (6, LINE_HEIGHT * (i + 1) - 4)
        cv2.putText(board, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, line_colour, 1, cv2.LINE_AA)
    return np.concatenate([row, board])


def _to_side(view: np.ndarray) -> np.ndarray:
    """As high as all views are in a video, and as wide as its shape asks for: an even number, for the codec."""
    import cv2

    how = cv2.INTER_AREA if len(view) > VIEW_SIDE else cv2.INTER_LINEAR
    width = max(2, 2 * round(VIEW_SIDE * view.shape[1] / view.shape[0] / 2))
    return cv2.resize(view, (width, VIEW_SIDE), interpolation=how)


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) or [""]
