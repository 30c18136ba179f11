"""One evaluation gathered from the results of all its shards: merged, checked for gaps and contradictions."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from libs.errors import BadInput
from libs.files import kind_of, short_path
from libs.libero_sim import REPORTED_SUITES
from rv_eval.results.reading import has_facts
from rv_eval.results.records import (
    ALL_OF_SUITE,
    EPISODE_KEYS,
    SETTING_KEYS,
    ResultsFile,
    Summary,
    setting_of,
    shard_files,
    simulator_packages,
    summarize,
    wilson_interval,
)

T = TypeVar("T")
K = TypeVar("K")

# What a line must hold to be counted, with the JSON types it may have.
PLAN_FIELDS = {"suite": (str,), "task_id": (int,), "seed": (int,), "max_steps": (int,), "own_limit": (bool,)}
RECORD_FIELDS = PLAN_FIELDS | {
    "task_name": (str,),
    "instruction": (str,),
    "render": (str,),
    "init_state": (int,),
    "success": (bool,),
    "steps": (int,),
    "queries": (int,),
    "parse_failures": (int,),
    "repaired": (int,),
    "incidents": (int,),
    "policy_s": (int, float),
    "sim_s": (int, float),
}
# The fields that tell episodes of one run apart; whatever else a record holds, the result depends on.
RESULT_FIELDS = {"tokens", "passes", "incident_errors", "wall_s", "finished", "video", "data"}  # that not all have
OPTIONAL_FIELDS = {"asked": str, "asked_task_id": int, "axes": list, "new_words": list, "facts": dict}
OPTIONAL_FIELDS |= {"video": str, "shard_id": int, "num_shards": int}
EPISODE_FIELDS = {*RECORD_FIELDS, *RESULT_FIELDS, *OPTIONAL_FIELDS} - {*SETTING_KEYS, "seed", "own_limit"}
EPISODE_FIELDS -= {"shard_id", "num_shards"}
# What a choice among several runs may name, besides the versions of the simulator's packages: all of it stands in the
# plans too.
CHOICES = (*SETTING_KEYS, "own_limit", "suite", "task_id", "seed")
HEX_DIGITS = 64  # of a SHA-256: such a value may be given by its beginning
SHORT_HASH = 12
LISTED = 6  # measurements that a refusal names


@dataclass(frozen=True)
class Line:
    """A line of a results or planned file."""

    file: Path
    number: int
    values: dict

    def get(self, name: str) -> Any:
        """The value of a field, None if there is none; "versions.mujoco" is the entry of a field."""
        value: Any = self.values
        for part in name.split(".", 1):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def episode(self) -> tuple:
        """What tells it from the other episodes of a run: the values of EPISODE_KEYS."""
        return tuple(map(self.values.get, EPISODE_KEYS))

    @property
    def task(self) -> tuple[str, int]:
        return self.values["suite"], self.values["task_id"]

    @property
    def outcome(self) -> tuple[bool, int]:
        return self.values["success"], self.values["steps"]

    @property
    def version_names(self) -> list[str]:
        """The fields with the versions of its simulator's packages."""
        return [f"versions.{package}" for package in simulator_packages(self.values)]

    @property
    def measurement(self) -> tuple:
        """((setting, value), ...): equal for the episodes of one run. A suite's own step limit is no setting."""
        names = [name for name in SETTING_KEYS if name != "max_steps" or self.values["own_limit"]]
        names = [*names, "own_limit", *self.version_names]
        return tuple((name, self.get(name)) for name in names)


@dataclass(frozen=True)
class Repeat:
    """Records of one episode, more than one; the first counts."""

    lines: list[Line]

    @property
    def contradicts(self) -> bool:
        return len({line.outcome for line in self.lines}) > 1


