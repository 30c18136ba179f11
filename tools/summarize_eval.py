"""Put the results of an evaluation together: success by task and suite, what is missing, report.html.

    python tools/summarize_eval.py eval_logs/RUN
    python tools/summarize_eval.py eval_logs/RUN --only n_action_steps=8 --no_html --json numbers.json

To compare two evaluations: tools/compare.py. A folder stands for every results and planned file in it, so for all
shards that wrote there; several folders, or single .jsonl files, are put together. Exit code: 0 complete and
consistent; 1 planned episodes are missing, or an episode came out differently when it was run again; 2 bad input.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from libs.cli import Parser, Switch, cli_errors
from libs.cli.old import say
from libs.files import check_new_file
from rv_eval.results.comparison import compare
from rv_eval.results.summary import Run, gather
from rv_eval.results.summary_text import comparison_text, run_text
from tools.compare import write_results


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("dirs", nargs="+", type=Path, metavar="DIR", help="a --log_dir of eval_libero.py, or a .jsonl file of results")
    add("--only", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="take these of several runs in it")
    add("--out", type=Path, metavar="PAGE.html", help="the report (default: report.html in the first DIR)")
    add("--html", action=Switch, default=True, help="write the report")
    add("--embed_videos", action="store_true", help="put the videos into the report: one file to send")
    add("--json", type=Path, metavar="FILE", help="write the numbers to this file, too")
    add("--tracker", type=Path, metavar="RUN", help="show it on the pages of this run folder, too (TRAIN.trackers)")
    # Of the release before: tools/compare.py. They go with the next one.
    add("--compare", nargs="+", type=Path, help=argparse.SUPPRESS)
    add("--compare_only", nargs="+", action="extend", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.compare_only and not args.compare:
        parser.error("--compare_only needs --compare")
    if not args.html and (args.out or args.embed_videos):
        parser.error("--no_html goes neither with --out nor with --embed_videos")
    return args


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    run = gather(args.dirs, args.only)
    first = args.dirs[0]
    page = args.out or (first if first.is_dir() else first.parent) / "report.html"
    for path in ([args.json] if args.json else []) + ([page] if args.html else []):
        check_new_file(path)
    if args.compare:
        compare_as_before(args, run, page if args.html else None)
        return
    print(f"{run_text(run)}\n")
    write_results(page if args.html else None, args.json, args.embed_videos, run)
    if args.tracker:
        from rv_eval.results.on_page import show_on_pages  # takes torch along

        print(f"page:    {show_on_pages(run, args.tracker, page if args.html else None)}")
    if not run.is_sound:
        raise SystemExit(1)


def compare_as_before(args: argparse.Namespace, run: Run, page: Path | None) -> None:
    """--compare, with its own exit code: 1 where an evaluation is incomplete or contradicts itself."""
    say("tools/summarize_eval.py A --compare B", "tools/compare.py A B")
    other = gather(args.compare, args.compare_only, "--compare_only")
    comparison = compare(run, other)
    print(f"A: {' '.join(map(str, args.dirs))}\n{run_text(run)}\n")
    print(f"B: {' '.join(map(str, args.compare))}\n{run_text(other)}\n")
    print(f"{comparison_text(run, other, comparison)}\n")
    write_results(page, args.json, args.embed_videos, run, other, comparison)
    if not (run.is_sound and other.is_sound):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
