"""The summary of an evaluation as text, at most 120 columns wide, and as JSON."""

import textwrap
from dataclasses import dataclass, field

from libs.files import short_path
from rv_eval.results.asking import asked_json, asked_tables
from rv_eval.results.comparison import Comparison, differing_settings, verdict
from rv_eval.results.records import caveats
from rv_eval.results.summary import Line, Repeat, Run, Stats, dependencies, group, list_episodes, show, stats
from rv_eval.results.tables import WIDTH, percent_range, short_names, table_text

LISTED = 20  # contradictions and lines of missing episodes that are printed; the JSON and the report hold all
# With other ones the last bits of answers or pictures may differ, so two tries at an episode may.
ALIKE = ("device", "torch_compile", "gl_backend", "gl_renderer", "policy_versions.torch")
HEADER = (
    ("", "", "rate", "95 %", "steps", "steps", "parse", "wrong", "inci-", "policy", "sim"),
    ("task", "solved", "%", "interval", "mean", "median", "failures", "length", "dents", "s/ep.", "s/ep."),
)
COMPARISON_HEADER = (("", "solved by A", "by B", "B - A", "95 % interval", "only A", "only B"),)


@dataclass(frozen=True)
class Notice:
    """Something to know about a run; where it is grave, with the episodes it is about."""

    text: str
    episodes: list[str] = field(default_factory=list)


def run_rows(run: Run) -> tuple[tuple, list[list[tuple]]]:
    """The header, and a block of rows per suite: the suite, its tasks; then the total."""
    blocks = []
    for suite, lines in run.suites.items():
        rows = [(suite, *_cells(stats(lines)))]
        tasks = group(lines, lambda line: line.task)
        names = short_names([members[0].values["instruction"] for members in tasks.values()])
        for ((_, task_id), members), name in zip(tasks.items(), names, strict=True):
            rows.append((f"  {task_id:2d} {name}", *_cells(stats(members))))
        blocks.append(rows)
    return HEADER, [*blocks, [("total", *_cells(stats(run.episodes)))]]


def comparison_rows(comparison: Comparison) -> tuple[tuple, list[list[tuple]]]:
    """The header, and blocks of rows: one per suite, then the total; over the pairs."""
    suites = dict.fromkeys(first.values["suite"] for first, _ in comparison.pairs)

    def of_suite(suite: str) -> Comparison:
        return comparison.part(lambda line: line.values["suite"] == suite)

    rows = [_comparison_row(suite, of_suite(suite)) for suite in suites]
    return COMPARISON_HEADER, [rows, [_comparison_row("total", comparison)]]


def notices(run: Run) -> list[Notice]:
    """What speaks against the numbers, the gravest first; nothing for a complete, clean run."""
    found = []
    if run.contradictions:
        number = _count(len(run.contradictions), "episode")
        text = f"CONTRADICTION: {number} ended differently when run again: not deterministic; the first one counts"
        found.append(Notice(text, [contradiction_text(repeat) for repeat in run.contradictions]))
    if run.missing:
        silent = f"; no result from shard {', '.join(run.silent_shards)}" if run.silent_shards else ""
        text = f"MISSING: {len(run.missing)} of {run.planned} planned episodes have no result{silent}"
        found.append(Notice(text, list_episodes(run.missing)))
    found += [Notice(text) for text in caveats([line.values for line in run.episodes])]
    for name, values in dependencies(run).items():
        if name in ALIKE and len({str(value).partition(":")[0] for value, _ in values}) > 1:  # not which of the GPUs
            told = ", ".join(f"{show(value)} ({_count(count, 'episode')})" for value, count in values)
            found.append(Notice(f"not all episodes were run alike: {name} {told}"))
    if run.duplicates:
        number = _count(len(run.duplicates), "episode")
        files = sorted({short_path(line.file) for repeat in run.duplicates for line in repeat.lines})
        found.append(
            Notice(f"{number} recorded more than once with the same outcome, counted once ({', '.join(files)})")
        )
    if run.other_plans:
        number = _count(run.other_plans, "measurement")
        found.append(Notice(f"{number} with other settings planned here, too, and without any result"))
    if run.planned is None:
        found.append(Notice("no planned.jsonl beside the results: whether episodes are missing is not known"))
    return found


def contradiction_text(repeat: Repeat) -> str:
    """ "libero_goal 3 init 7 seed 7: success after 93 steps (results.jsonl line 4), FAILURE ..." """
    suite, task_id, init_state, seed, asked = repeat.lines[0].episode
    tries = ", ".join(f"{outcome_text(line)} ({short_path(line.file)} line {line.number})" for line in repeat.lines)
    return f"{suite} {task_id} init {init_state} seed {seed}{f' {asked!r}' if asked else ''}: {tries}"


