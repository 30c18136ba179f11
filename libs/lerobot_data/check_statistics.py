"""The statistics that a set brings along, beside its data."""

import numpy as np

from libs.files import kind_of, read_json_object
from libs.lerobot_data.fact import Fact
from libs.lerobot_data.layout import Layout, json_lines
from libs.lerobot_data.rows import Rows
from libs.lerobot_data.statistics import QUANTILES, number_stats, picture_stats

# How far a statistic may be from the data, as a share of the feature's range: the set's own are float32, and quantiles
# estimated. Those of pictures are made from some of the frames, smaller ones.
FAR, FAR_QUANTILE, FAR_PICTURES = 1e-3, 1e-2, 0.05
OF_SET, OF_EPISODES = "meta/stats.json", "meta/episodes_stats.jsonl"


def statistics_facts(layout: Layout, rows: Rows) -> list[Fact]:
    """Statistics of the vectors that the data contradicts, with the worst number of each.

    Of v2.1 they are those of each episode, of which LeRobot makes the set's; there the first of a vector's is told.
    """
    if kind_of(layout.root / OF_SET):
        return _of_set(layout, rows, read_json_object(layout.root / OF_SET))
    if kind_of(layout.root / OF_EPISODES):
        return _of_episodes(layout, rows)
    return [Fact("statistics", f"none: neither {OF_SET} nor {OF_EPISODES}")]


def picture_statistics_facts(layout: Layout, counts: dict[str, np.ndarray]) -> list[Fact]:
    """The same of the cameras' means and deviations; counts: {camera: histogram (3, 256) of its pixels}."""
    if not kind_of(layout.root / OF_SET):
        return []
    said, facts = read_json_object(layout.root / OF_SET), []
    for name, found in counts.items():
        if isinstance(said.get(name), dict) and found.sum():
            true = picture_stats(found, 1)
            for stat in ("mean", "std"):
                channels = ("red", "green", "blue")
                if text := _contradiction(stat, said[name].get(stat, ()), np.ravel(true[stat]), FAR_PICTURES, channels):
                    facts.append(Fact("statistics", f"{name}: {text}"))
    return facts


def _of_set(layout, rows, said):
    facts = []
    for name, values in rows.vectors.items():
        contradicted = _contradictions(said, name, values, layout)
        quantiles = [text for text in contradicted if text.startswith(tuple(QUANTILES))]
        facts += [Fact("statistics", f"{name}: {text}") for text in contradicted if text not in quantiles]
        if quantiles:  # the rule, not the exception
            why = "LeRobot averages the episodes' quantiles"
            facts.append(Fact("statistics", f"{name}: {quantiles[0]} ({len(quantiles)} quantiles are off: {why})"))
    return facts


def _of_episodes(layout, rows):
    first: dict[str, str] = {}
    count: dict[str, int] = {}
    seen = set()
    for _, line in json_lines(layout.root / OF_EPISODES):
        number, said = line.get("episode_index"), line.get("stats")
        if number not in rows.spans or not isinstance(said, dict):
            continue
        seen.add(number)
        for name, values in rows.vectors.items():
            if contradicted := _contradictions(said, name, values[rows.spans[number]], layout):
                first.setdefault(name, f"{name}, episode {number}: {contradicted[0]}")
                count[name] = count.get(name, 0) + 1
    facts = [Fact("statistics", f"{text} ({count[name]} episodes are off)") for name, text in first.items()]
    if lost := sorted(set(rows.spans) - seen):
        facts.append(Fact("statistics", f"{OF_EPISODES} has nothing of episode {lost[0]} ({len(lost)} are missing)"))
    return facts


def _contradictions(said, name, values, layout):
    """What is to be said of a vector's statistics, the quantiles' last."""
    values = values[np.isfinite(values).all(axis=1)]
    if not isinstance(said.get(name), dict) or not len(values):
        return ["no statistics"]
    true, span = number_stats(values), np.ptp(values, axis=0)
    found = []
    for stat in ("min", "max", "mean", "std", *QUANTILES):
        if stat in said[name]:
            far = (FAR_QUANTILE if stat in QUANTILES else FAR) * np.where(span > 0, span, 1)
            found.append(_contradiction(stat, said[name][stat], np.array(true[stat]), far, layout.vectors[name].names))
    return [text for text in found if text]


def _contradiction(stat, stated, found, far, names):
    """What is to be said of a statistic that is further than `far` from the data's, "" where it is near."""
    stated = np.ravel(stated).astype(float)
    if stated.shape != found.shape:
        return f"{stat} has {stated.size} numbers, not {found.size}"
    excess = np.nan_to_num(np.abs(stated - found) / far, nan=np.inf)
    worst = int(np.argmax(excess))
    if excess[worst] <= 1:
        return ""
    return f"{stat} of {names[worst]} is {stated[worst]:.4g}, by the data {found[worst]:.4g}"
