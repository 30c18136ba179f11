"""What is wrong with a LeRobot data set: lines for people, found without training on it."""

import numpy as np

from libs.lerobot_data.check_pictures import stored_facts, video_facts
from libs.lerobot_data.check_statistics import picture_statistics_facts, statistics_facts
from libs.lerobot_data.fact import Fact
from libs.lerobot_data.layout import Layout
from libs.lerobot_data.marks import INFO
from libs.lerobot_data.rows import Rows
from libs.lerobot_data.video import tolerance_at


def check_set(layout: Layout, rows: Rows, decode: bool = False) -> list[Fact]:
    """Everything that is wrong with a set; rows: with the vectors that are to be looked at.

    decode: look at every picture, which takes as long as building the frame cache; else at the tables of the videos,
    and at one picture of each camera in rows.
    """
    checks = (episode_facts, time_facts, task_facts, number_facts, statistics_facts)
    facts = [fact for check in checks for fact in check(layout, rows)]
    counts = {name: np.zeros((3, 256), dtype=np.int64) for name in layout.cameras} if decode else None
    facts += video_facts(layout, rows, counts) + stored_facts(layout, rows, counts)
    return facts + ([] if counts is None else picture_statistics_facts(layout, counts))


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


def suggest(layout: Layout) -> dict[str, object]:
    """Which of a set's names a recipe is likely to want: {"views": cameras, "proprio": [state], "action": name}; None
    or an empty list where nothing looks like one."""
    vectors = list(layout.vectors)
    usual: tuple[str, ...] = ("action", "actions")
    action = next((name for name in usual if name in vectors), None)
    action = action or next((name for name in vectors if "action" in name), None)
    state = next((name for name in ("observation.state", "state") if name in vectors), None)
    return {"views": list(layout.cameras), "proprio": [state] if state else [], "action": action}


def _episodes(numbers):
    """ "episode 3 has", "episodes 3, 5 and 9 more have" """
    if len(numbers) == 1:
        return f"episode {numbers[0]} has"
    shown, more = ", ".join(map(str, numbers[:5])), len(numbers) - 5
    return f"episodes {shown}{f' and {more} more' if more > 0 else ''} have"