@dataclass(frozen=True)
class Stats(Summary):
    """Summary and what else the tables show. Times: seconds per episode."""

    median_steps: float | None
    repaired: int
    policy_s: float
    sim_s: float

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95 %."""
        return wilson_interval(self.successes, self.episodes)


@dataclass(frozen=True)
class Run:
    """The episodes of one measurement, in the order of `order`. planned: how many episodes the plans name, None
    without any plan. missing: the values of EPISODE_KEYS of the planned episodes without a record. silent_shards:
    "4 of 8" where the others left results. other_plans: measurements with other settings that were planned here, too,
    and have no result at all."""

    episodes: list[Line]
    repeats: list[Repeat]
    planned: int | None
    missing: list[tuple]
    silent_shards: list[str]
    other_plans: int = 0

    @property
    def contradictions(self) -> list[Repeat]:
        return [repeat for repeat in self.repeats if repeat.contradicts]

    @property
    def duplicates(self) -> list[Repeat]:
        return [repeat for repeat in self.repeats if not repeat.contradicts]

    @property
    def is_sound(self) -> bool:
        """Nothing is missing and nothing contradicts."""
        return not self.missing and not self.contradictions

    @property
    def tasks(self) -> dict[tuple[str, int], list[Line]]:
        """(suite, task id) -> its episodes."""
        return group(self.episodes, lambda line: line.task)

    @property
    def suites(self) -> dict[str, list[Line]]:
        return group(self.episodes, lambda line: line.values["suite"])

    @property
    def suites_and_all(self) -> dict[str, list[Line]]:
        """The suites, and "all" where there are several."""
        return self.suites | ({"all": self.episodes} if len(self.suites) > 1 else {})


def gather(paths: Iterable, only: Iterable[str] = (), option: str = "--only") -> Run:
    """The run whose results lie in `paths`: folders, or single .jsonl files.

    only: "KEY=VALUE" of the records to take, where there are several runs. BadInput: nothing there, a damaged
    file, or several runs and `only` (on the command line: `option`) does not say which.
    """
    lines = _select(_load(paths), [_parse_choice(text) for text in only])
    runs = group(lines, lambda line: line.measurement)
    played = {measurement: found for measurement, found in runs.items() if not all(_is_plan(one.file) for one in found)}
    if len(played or runs) > 1:
        raise BadInput(_several_runs(runs, option))
    other_plans = len(runs) - len(played) if played else 0
    lines = next(iter((played or runs).values()))
    plans = [line for line in lines if _is_plan(line.file)]
    records = [line for line in lines if not _is_plan(line.file)]
    by_episode = group(records, lambda line: line.episode)
    planned = {
        (*line.task, init_state, line.values["seed"], line.get("asked"))
        for line in plans
        for init_state in line.values["init_states"]
    }
    return Run(
        episodes=sorted((found[0] for found in by_episode.values()), key=lambda line: order(line.episode)),
        repeats=[Repeat(found) for found in by_episode.values() if len(found) > 1],
        planned=len(planned) if plans else None,
        missing=sorted(planned - set(by_episode), key=order),
        silent_shards=_silent_shards(records),
        other_plans=other_plans,
    )


def stats(lines: list[Line]) -> Stats:
    records = [line.values for line in lines]
    steps = [record["steps"] for record in records if record["success"]]
    count = max(1, len(records))
    return Stats(
        **asdict(summarize(records)),
        median_steps=statistics.median(steps) if steps else None,
        repaired=sum(record["repaired"] for record in records),
        policy_s=sum(record["policy_s"] for record in records) / count,
        sim_s=sum(record["sim_s"] for record in records) / count,
    )


def dependencies(run: Run) -> dict[str, list[tuple[object, int]]]:
    """What the result depends on: field -> [(value, episodes with it), ...], numbers by size, others the most
    frequent first. The entries of a field that is itself a dict ("versions") are fields, "versions.mujoco"."""
    counts = defaultdict(lambda: defaultdict(int))
    for line in run.episodes:
        for field, value in line.values.items():
            if field not in EPISODE_FIELDS:
                entries = {f"{field}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {}
                for name, entry in (entries or {field: value}).items():
                    counts[name][json.dumps(entry)] += 1
    first = {name: place for place, name in enumerate((*SETTING_KEYS, "own_limit", "seed"))}
    found = {}
    for name in sorted(counts, key=lambda name: (name.count("."), first.get(name, len(first)))):
        values = [(json.loads(text), count) for text, count in counts[name].items()]
        are_numbers = all(type(value) in (int, float) for value, _ in values)
        found[name] = sorted(values, key=lambda item: item[0] if are_numbers else -item[1])
    return found


def order(episode: tuple) -> tuple:
    """Sorts episodes (values of EPISODE_KEYS): LIBERO's suites as papers list them, then others by name."""
    *which, asked = episode
    place = REPORTED_SUITES.index(which[0]) if which[0] in REPORTED_SUITES else len(REPORTED_SUITES)
    return place, *which, asked or ""