def outcome_text(line: Line) -> str:
    return f"{'success' if line.values['success'] else 'FAILURE'} after {line.values['steps']} steps"


def run_text(run: Run) -> str:
    """Table and warnings, with the episodes they are about."""
    lines = [table_text(*run_rows(run)), ""]
    for table in asked_tables([line.values for line in run.episodes]):
        lines += [table.text, ""]
    for notice in notices(run):
        lines += [*_wrap(notice.text), *_listed(notice.episodes)]
    return "\n".join(lines).rstrip()


def comparison_text(run_a: Run, run_b: Run, comparison: Comparison) -> str:
    """Table, verdict, what differs between the runs and the episodes that only one of them has."""
    lines = [table_text(*comparison_rows(comparison)), "", *_wrap(verdict(comparison))]
    for name, alone in (("A", comparison.alone_a), ("B", comparison.alone_b)):
        if alone:
            lines.append(f"{_count(len(alone), 'episode')} only in {name}, left out of the comparison:")
            lines += _listed(list_episodes(alone))
    differing = differing_settings(run_a, run_b)
    lines.append("differing between A and B:" if differing else "nothing that is recorded differs between A and B")
    for name, (a, b) in differing.items():
        lines += _wrap(f"{name}: {', '.join(map(show, a))} | {', '.join(map(show, b))}", "  ")
    return "\n".join(lines)


def as_json(run: Run, run_b: Run | None = None, comparison: Comparison | None = None) -> dict:
    """Everything that is printed, and what is cut short there."""
    found = _run_json(run)
    if comparison is not None and run_b is not None:
        low, high = comparison.interval
        found["comparison"] = {
            "b": _run_json(run_b),
            "pairs": len(comparison.pairs),
            "both": comparison.both,
            "only_a": comparison.only_a,
            "only_b": comparison.only_b,
            "identical": comparison.identical,
            "difference": comparison.difference,
            "interval": [low, high],
            "p_value": comparison.p_value,
            "verdict": verdict(comparison),
            "alone_a": comparison.alone_a,
            "alone_b": comparison.alone_b,
            "differing": {name: {"a": a, "b": b} for name, (a, b) in differing_settings(run, run_b).items()},
        }
    return found


def _run_json(run: Run) -> dict:
    return {
        "total": _stats_json(run.episodes),
        **asked_json([line.values for line in run.episodes]),
        "suites": {suite: _stats_json(lines) for suite, lines in run.suites.items()},
        "tasks": [
            {"suite": suite, "task_id": task_id, "task_name": lines[0].values["task_name"], **_stats_json(lines)}
            for (suite, task_id), lines in run.tasks.items()
        ],
        "notices": [notice.text for notice in notices(run)],
        "planned": run.planned,
        "missing": run.missing,
        "contradictions": [contradiction_text(repeat) for repeat in run.contradictions],
        "duplicates": [repeat.lines[0].episode for repeat in run.duplicates],
        "depends_on": {
            name: [{"value": value, "episodes": count} for value, count in values]
            for name, values in dependencies(run).items()
        },
    }


def _stats_json(lines: list[Line]) -> dict:
    found = stats(lines)
    return vars(found) | {"rate": found.rate, "interval": found.interval}


def _cells(found: Stats) -> tuple[str, ...]:
    return (
        f"{found.successes}/{found.episodes}",
        f"{100 * found.rate:.1f}",
        percent_range(*found.interval),
        "-" if found.steps is None else f"{found.steps:.0f}",
        "-" if found.median_steps is None else f"{found.median_steps:.0f}",
        f"{found.parse_failures}/{found.queries}",
        str(found.repaired),
        str(found.incidents),
        f"{found.policy_s:.1f}",
        f"{found.sim_s:.1f}",
    )


def _comparison_row(name: str, comparison: Comparison) -> tuple[str, ...]:
    low, high = comparison.interval
    pairs = len(comparison.pairs)
    return (
        name,
        f"{comparison.both + comparison.only_a}/{pairs}",
        f"{comparison.both + comparison.only_b}/{pairs}",
        f"{100 * comparison.difference:+.1f}",
        f"{100 * low:+.1f} to {100 * high:+.1f}",
        str(comparison.only_a),
        str(comparison.only_b),
    )


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)


def _listed(entries: list[str]) -> list[str]:
    more = [f"  ... and {len(entries) - LISTED} more"] if len(entries) > LISTED else []
    return [line for entry in entries[:LISTED] for line in _wrap(entry, "  ")] + more


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
