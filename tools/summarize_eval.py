"""Put the results of an evaluation together: success by task and suite, what is missing, a comparison, report.html.

    python tools/summarize_eval.py LOGS
    python tools/summarize_eval.py LOGS_A --compare LOGS_B
    python tools/summarize_eval.py LOGS --only n_action_steps=8 --compare LOGS --compare_only n_action_steps=4

A folder stands for every results and planned file in it, so for all shards that wrote there; several folders, or
single .jsonl files, are put together. Exit code: 0 complete and consistent; 1 planned episodes are missing, or an
episode came out differently when it was run again; 2 bad input.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from libs.cli import cli_errors
from libs.files import check_new_file, make_folder, write_whole
from rv_eval.results.comparison import compare
from rv_eval.results.report import write_report
from rv_eval.results.summary import gather
from rv_eval.results.summary_text import as_json, comparison_text, run_text


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("dirs", nargs="+", type=Path, metavar="DIR", help="a --log_dir of eval_libero.py, or a .jsonl file of results")
    add("--only", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="take these of several runs")
    add("--compare", nargs="+", type=Path, metavar="DIR", help="a second run (B), compared episode by episode")
    add("--compare_only", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="--only for --compare")
    add("--out", type=Path, help="the report (default: report.html in the first DIR)")
    add("--html", action=argparse.BooleanOptionalAction, default=True, help="write the report")
    add("--embed_videos", action="store_true", help="put the videos into the report: one file to send")
    add("--json", type=Path, metavar="PATH", help="write the numbers to this file too")
    add("--tracker", type=Path, metavar="RUN", help="show it on the pages of this run folder, too (TRAIN.trackers)")
    args = parser.parse_args(argv)
    if args.compare_only and not args.compare:
        parser.error("--compare_only needs --compare")
    if not args.html and (args.out or args.embed_videos):
        parser.error("--no-html goes neither with --out nor with --embed_videos")
    return args


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    runs = [gather(args.dirs, args.only)]
    first = args.dirs[0]
    page = args.out or (first if first.is_dir() else first.parent) / "report.html"
    for path in ([args.json] if args.json else []) + ([page] if args.html else []):
        check_new_file(path)
    other = comparison = None
    if args.compare:
        other = gather(args.compare, args.compare_only, "--compare_only")
        runs.append(other)
        comparison = compare(runs[0], other)
        print(f"A: {' '.join(map(str, args.dirs))}\n{run_text(runs[0])}\n")
        print(f"B: {' '.join(map(str, args.compare))}\n{run_text(other)}\n")
        print(comparison_text(runs[0], other, comparison))
    else:
        print(run_text(runs[0]))
    print()
    if args.json:
        make_folder(args.json.parent)
        write_whole(args.json, json.dumps(as_json(runs[0], other, comparison), indent=1) + "\n")
        print(f"numbers: {args.json}")
    if args.html:
        size = write_report(page, runs[0], other, comparison, args.embed_videos)
        print(f"report:  {page} ({size / 1e6:.2f} MB)")
    if args.tracker:
        from rv_eval.results.on_page import show_on_pages  # takes torch along

        print(f"page:    {show_on_pages(runs[0], args.tracker)}")
    if not all(run.is_sound for run in runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
