"""report.html: one page that needs nothing else, with chart, comparison, settings and every episode's video.

The skeleton, its style and its script lie in report_page/ (`libs.page`). Every text of a record goes through `escape`
or, as JSON, through `json_in_html`; the page fetches nothing but videos and their posters.
"""

import json
import time
from html import escape
from pathlib import Path

from libs.files import make_folder, short_path, write_whole
from libs.page import fill, json_in_html
from rv_eval.results.comparison import Comparison, differing_settings, verdict
from rv_eval.results.report_tables import asked_section, numbers_table
from rv_eval.results.report_videos import Videos
from rv_eval.results.summary import Line, Run, Stats, dependencies, list_episodes, order, ranges, show, stats
from rv_eval.results.summary_text import comparison_rows, notices, percent_range, run_rows, short_names

PAGE = Path(__file__).parent / "report_page"
LABEL_WIDTH = 40  # characters of a task's instruction in the chart
OF_A = '<p class="muted">The numbers of A; A and B side by side are below.</p>'
LISTED = 4  # more numbers than this are shown as ranges: the shards


def write_report(
    path: Path | str,
    run: Run,
    run_b: Run | None = None,
    comparison: Comparison | None = None,
    embed_videos: bool = False,
) -> int:
    """Write the page to `path`; returns its size in bytes.

    Videos and their posters are linked, relative to `path`, or embedded. A poster that older results
    lack is made, beside its video.
    """
    path = Path(path)
    videos = Videos(path.parent, embed_videos)
    videos.make_posters(line for each in (run, run_b) if each for line in each.episodes)
    runs = [run] if run_b is None else [run, run_b]
    title = _heading(runs)
    parts = {
        "title": escape(title),
        "heading": escape(title).replace("/", "/<wbr>"),
        "subtitle": "A: " * (run_b is not None) + escape(_subtitle(run)),
        "notices": _notices(runs),
        "headline": OF_A * (run_b is not None) + _headline(run),
        "comparison": _comparison(run, run_b, comparison) if run_b and comparison else "",
        "chart": _chart(runs),
        "numbers": "".join(
            f"<h3>{name}</h3>" * len(runs[1:]) + numbers_table(*run_rows(each))
            for name, each in zip("AB", runs, strict=False)
        ),
        "legend": '<p class="legend"><span class="A">A</span> <span class="B">B</span></p>' if comparison else "",
        "asked": asked_section(run),
        "of_a": " (A)" * (run_b is not None),
        "settings": _settings(run),
        "episodes": json_in_html(_episodes(run, comparison, videos)),
        "lost": f"Videos that records name and that are not there: {videos.lost}." if videos.lost else "",
    }
    make_folder(path.parent)
    write_whole(path, fill(PAGE, parts), contested=True)  # the shards of an evaluation may end together
    return path.stat().st_size


def _title(run: Run) -> str:
    names = [short_path(str(value)) for value, _ in dependencies(run).get("model_path", [])]
    return ", ".join(names) or "evaluation"


def _heading(runs: list[Run]) -> str:
    """The policies; where one was evaluated twice the folders of its results, unless that is one folder, too."""
    for names in (list(map(_title, runs)), list(map(_folders, runs))):
        if len(set(names)) == len(runs):
            return " against ".join(names)
    return _title(runs[0])


def _folders(run: Run) -> str:
    return ", ".join(sorted({short_path(line.file.parent) for line in run.episodes}))


def _text(line: str) -> str:
    return escape(line).replace(" %", "&nbsp;%")


def _origin(run: Run) -> str:
    return f"{escape(_title(run))} <small>({escape(_folders(run))})</small>"


def _subtitle(run: Run) -> str:
    finished = sorted(str(line.values["finished"]) for line in run.episodes if line.values.get("finished"))
    when = f", run from {finished[0]} to {finished[-1]}" if finished else ""
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"episodes: {len(run.episodes)}, tasks: {len(run.tasks)}{when}; report written {written}"


def _notices(runs: list[Run]) -> str:
    blocks = []
    for name, run in zip("AB", runs, strict=False):
        for notice in notices(run):
            text = f"{name}: {notice.text}" if len(runs) > 1 else notice.text
            items = "".join(f"<li>{escape(entry)}</li>" for entry in notice.episodes)
            details = f"<details><summary>which</summary><ul>{items}</ul></details>" if items else ""
            blocks.append(f'<div class="notice{" grave" * bool(items)}">{escape(text)}{details}</div>')
    return "".join(blocks)


