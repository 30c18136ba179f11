"""Statistics of the actions of demonstrations: the range that training writes as integers, in a file of its own.

    python tools/compute_stats.py data/quickstart --out action_stats.json
    python tools/compute_stats.py data/stack --key_map isaac_cosmos --proprio joint_pos gripper_pos
    python tools/compute_stats.py data/quickstart ACTION.MODE delta ACTION.HORIZON 8 --out delta_stats.json

Training computes the same by itself. A file is for a range that several runs share, or that must not move when the data
does: DATA.STATS action_stats.json. A name that ends in .npz gives numpy's format (action_mins, action_maxs, ...), which
DATA.STATS reads, too. With --proprio it holds mean, deviation and range of these parts of the robot's state as well,
for a policy that is given them. Where a recipe writes actions as differences or rotations in another form, its keys of
ACTION decide what the statistics are of: give them as KEY VALUE. Exit code: 0, 2 where a file cannot be used.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from libs.cli import Parser, cli_errors
from libs.errors import BadInput
from libs.files import check_new_file, kind_of
from rv_train.data.checks import USUAL_BINS, constant_dims, demo_remarks, refuse
from rv_train.data.forms import action_form, form_problems, written_actions
from rv_train.data.load import open_data
from rv_train.data.stats import compute_action_stats, write_stats
from tools.data_options import add_data_options, chosen_data

COLUMNS = ("min", "q01", "mean", "std", "q99", "max")
PROPRIO_COLUMNS = ("min", "mean", "std", "max")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_data_options(parser)
    parser.add_argument("--out", type=Path, default=Path("action_stats.json"), help="file to write, .json or .npz")
    parser.add_argument("--force", action="store_true", help="overwrite --out")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if kind_of(args.out) == "folder":
        raise BadInput(f"--out {args.out} is a folder: name the file, such as {args.out / 'action_stats.json'}")
    if args.out.exists() and not args.force:
        raise BadInput(f"{args.out} exists: give another --out, or --force to overwrite it")
    check_new_file(args.out)
    cfg = chosen_data(args, HORIZON=1)
    data = open_data(cfg)
    if data.written_with:
        raise BadInput(f"{data.written_with[1]} holds the statistics that these actions were written with: take those")
    form = action_form(cfg, data.parts)
    refuse(form_problems(data.demos, form))
    stats = compute_action_stats(data, form)
    print("\n".join(table(stats)))
    written = None if form.plain else [written_actions(rows, form, data.horizon) for rows in data.demos]
    for line in [*constant_dims(stats), *demo_remarks(data, stats["min"], stats["max"], USUAL_BINS, written)]:
        print(f"warning: {line}", file=sys.stderr)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_stats(stats, args.out)
    print(args.out)


def table(stats: Mapping[str, Any]) -> list[str]:
    """The lines that describe statistics: a row per dimension of the actions and then of the proprio parts, then what
    they were computed from."""
    lines = rows_of("dim", range(len(stats["min"])), COLUMNS, stats)
    if "proprio" in stats:
        names = [f"{part} {n}" for part, dim in stats["proprio"]["parts"].items() for n in range(dim)]
        lines += rows_of("proprio", names, PROPRIO_COLUMNS, stats["proprio"])
    lines.append(f"{stats['count']:,} actions of {stats['num_demos']:,} demos, data fingerprint {stats['fingerprint']}")
    return lines


def rows_of(title: str, names: Sequence[object], columns: Sequence[str], stats: Mapping[str, Any]) -> list[str]:
    """A line of titles, and one of numbers per name, in the columns' order."""
    width = max(len(str(name)) for name in (title, *names))
    lines = [f"{title:<{width}}" + "".join(f"{column:>11}" for column in columns)]
    for name, *values in zip(names, *(stats[column] for column in columns), strict=True):
        lines.append(f"{name!s:>{width}}" + "".join(f"{value:>11.5f}" for value in values))
    return lines


if __name__ == "__main__":
    main()