def group(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """key -> the things with it, in their order."""
    groups = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return dict(groups)


def list_episodes(episodes: Iterable[tuple]) -> list[str]:
    """One text per task: "libero_goal 3: init 7, 9-12"; with the seed where it is not the same everywhere, and with
    what was asked where it is not the task's instruction."""
    groups = group(sorted(episodes, key=order), lambda episode: (*episode[:2], *episode[3:]))
    several_seeds = len({seed for _, _, seed, _ in groups}) > 1
    texts = []
    for (suite, task_id, seed, asked), members in groups.items():
        with_seed = f" seed {seed}" if several_seeds else ""
        with_asked = f" {asked!r}" if asked else ""
        texts.append(f"{suite} {task_id}{with_seed}{with_asked}: init {ranges(member[2] for member in members)}")
    return texts


def ranges(numbers: Iterable[int]) -> str:
    """[7, 9, 10, 11] -> "7, 9-11"."""
    parts = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


def _is_plan(file: Path) -> bool:
    return file.name.startswith("planned")


def _load(paths: Iterable) -> list[Line]:
    files = {}
    for path in map(Path, paths):
        kind = kind_of(path)
        if kind == "folder":
            found = shard_files(path, "results") + shard_files(path, "planned")
            if not found:
                raise BadInput(f"{path} holds no results.jsonl")
        elif kind == "file" and path.suffix == ".jsonl":
            found = [path]
        else:
            raise BadInput(f"{path} is neither a folder with results nor a .jsonl file")
        files |= {file.resolve(): file for file in found if file.resolve() not in files}
    lines = [
        Line(file, number, values)
        for file in files.values()
        for number, values in enumerate(ResultsFile(file).read(), start=1)
    ]
    if not lines:
        raise BadInput(f"no result yet in {', '.join(map(str, files.values()))}")
    for line in lines:
        _check(line)
    return _with_dtype(lines)


def _with_dtype(lines: list[Line]) -> list[Line]:
    """The lines of before plans and results had a dtype, with one: float32 of results. A plan holds for every dtype
    that results of its settings have: results had one first."""

    def others(line: Line) -> tuple:
        return tuple(pair for pair in line.measurement if pair[0] != "dtype")

    played = defaultdict(dict)
    for line in lines:
        if not _is_plan(line.file):
            played[others(line)][setting_of(line.values, "dtype")] = True
    found = []
    for line in lines:
        dtypes = [setting_of(line.values, "dtype")]
        if _is_plan(line.file) and not line.get("dtype"):
            dtypes = [*played[others(line)]] or dtypes
        found += [Line(line.file, line.number, line.values | {"dtype": dtype}) for dtype in dtypes]
    return found


def _check(line: Line) -> None:
    is_plan = _is_plan(line.file)
    for name, kinds in (PLAN_FIELDS if is_plan else RECORD_FIELDS).items():
        value = line.values.get(name)
        if type(value) not in kinds or (isinstance(value, float) and not math.isfinite(value)):
            raise _damaged(line, f"{name} is {json.dumps(value)}")
    for name, kind in OPTIONAL_FIELDS.items():
        if not isinstance(line.get(name), kind | None):
            raise _damaged(line, f"{name} is {json.dumps(line.get(name))}")
    if line.get("instructions") == ALL_OF_SUITE and not is_plan and not has_facts(line.values):
        raise _damaged(line, f"facts is {json.dumps(line.get('facts'))}")
    for name in ("axes", "new_words"):
        if not all(isinstance(entry, str) for entry in line.get(name) or ()):
            raise _damaged(line, f"{name} is {json.dumps(line.get(name))}")
    _check_simulator(line)
    states = line.get("init_states")
    if is_plan and not (isinstance(states, list) and all(type(state) is int for state in states)):
        raise _damaged(line, f"init_states is {json.dumps(states)}")
    for name, value in line.measurement:
        if isinstance(value, dict | list):
            raise _damaged(line, f"{name} is {json.dumps(value)}")


def _check_simulator(line: Line) -> None:
    """What a line says about its simulator; lines from before there were several say nothing."""
    packages, about = line.get("simulator_packages"), line.get("environment")
    if packages is not None and not (isinstance(packages, list) and all(isinstance(name, str) for name in packages)):
        raise _damaged(line, f"simulator_packages is {json.dumps(packages)}")
    kinds = {"benchmark": str, "reported_render": str | None}
    if "environment" in line.values and not (
        isinstance(about, dict) and all(isinstance(about.get(name, 0), kind) for name, kind in kinds.items())
    ):
        raise _damaged(line, f"environment is {json.dumps(about)}")


def _damaged(line: Line, what: str) -> BadInput:
    kind = "a plan" if _is_plan(line.file) else "a result"
    return BadInput(f"{line.file} line {line.number} is not {kind}: {what}")


def _parse_choice(text: str) -> tuple[str, object, str]:
    """KEY=VALUE -> key, value as JSON, value as text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadInput(f"{text!r}: choose results with KEY=VALUE, for example n_action_steps=8")
    try:
        return name, json.loads(value), value
    except ValueError:
        return name, value, value


def _select(lines: list[Line], choices: list[tuple[str, object, str]]) -> list[Line]:
    known = (*CHOICES, *dict.fromkeys(name for line in lines for name in line.version_names))
    for name, value, text in choices:
        if name not in known:
            raise BadInput(f"cannot choose results by {name}, only by {', '.join(known)}")
        left = [line for line in lines if _matches(line.get(name), value, text)]
        if not left:
            found = dict.fromkeys(show(line.get(name)) for line in lines)
            raise BadInput(f"no result has {name}={text}; there is {', '.join(list(found)[:LISTED])}")
        lines = left
    return lines


def _matches(found: Any, value: Any, text: str) -> bool:
    if isinstance(found, str):
        return found in (value, text) or (len(found) == HEX_DIGITS and len(text) >= 8 and found.startswith(text))
    return found == value and isinstance(found, bool) == isinstance(value, bool)


def _several_runs(runs: dict[tuple, list[Line]], option: str) -> str:
    settings = [dict(measurement) for measurement in runs]
    names = dict.fromkeys(name for setting in settings for name in setting)
    differing = [name for name in names if len({setting.get(name) for setting in settings}) > 1]
    shown = []
    for setting, lines in zip(settings, runs.values(), strict=True):
        values = " ".join(f"{name}={show(setting[name])}" for name in differing if name in setting)
        count = sum(not _is_plan(line.file) for line in lines)
        shown.append(f"{option} {values} ({count} episodes)")
    more = f" ... and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    return f"{len(runs)} measurements that must not be mixed, choose one: {' | '.join(shown[:LISTED])}{more}"


def show(value: Any) -> str:
    """A value as `only` takes it: JSON without quotes; of a hash the beginning, and a path as it reads from here."""
    text = short_path(value) if isinstance(value, str) else json.dumps(value)
    is_hash = len(text) == HEX_DIGITS and set(text) <= set("0123456789abcdef")
    return text[:SHORT_HASH] if is_hash else text


def _silent_shards(records: list[Line]) -> list[str]:
    seen = group((line for line in records if line.get("num_shards")), lambda line: line.get("num_shards"))
    return [
        f"{shard} of {number}"
        for number, lines in sorted(seen.items())
        for shard in sorted(set(range(number)) - {line.get("shard_id") for line in lines})
    ]
