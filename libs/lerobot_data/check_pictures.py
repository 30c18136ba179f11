"""The videos of a set, and the pictures in its rows, beside what the set says of them."""

from pathlib import Path

import numpy as np

from libs.errors import BadInput
from libs.lerobot_data.fact import Fact
from libs.lerobot_data.layout import Clip, Episode, Layout
from libs.lerobot_data.rows import Rows
from libs.lerobot_data.statistics import histogram
from libs.lerobot_data.stored import StoredPictures
from libs.lerobot_data.video import TOLERANCE_S, Video, tolerance_at


def video_facts(layout: Layout, rows: Rows, counts: dict[str, np.ndarray] | None = None) -> list[Fact]:
    """Videos that are missing or cannot be read, of other lengths than their episodes, without a frame at a time that
    an episode has.

    counts: {camera: (3, 256)}; every frame is decoded, and counted in there. None: the first one of each file is.
    """
    facts: list[Fact] = []
    clips: dict[Path, list[tuple[Episode, str, Clip]]] = {}  # path -> [(episode, camera, Clip)]
    for episode in layout.episodes:
        if episode.index in rows.spans:
            for camera, clip in episode.clips.items():
                clips.setdefault(clip.path, []).append((episode, camera, clip))
    for path, parts in clips.items():
        video, wanted = Video(path), [clip.start + rows.time[rows.spans[episode.index]] for episode, _, clip in parts]
        try:
            times = video.frame_times()
            for picture in video.frames(times[:1] if counts is None else np.sort(np.concatenate(wanted))):
                if counts is not None:
                    counts[parts[0][1]] += histogram(picture)  # a file has one camera
        except BadInput as error:
            facts.append(Fact("video", str(error)))
            continue
        finally:
            video.close()
        count = sum(map(len, wanted))
        name = path.relative_to(layout.root)
        if len(times) != count:
            facts.append(Fact("video", f"{name} has {len(times)} frames, its episodes {count}"))
        if not len(times):
            continue
        for (episode, camera, clip), at in zip(parts, wanted, strict=True):
            facts += _clip_facts(layout, episode, camera, clip, at, times, name)
    return facts


def _clip_facts(layout, episode, camera, clip, wanted, times, name):
    where = f"episode {episode.index}, {camera}"
    off = _distance(times, wanted)
    wrong = np.flatnonzero(~(off <= tolerance_at(wanted)))
    if len(wrong):
        frame = int(wrong[0])
        yield Fact(
            "timestamps",
            f"{where}: {len(wrong)} of {len(wanted)} frames are not in {name} within {TOLERANCE_S:g} s, first frame "
            f"{frame} at {wanted[frame]:.4f} s: the nearest is {off[frame]:.4f} s away",
        )
    if clip.end is not None and abs((clip.end - clip.start) * layout.fps - episode.length) > 0.5:
        frames = (clip.end - clip.start) * layout.fps
        yield Fact(
            "video", f"{where}: from {clip.start:g} to {clip.end:g} s are {frames:.1f} frames, not {episode.length}"
        )


def _distance(times, wanted):
    """How far each wanted time is from the nearest of the ascending times."""
    place = np.clip(np.searchsorted(times, wanted), 1, max(len(times) - 1, 1))
    neighbours = np.stack([times[place - 1], times[np.minimum(place, len(times) - 1)]])
    return np.abs(neighbours - wanted).min(axis=0)


def stored_facts(layout: Layout, rows: Rows, counts: dict[str, np.ndarray] | None = None) -> list[Fact]:
    """Pictures in rows that cannot be read, or are of another size than declared: for each camera the first one.

    counts: as of `video_facts`; None: the first row's pictures are looked at.
    """
    cameras = {name: camera for name, camera in layout.cameras.items() if camera.kind == "image"}
    stored, facts = StoredPictures(cameras), []
    for name, camera in cameras.items():
        for place in range(len(rows.frame) if counts is not None else 1):
            where = f"episode {rows.episode[place]}, frame {rows.frame[place]}, {name}"
            try:
                picture = stored.read(rows.files[rows.file[place]], int(rows.row[place]), name)
            except BadInput as error:
                facts.append(Fact("pictures", str(error)))
                break
            if counts is not None:
                counts[name] += histogram(picture)
            height, width = picture.shape[:2]
            if (height, width) != (camera.height, camera.width):
                text = f"{where}: {height} x {width} pixels, declared {camera.height} x {camera.width}"
                facts.append(Fact("pictures", text))
                break
    return facts