def _headline(run: Run) -> str:
    found = stats(run.episodes)
    cards = [_card("overall", found, "total")] + [_card(suite, stats(lines), "") for suite, lines in run.suites.items()]
    steps = "-" if found.steps is None else f"{found.steps:.0f} on average, median {found.median_steps:.0f}"
    facts = {
        "steps to success": steps,
        "parse failures": f"{found.parse_failures} of {found.queries} answers",
        "wrong length": f"{found.repaired} answers, padded or cut",
        "incidents": f"{found.incidents}{', made good by repeating the episode' * (found.incidents > 0)}",
        "time per episode": f"policy {found.policy_s:.1f} s, simulator {found.sim_s:.1f} s",
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in facts.items())
    return f'<div class="cards">{"".join(cards)}</div><dl class="facts">{rows}</dl>'


def _card(name: str, found: Stats, kind: str) -> str:
    interval = f"<span>95 % {percent_range(*found.interval)}</span>"
    return (
        f'<div class="headline {kind}"><span>{escape(name)}</span><strong>{100 * found.rate:.1f} %</strong>'
        f"<small>{found.successes} of {found.episodes}, {interval}</small></div>"
    )


def _comparison(run: Run, run_b: Run, comparison: Comparison) -> str:
    differing = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(', '.join(map(show, a)))}</td>"
        f"<td>{escape(', '.join(map(show, b)))}</td></tr>"
        for name, (a, b) in differing_settings(run, run_b).items()
    )
    settings = f"<table><tr><th></th><th>A</th><th>B</th></tr>{differing}</table>" if differing else ""
    alone = "".join(
        f"<p>{len(episodes)} episodes only in {name}, left out here: {escape('; '.join(list_episodes(episodes)))}</p>"
        for name, episodes in (("A", comparison.alone_a), ("B", comparison.alone_b))
        if episodes
    )
    return (
        f'<section id="comparison"><h2>A against B</h2><p>A: {_origin(run)}<br>B: {_origin(run_b)}</p>'
        f'<p class="verdict">{_text(verdict(comparison))}</p>{numbers_table(*comparison_rows(comparison))}{alone}'
        f"<h3>What differs</h3>{settings or '<p>Nothing that is recorded.</p>'}"
        '<p class="muted">Episodes are paired by suite, task, init state, seed and instruction. The test is McNemar’s, '
        "exact and two-sided; the intervals of differences are Tango’s (Statistics in Medicine 17:891, 1998).</p>"
        "</section>"
    )


def _chart(runs: list[Run]) -> str:
    """A bar per task with its interval, the worst task of a suite first; under it the bar of the second run."""
    run, others = runs[0], [other.tasks for other in runs[1:]]
    blocks = []
    for suite in run.suites:
        tasks = {task: members for task, members in run.tasks.items() if task[0] == suite}
        labels = short_names([members[0].values["instruction"] for members in tasks.values()], LABEL_WIDTH)
        rows = [
            (stats(members), task[1], label, members, [other[task] for other in others if task in other])
            for (task, members), label in zip(tasks.items(), labels, strict=True)
        ]
        rows.sort(key=lambda row: (row[0].rate, row[1]))
        bars = "".join(_bar(suite, task_id, label, [members, *more]) for _, task_id, label, members, more in rows)
        rates = [_rate(stats(each.suites[suite])) for each in runs if suite in each.suites]
        shown = rates[0] if len(runs) == 1 else "; ".join(map(": ".join, zip("AB", rates, strict=False)))
        blocks.append(
            f'<figure class="suite"><figcaption>{escape(suite)} <small>{shown}</small></figcaption>{bars}'
            f"{_axis(len(runs))}</figure>"
        )
    return "".join(blocks)


def _rate(found: Stats) -> str:
    return f"{found.successes}/{found.episodes}, {100 * found.rate:.1f} % ({percent_range(*found.interval)})"


