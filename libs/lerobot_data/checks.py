"""What is wrong with a LeRobot data set: lines for people, found without training on it."""

from typing import NamedTuple

import numpy as np

from libs.errors import BadInput
from libs.files import kind_of, read_json_object
from libs.lerobot_data.layout import Layout
from libs.lerobot_data.locate import INFO
from libs.lerobot_data.rows import Rows
from libs.lerobot_data.statistics import QUANTILES, number_stats
from libs.lerobot_data.stored import StoredPictures
from libs.lerobot_data.video import TOLERANCE_S, Video, tolerance_at

# How far a statistic may be from the data, as a share of the feature's range: the set's own are float32, and quantiles
# estimated.
FAR, FAR_QUANTILE = 1e-3, 1e-2


class Fact(NamedTuple):
    """kind: "empty", "frames", "timestamps", "tasks", "numbers", "statistics", "video" or "pictures"; text: a line."""

    kind: str
    text: str


def check_set(layout: Layout, rows: Rows, decode: bool = False) -> list[Fact]:
    """Everything that is wrong with a set; rows: with the vectors that are to be looked at.

    decode: look at every picture, which takes as long as building the frame cache; else at the tables of the videos,
    and at one picture of each camera in rows.
    """
    checks = (episode_facts, time_facts, task_facts, number_facts, statistics_facts)
    facts = [fact for check in checks for fact in check(layout, rows)]
    return facts + video_facts(layout, rows, decode) + stored_facts(layout, rows, decode)


def episode_facts(layout: Layout, rows: Rows) -> list[Fact]:
    """Empty episodes; frames by the table of episodes, by meta/info.json and by the rows."""
    facts, indices = [], [episode.index for episode in layout.episodes]
    empty = [index for index in indices if index not in rows.spans]
    if empty:
        facts.append(Fact("empty", f"{_episodes(empty)} no frames"))
    for episode in layout.episodes:
        span = rows.spans.get(episode.index, slice(0, 0))
        count, frames = span.stop - span.start, rows.frame[span]
        if count != max(episode.length, 0):
            facts.append(Fact("frames", f"episode {episode.index} has {count} rows, by its table {episode.length}"))
        elif not np.array_equal(frames, np.arange(count)):
            facts.append(Fact("frames", f"episode {episode.index}: frame_index is not 0 to {count - 1}"))
    repeated = (
        sorted({index for index in indices if indices.count(index) > 1}) if len(set(indices)) < len(indices) else []
    )
    unknown = sorted(set(rows.spans) - set(indices))
    if repeated:
        facts.append(Fact("frames", f"{_episodes(repeated)} more than one line in the table of episodes"))
    if unknown:
        facts.append(Fact("frames", f"{_episodes(unknown)} rows, but no line in the table of episodes"))
    for name, count in (("total_episodes", len(layout.episodes)), ("total_frames", len(rows.frame))):
        if layout.info.get(name) != count:
            facts.append(Fact("frames", f"{INFO} says {name} {layout.info.get(name)}, there are {count}"))
    return facts


def time_facts(layout: Layout, rows: Rows) -> list[Fact]:
    """Timestamps that are not frame / fps within LeRobot's tolerance: an episode a line."""
    facts = []
    for number, span in rows.spans.items():
        off = np.abs(rows.time[span] - np.arange(span.stop - span.start) / layout.fps)
        wrong = np.flatnonzero(~(off <= tolerance_at(rows.time[span])))  # NaN is wrong, too
        if len(wrong):
            frame = int(wrong[0])
            facts.append(
                Fact(
                    "timestamps",
                    f"episode {number}: {len(wrong)} of {len(off)} timestamps are not frame / {layout.fps:g}, first "
                    f"frame {frame}: {rows.time[span][frame]:.4f} s instead of {frame / layout.fps:.4f}",
                )
            )
    return facts


def task_facts(layout: Layout, rows: Rows) -> list[Fact]:
    """Frames without a task, tasks without a text, tables of episodes that say something else than the rows."""
    facts = []
    for number in np.unique(rows.task):
        if not layout.tasks.get(int(number), "").strip():
            having = rows.episode[rows.task == number]
            text = "is empty" if int(number) in layout.tasks else "does not exist"
            facts.append(Fact("tasks", f"task {number} {text}: {len(having)} frames, first in episode {having[0]}"))
    for episode in layout.episodes:
        said = {layout.tasks.get(int(n)) for n in np.unique(rows.task[rows.spans.get(episode.index, slice(0, 0))])}
        if said and episode.tasks and said != set(episode.tasks):
            found = ", ".join(sorted(map(repr, said)))
            facts.append(Fact("tasks", f"episode {episode.index}: its table says {episode.tasks}, its rows {found}"))
    return facts


def number_facts(layout: Layout, rows: Rows) -> list[Fact]:
    """Vectors with numbers that are missing or not finite."""
    facts = []
    for name, values in rows.vectors.items():
        places = np.argwhere(~np.isfinite(values))
        if len(places):
            row, column = places[0]
            facts.append(
                Fact(
                    "numbers",
                    f"{name}: {len(places)} numbers are not finite, first {layout.vectors[name].names[column]} of "
                    f"episode {rows.episode[row]}, frame {rows.frame[row]}: {values[row, column]}",
                )
            )
    return facts


