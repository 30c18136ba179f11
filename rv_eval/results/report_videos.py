"""The videos of a report's episodes and their posters: where they are, and how a page names them."""

import base64
import contextlib
import os
import urllib.parse
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rv_eval.playing.video import make_poster, poster_path
from rv_eval.results.summary import Line


class Videos:
    """folder: where the page will lie. embed: the page holds them itself. lost: how many records name one that is not
    below the folder of its results, or not there."""

    def __init__(self, folder: Path, embed: bool) -> None:
        self.folder, self.embed = folder.resolve(), embed
        self.lost = 0

    def make_posters(self, lines: Iterable[Line]) -> None:
        """Those that results from before there were posters lack, beside their videos, as far as that is possible."""
        found = dict.fromkeys(filter(None, map(_find, lines)))
        missing = [video for video in found if not poster_path(video).is_file()]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_try_poster, missing))

    def addresses(self, line: Line) -> dict[str, str | None]:
        """{"video", "poster"}: their addresses, None for what there is not."""
        video = _find(line)
        if video is None:
            self.lost += bool(line.values.get("video"))
            return {"video": None, "poster": None}
        poster = poster_path(video)
        is_there = poster.is_file() and not poster.is_symlink()  # which may lead out of the folder
        return {
            "video": self._address(video, "video/mp4"),
            "poster": self._address(poster, "image/jpeg") if is_there else None,
        }

    def _address(self, path: Path, kind: str) -> str:
        if self.embed:
            return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode()
        return urllib.parse.quote(Path(os.path.relpath(path, self.folder)).as_posix())


def _find(line: Line) -> Path | None:
    """A record's video, if it is there and below the folder of the results."""
    named = line.values.get("video")
    if not named:
        return None
    home = line.file.parent.resolve()
    # Older records name it relative to the folder the evaluation was started in.
    for video in (home / named, home / "videos" / Path(named).name):
        video = video.resolve()
        if video.suffix == ".mp4" and video.is_relative_to(home) and video.is_file():
            return video
    return None


def _try_poster(video: Path) -> None:
    # ImportError: OpenCV, on a machine without what it links to. OSError: a folder nobody may write to, a full disk.
    with contextlib.suppress(ImportError, OSError):
        make_poster(video)
