"""Statistics of the actions of demonstration files: the range that training writes as integers, in a file of its own.

    python tools/compute_stats.py FILE_OR_FOLDER... [--out action_stats.json] [--force]

Training computes the same by itself. A file is for a range that several runs share, or that must not move when the data
does: DATA.STATS action_stats.json. A name that ends in .npz gives numpy's format (action_mins, action_maxs, ...), which
DATA.STATS reads, too. Exit code: 0, 2 where a file cannot be used.
"""

import argparse
from pathlib import Path

from libs.cli import cli_errors
from libs.demo_hdf5 import demo_files
from rv_train.data.demos import DemoDataset
from rv_train.data.stats import compute_action_stats, write_stats

COLUMNS = ("min", "q01", "mean", "std", "q99", "max")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("files", nargs="+", metavar="FILE_OR_FOLDER", help="HDF5 files, or folders of them")
    parser.add_argument(
        "--out", type=Path, default=Path("action_stats.json"), help=".json, or .npz (default: %(default)s)"
    )
    parser.add_argument(
        "--views",
        default="agentview,eye_in_hand",
        help="cameras that training will use, DATA.VIEWS; they belong to the fingerprint (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite --out")
    return parser.parse_args(argv)


@cli_errors
def main(argv=None):
    args = parse_args(argv)
    if args.out.is_dir():
        raise ValueError(f"--out {args.out} is a folder: name the file, such as {args.out / 'action_stats.json'}")
    if args.out.exists() and not args.force:
        raise ValueError(f"{args.out} exists: give another --out, or --force to overwrite it")
    paths = list(dict.fromkeys(path for entry in args.files for path in demo_files(entry)))
    stats = compute_action_stats(DemoDataset(paths, args.views.split(","), horizon=1))
    print("\n".join(table(stats)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_stats(stats, args.out)
    print(args.out)


def table(stats):
    """The lines that describe statistics: a row per action dimension, then what they were computed from."""
    lines = ["dim" + "".join(f"{name:>11}" for name in COLUMNS)]
    for dim, values in enumerate(zip(*(stats[name] for name in COLUMNS), strict=True)):
        lines.append(f"{dim:>3}" + "".join(f"{value:>11.5f}" for value in values))
    lines.append(f"{stats['count']:,} actions of {stats['num_demos']:,} demos, data fingerprint {stats['fingerprint']}")
    return lines


if __name__ == "__main__":
    main()