def statistics_facts(layout: Layout, rows: Rows) -> list[Fact]:
    """Statistics of meta/stats.json that the vectors contradict, with the worst number of each. Those of pictures are
    not looked at."""
    path, facts = layout.root / "meta/stats.json", []
    if not kind_of(path):  # v2.1 has them by episode, which nobody trains with
        return []
    said = read_json_object(path)
    for name, values in rows.vectors.items():
        values = values[np.isfinite(values).all(axis=1)]
        if not isinstance(said.get(name), dict) or not len(values):
            facts.append(Fact("statistics", f"{path.name} has nothing of {name}"))
            continue
        true, span = number_stats(values), np.ptp(values, axis=0)
        contradicted = [
            text
            for stat in ("min", "max", "mean", "std", *QUANTILES)
            if stat in said[name]
            and (text := _contradiction(stat, said[name][stat], true[stat], span, layout.vectors[name].names))
        ]
        quantiles = [text for text in contradicted if text.startswith(tuple(QUANTILES))]
        facts += [Fact("statistics", f"{name}: {text}") for text in contradicted if text not in quantiles]
        if quantiles:  # the rule, not the exception
            why = "LeRobot averages the episodes' quantiles"
            facts.append(Fact("statistics", f"{name}: {quantiles[0]} ({len(quantiles)} quantiles are off: {why})"))
    return facts


def _contradiction(stat, stated, found, span, names):
    """What is to be said of a statistic that is far from the data's, "" where it is near."""
    stated, found = np.ravel(stated).astype(float), np.array(found)
    if stated.shape != found.shape:
        return f"{stat} has {stated.size} numbers, not {found.size}"
    far = (FAR_QUANTILE if stat in QUANTILES else FAR) * np.where(span > 0, span, 1)
    excess = np.nan_to_num(np.abs(stated - found) / far, nan=np.inf)
    worst = int(np.argmax(excess))
    if excess[worst] <= 1:
        return ""
    return f"{stat} of {names[worst]} is {stated[worst]:.4g}, by the data {found[worst]:.4g}"


def video_facts(layout: Layout, rows: Rows, decode: bool = False) -> list[Fact]:
    """Videos that are missing or cannot be read, of other lengths than their episodes, without a frame at a time that
    an episode has."""
    facts, clips = [], {}  # path -> [(episode, camera, Clip)]
    for episode in layout.episodes:
        if episode.index in rows.spans:
            for camera, clip in episode.clips.items():
                clips.setdefault(clip.path, []).append((episode, camera, clip))
    for path, parts in clips.items():
        video, wanted = Video(path), [clip.start + rows.time[rows.spans[episode.index]] for episode, _, clip in parts]
        try:
            times = video.frame_times()
            if decode:
                for _ in video.frames(np.sort(np.concatenate(wanted))):
                    pass
            else:
                video.frame(times[0])
        except BadInput as error:
            facts.append(Fact("video", str(error)))
            continue
        finally:
            video.close()
        count = sum(map(len, wanted))
        name = path.relative_to(layout.root)
        if len(times) != count:
            facts.append(Fact("video", f"{name} has {len(times)} frames, its episodes {count}"))
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


def stored_facts(layout: Layout, rows: Rows, decode: bool = False) -> list[Fact]:
    """Pictures in rows that cannot be read, or are of another size than declared: for each camera the first one."""
    cameras = {name: camera for name, camera in layout.cameras.items() if camera.kind == "image"}
    stored, facts = StoredPictures(cameras), []
    for name, camera in cameras.items():
        for place in range(len(rows.frame)) if decode else (0,):
            where = f"episode {rows.episode[place]}, frame {rows.frame[place]}, {name}"
            try:
                size = stored.read(rows.files[rows.file[place]], int(rows.row[place]), name).shape[:2]
            except BadInput as error:
                facts.append(Fact("pictures", str(error)))
                break
            if size != (camera.height, camera.width):
                text = f"{where}: {size[0]} x {size[1]} pixels, declared {camera.height} x {camera.width}"
                facts.append(Fact("pictures", text))
                break
    return facts


def suggest(layout: Layout) -> dict[str, object]:
    """Which of a set's names a recipe is likely to want: {"views": cameras, "proprio": [state], "action": name}; None
    or an empty list where nothing looks like one."""
    vectors = list(layout.vectors)
    action = next((name for name in ("action", "actions") if name in vectors), None)
    action = action or next((name for name in vectors if "action" in name), None)
    state = next((name for name in ("observation.state", "state") if name in vectors), None)
    return {"views": list(layout.cameras), "proprio": [state] if state else [], "action": action}


def _episodes(numbers):
    """ "episode 3 has", "episodes 3, 5 and 9 more have" """
    if len(numbers) == 1:
        return f"episode {numbers[0]} has"
    shown, more = ", ".join(map(str, numbers[:5])), len(numbers) - 5
    return f"episodes {shown}{f' and {more} more' if more > 0 else ''} have"
