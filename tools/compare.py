"""Say how two evaluations, two runs or two models differ.

    python tools/compare.py eval_logs/RUN_A eval_logs/RUN_B --out report.html
    python tools/compare.py eval_logs/RUN eval_logs/RUN --only n_action_steps=8 --only_b n_action_steps=4
    python tools/compare.py checkpoints/RUN_A checkpoints/RUN_B

What A and B are is seen from what lies there:

- Results of evaluations (a --log_dir, or a .jsonl file of it): success by suite side by side, whether the difference is
  larger than chance, which settings differ, and every episode that did not end alike. Times, incidents and how the work
  was divided over shards may differ.
- Run folders: the checkpoints that both have (weights, optimizer, random generators), bit by bit, and the curves but
  for those of speed. A run that was interrupted and resumed should be identical to one that was not.
- Model folders, or one of them and a run: weights, recipe and range of the actions.

Exit code: 0 equal; 1 not; 2 where one cannot be read, or they are not of a kind.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from libs.cli import Parser, cli_errors
from libs.errors import BadInput
from libs.files import check_new_file, kind_of, make_folder, write_whole
from rv_eval.results.comparison import Comparison, compare
from rv_eval.results.equality import evaluation_differences
from rv_eval.results.records import SETTING_KEYS, shard_files
from rv_eval.results.report import write_report
from rv_eval.results.summary import Run, gather, list_episodes
from rv_eval.results.summary_text import as_json, comparison_text

LISTED = 20  # differences between episodes that are printed
OF_EVALUATIONS = ("only", "only_b", "ignore", "out", "json", "embed_videos")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("a", type=Path, metavar="A", help="folder, or .jsonl file of results")
    parser.add_argument("b", type=Path, metavar="B", help="another of the same kind")
    add = parser.add_argument_group("of evaluations").add_argument
    add("--only", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="take these of several runs in it")
    add("--only_b", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="of B, in place of --only")
    add("--ignore", nargs="+", default=[], choices=SETTING_KEYS, metavar="KEY", help="settings that may differ")
    add("--out", type=Path, metavar="PAGE.html", help="write a report: charts, both videos of every episode")
    add("--embed_videos", action="store_true", help="put the videos into the report: one file to send")
    add("--json", type=Path, metavar="FILE", help="write the numbers to this file, too")
    args = parser.parse_args(argv)
    if args.embed_videos and not args.out:
        parser.error("--embed_videos is of a report: give --out")
    return args


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    kinds = [kind_of_result(path) for path in (args.a, args.b)]
    if kinds == ["evaluation"] * 2:
        found, equal = compare_evaluations(args)
    elif "evaluation" in kinds:
        raise BadInput(f"{args.a} is {_a(kinds[0])} and {args.b} {_a(kinds[1])}: compare two of a kind")
    else:
        if given := [name for name in OF_EVALUATIONS if getattr(args, name)]:
            raise BadInput(f"--{given[0]} is for evaluations, {args.a} is {_a(kinds[0])}")
        found, equal = compare_weights(args.a, args.b, runs=kinds == ["run"] * 2)
    print("\n".join(found) if found else equal)
    if found:
        raise SystemExit(1)


def kind_of_result(path: Path) -> str:
    """ "evaluation", "run" or "model". BadInput: neither."""
    if kind_of(path) == "file" or (kind_of(path) == "folder" and any(shard_files(path, "results"))):
        return "evaluation"
    from rv_train.checkpoint import checkpoints, find_model_folder

    if checkpoints(path):
        return "run"
    try:
        find_model_folder(path)
    except BadInput:
        what = "holds no results.jsonl, no complete checkpoint and no model" if kind_of(path) else "does not exist"
        raise BadInput(f"{path} {what}") from None
    return "model"


def _a(kind):
    return {"evaluation": "an evaluation", "run": "a run folder", "model": "a model folder"}[kind]


def compare_weights(first: Path, second: Path, runs: bool) -> tuple[list[str], str]:
    """(what differs, what is said where nothing does) of two run folders, or of the models in two folders."""
    from rv_train.checkpoint import checkpoints
    from rv_train.difference import compare_models, compare_runs, read_curves

    if not runs:
        return compare_models(first, second), "identical: weights, recipe, statistics"
    found = compare_runs(first, second)
    names = [folder.name for folder in checkpoints(first)]
    return found, "" if found else f"identical: {', '.join(names)}; curves {', '.join(read_curves(first))}"


def compare_evaluations(args: argparse.Namespace) -> tuple[list[str], str]:
    """The same of two evaluations, whose comparison is printed and written as the arguments say."""
    for path in filter(None, (args.out, args.json)):
        check_new_file(path)
    run_a = gather([args.a], args.only)
    run_b = gather([args.b], args.only_b or args.only, "--only_b" if args.only_b else "--only")
    comparison = compare(run_a, run_b)
    print(f"A: {args.a}\nB: {args.b}\n\n{comparison_text(run_a, run_b, comparison)}\n")
    write_results(args.out, args.json, args.embed_videos, run_a, run_b, comparison)
    found = evaluation_differences(run_a, run_b, ignore=args.ignore)
    more = [f"... and {len(found) - LISTED} more differences"] if len(found) > LISTED else []
    found = ["not equal:", *found[:LISTED], *more] if found else []
    return found, f"equal: {', '.join(list_episodes(line.episode for line in run_a.episodes))}"


def write_results(
    page: Path | None,
    numbers: Path | None,
    embed_videos: bool,
    run: Run,
    run_b: Run | None = None,
    comparison: Comparison | None = None,
) -> None:
    """Write the report and the numbers, of an evaluation or of two, where paths are given, and say so."""
    if numbers:
        make_folder(numbers.parent)
        write_whole(numbers, json.dumps(as_json(run, run_b, comparison), indent=1) + "\n")
        print(f"numbers: {numbers}")
    if page:
        size = write_report(page, run, run_b, comparison, embed_videos)
        print(f"report:  {page} ({size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