def _bar(suite: str, task_id: int, label: str, groups: list[list[Line]]) -> str:
    marks, texts, values = [], [], []
    for name, lines in zip("AB", groups, strict=False):
        found = stats(lines)
        low, high = (100 * edge for edge in found.interval)
        top, height = (3, 12) if name == "A" else (17, 6)
        middle = top + height / 2
        marks.append(
            f'<rect class="bar {name}" y="{top}" height="{height}" width="{100 * found.rate:.2f}%"/>'
            f'<line class="interval" x1="{low:.2f}%" x2="{high:.2f}%" y1="{middle}" y2="{middle}"/>'
            f'<line class="interval" x1="{low:.2f}%" x2="{low:.2f}%" y1="{middle - 3}" y2="{middle + 3}"/>'
            f'<line class="interval" x1="{high:.2f}%" x2="{high:.2f}%" y1="{middle - 3}" y2="{middle + 3}"/>'
        )
        run_name = f"{name}: " if len(groups) > 1 else ""
        texts.append(
            f"{run_name}{found.successes} of {found.episodes} solved, {100 * found.rate:.1f} % "
            f"(95 % {percent_range(*found.interval)})"
        )
        values.append(f'<span class="{name}">{found.successes}/{found.episodes}</span>')
    instruction = groups[0][0].values["instruction"]
    title = escape("\n".join([f"{suite} {task_id}: {instruction}", *texts]))
    height = 26 if len(groups) > 1 else 18
    return (
        f'<a class="task" href="#episodes" data-suite="{escape(suite)}" data-task="{task_id}" title="{title}">'
        f'<span class="label"><b>{task_id}</b> {escape(label)}</span>'
        f'<svg width="100%" height="{height}" role="img" aria-label="{title}">'
        f'<rect class="track" y="3" height="{height - 6}" width="100%"/>{"".join(marks)}</svg>'
        f'<span class="value">{"".join(values)}</span></a>'
    )


def _axis(num_runs: int) -> str:
    texts = "".join(
        f'<text x="{percent}%" y="12" text-anchor="{anchor}">{percent}{" %" * (percent == 100)}</text>'
        for percent, anchor in ((0, "start"), (25, "middle"), (50, "middle"), (75, "middle"), (100, "end"))
    )
    return (
        f'<div class="task axis"><span></span><svg width="100%" height="16">{texts}</svg>'
        f'<span class="value">{"<span></span>" * num_runs}</span></div>'
    )


def _here(value: object) -> object:
    """A value of a record; where it is a path, as it reads from here."""
    return short_path(value) if isinstance(value, str) else value


def _told(value: object) -> str:
    return str(_here(value)) if isinstance(value, str) else json.dumps(value)


def _settings(run: Run) -> str:
    rows = []
    for name, values in dependencies(run).items():
        texts = [(_told(value), f" <small>({n})</small>") for value, n in values]
        if len(values) > LISTED and all(type(value) is int for value, _ in values):
            texts = [(ranges(value for value, _ in values if isinstance(value, int)), "")]
        mark = " class=several" if len(values) > 1 else ""
        shown = "<br>".join(escape(text) + count * (len(texts) > 1) for text, count in texts)
        rows.append(f"<div{mark}><dt>{escape(name)}</dt><dd>{shown}</dd></div>")
    files = sorted({short_path(line.file) for line in run.episodes})
    rows.append(f"<div class=wide><dt>result files</dt><dd>{'<br>'.join(map(escape, files))}</dd></div>")
    return "".join(rows)


def _episodes(run: Run, comparison: Comparison | None, videos: Videos) -> dict:
    """{"shared": fields that are the same everywhere, "episodes": [...]}, failures first."""
    others = {first.episode: second for first, second in comparison.pairs} if comparison else {}
    lines = sorted(run.episodes, key=lambda line: (line.values["success"], order(line.episode)))
    first = lines[0].values if lines else {}
    shared = {
        name: value
        for name, value in first.items()
        if all(name in line.values and line.values[name] == value for line in lines)
    }
    always = ("suite", "task_id", "task_name", "instruction", "init_state", "seed", "success", "steps")
    episodes = []
    for line in lines:
        fields = {name: _here(value) for name, value in line.values.items() if name in always or name not in shared}
        entry = {"fields": fields, **videos.addresses(line), "source": f"{short_path(line.file)} line {line.number}"}
        if line.episode in others:
            other = others[line.episode]
            entry["b"] = {
                "success": other.values["success"],
                "steps": other.values["steps"],
                **videos.addresses(other),
                "source": f"{short_path(other.file)} line {other.number}",
            }
        episodes.append(entry)
    shared = {name: _here(value) for name, value in shared.items() if name not in always}
    return {"shared": shared, "episodes": episodes}
