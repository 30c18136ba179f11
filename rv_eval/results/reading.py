"""Whether a policy reads: what moved first and what was reached, by what was asked where."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rv_eval.results.tables import Table, share, share_cells, short_names

NOTHING = "nothing"
OWN, OTHER = "asked for its own goal", "asked for another's"
SHARES_NOTE = (
    "An episode begins as one task and is asked for its own goal or for another task's. First moved: the asked-for "
    "thing is the first that moves. Reached: the asked goal. Asked, another first, no goal: which of the suite's goals "
    "came to hold first."
)


def has_facts(record: dict) -> bool:
    """Whether a record tells what these tables count."""
    facts = record.get("facts")
    return (
        isinstance(facts, dict)
        and type(record.get("asked_task_id")) is int
        and isinstance(facts.get("asked_for"), list)
        and isinstance(facts.get("first_moved"), str | None)
        and isinstance(facts.get("reached"), list)
        and all(isinstance(goal, dict) and type(goal.get("task_id")) is int for goal in facts["reached"])
    )


def reading_json(records: Sequence[dict]) -> dict:
    """{suite: {"own", "other": shares, see `_shares`; "cells": [...]}}; records: those with `has_facts`."""
    found = {}
    for suite, crossed in _by(records, lambda record: record["suite"]).items():
        cells = _by(crossed, lambda record: (record["task_id"], record["asked_task_id"]))
        found[suite] = {
            **{name: _shares(part) for name, part in (("own", _own(crossed)), ("other", _other(crossed)))},
            "cells": [_cell(start, asked, part) for (start, asked), part in sorted(cells.items())],
        }
    return found


def reading_tables(records: Sequence[dict]) -> list[Table]:
    """Per suite: the shares, what moved first and what was reached first by what was asked, both by start."""
    tables = []
    for suite, crossed in _by(records, lambda record: record["suite"]).items():
        tables.append(_shares_table(suite, crossed))
        others = _other(crossed)
        if others:
            tables += [_things_table(suite, others), _goals_table(suite, others)]
        tables.append(_starts_table(f"{suite}: asked-for thing moved first, by start", crossed, _moves_asked))
        tables.append(
            _starts_table(f"{suite}: asked goal reached, by start", crossed, lambda record: record["success"])
        )
    return tables


def _by(records: Iterable[dict], key: Callable) -> dict:
    groups = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _own(records):
    return [record for record in records if record["task_id"] == record["asked_task_id"]]


def _other(records):
    return [record for record in records if record["task_id"] != record["asked_task_id"]]


def _moves_asked(record: dict) -> bool:
    return record["facts"]["first_moved"] in record["facts"]["asked_for"]


def _first_moved(record: dict) -> str:
    return record["facts"]["first_moved"] or NOTHING


def _first_reached(record: dict) -> int | None:
    """The task whose goal came to hold first."""
    reached = record["facts"]["reached"]
    return reached[0]["task_id"] if reached else None


def _shares(records: Sequence[dict]) -> dict:
    """{"first_moved", "reached", "asked_first", "another_first", "none": shares of the episodes}."""
    goals = [(_first_reached(record), record["asked_task_id"]) for record in records]
    counts = {
        "first_moved": sum(map(_moves_asked, records)),
        "reached": sum(record["success"] for record in records),
        "asked_first": sum(goal == asked for goal, asked in goals),
        "another_first": sum(goal not in (asked, None) for goal, asked in goals),
        "none": sum(goal is None for goal, _ in goals),
    }
    return {name: share(count, len(records)) for name, count in counts.items()}


def _cell(start: int, asked: int, records: Sequence[dict]) -> dict:
    reached = Counter(str(_first_reached(record)) for record in records if record["facts"]["reached"])
    return {
        "start": start,
        "asked": asked,
        "episodes": len(records),
        "asked_moved_first": sum(map(_moves_asked, records)),
        "reached": sum(record["success"] for record in records),
        "first_moved": dict(sorted(Counter(map(_first_moved, records)).items())),
        "first_reached": dict(sorted(reached.items())),
    }


def _shares_table(suite: str, records: Sequence[dict]) -> Table:
    header = (
        ("", "first", "", "95 %", "", "", "95 %", "asked", "another", "no"),
        ("", "moved", "%", "interval", "reached", "%", "interval", "first", "first", "goal"),
    )
    rows = []
    for name, part in ((OWN, _own(records)), (OTHER, _other(records))):
        found = _shares(part)
        goals = (str(found[goal]["count"]) for goal in ("asked_first", "another_first", "none"))
        if part:
            rows.append((name, *share_cells(found["first_moved"]), *share_cells(found["reached"]), *goals))
    return Table(f"{suite}: does it read?", SHARES_NOTE, header, [rows])


def _things_table(suite: str, records: Sequence[dict]) -> Table:
    """Asked task x thing that moved first."""
    seen = {_first_moved(record) for record in records}
    things = [*sorted((seen | {thing for record in records for thing in record["facts"]["asked_for"]}) - {NOTHING})]
    columns = {thing: thing.replace("_", " ") for thing in (*things, NOTHING)}
    wanted = {record["asked_task_id"]: record["facts"]["asked_for"] for record in records}
    return _counts_table(
        f"{suite}: moved first, where another's goal is asked",
        records,
        columns,
        _first_moved,
        lambda asked, thing: thing in wanted[asked],
    )


def _goals_table(suite: str, records: Sequence[dict]) -> Table:
    """Asked task x task whose goal came to hold first."""
    reached = {_first_reached(record) for record in records} | {record["asked_task_id"] for record in records}
    columns = {goal: f"{goal}" for goal in sorted(goal for goal in reached if goal is not None)} | {None: "none"}
    title = f"{suite}: goal reached first, where another's goal is asked"
    return _counts_table(title, records, columns, _first_reached, lambda asked, goal: asked == goal)


def _counts_table(title: str, records: Sequence[dict], columns: dict, column_of: Callable, is_asked: Callable) -> Table:
    """How often each column (key: its name), by what was asked; episodes."""
    by_asked = _by(sorted(records, key=lambda record: record["asked_task_id"]), lambda record: record["asked_task_id"])
    names = short_names([part[0]["asked"] for part in by_asked.values()])
    rows, shades, marked = [], {}, set()
    for row, ((asked, part), name) in enumerate(zip(by_asked.items(), names, strict=True)):
        counts = Counter(map(column_of, part))
        rows.append((f"{asked:2d} {name}", *(str(counts[key] or "·") for key in columns)))
        shades |= {(row, column): counts[key] / len(part) for column, key in enumerate(columns, 1)}
        marked |= {(row, column) for column, key in enumerate(columns, 1) if is_asked(asked, key)}
    note = "Episodes; a row is what was asked, marked is what was asked for."
    return Table(title, note, _header("asked", columns.values()), [rows], shades, frozenset(marked))


def _starts_table(title: str, records: Sequence[dict], holds: Callable) -> Table:
    """Start x asked task: in how many episodes something holds."""
    by_asked = _by(records, lambda record: record["asked_task_id"])
    by_start = _by(records, lambda record: record["task_id"])
    columns = sorted(by_asked)
    rows, shades, own = [], {}, set()
    for row, (start, part) in enumerate(sorted(by_start.items())):
        cells = []
        for column, asked in enumerate(columns, 1):
            outcomes = [holds(record) for record in part if record["asked_task_id"] == asked]
            cells.append(f"{sum(outcomes)}/{len(outcomes)}" if outcomes else "")
            if outcomes:
                shades[row, column] = sum(outcomes) / len(outcomes)
                own |= {(row, column)} if asked == start else set()
        rows.append((f"{start:2d}", *cells))
    note = (
        "Of the episodes that begin as the row's task and are asked for the column's; marked is the start's own goal."
    )
    return Table(title, note, _header("start", map(str, columns)), [rows], shades, frozenset(own))


def _header(first: str, names: Iterable[str]) -> tuple:
    """One word a line: names are long and columns many."""
    columns = [[first], *(name.split() for name in names)]
    depth = max(map(len, columns))
    return tuple(zip(*([""] * (depth - len(column)) + column for column in columns), strict=True))
