"""Demonstrations as a manifest: a JSON line per training sample, its pictures beside as PNG or JPEG files.

    python tools/build_manifest.py data/quickstart --out data/manifest --workers 8

    manifest.jsonl       {"image_paths", "instruction", "target_action_text", "H", "D", "file", "demo", "frame"} a line
    frames/              upright, one file per frame and camera, a folder per demo with its SHA256SUMS
    action_stats.json    statistics of the actions, and action_stats.npz: the integers stand for --range of them
    manifest_info.json   how all this was made

Files of another layout than LIBERO's are read by a key map: --key_map isaac_cosmos.
Training reads it with DATA.SOURCE manifest DATA.FILES data/manifest, and learns from PNG what it learns from the HDF5
files. The same command continues after an interruption or a kill; the bytes in the end depend neither on that nor on
the number of processes. Exit code: 0, 2 where a file cannot be used, 130 after Ctrl-C.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from libs.action_text import ActionTextCodec
from libs.cli import Parser, cli_errors
from libs.errors import BadInput
from libs.files import check_new_folder, kind_of
from libs.manifest.build import Build, Settings, check_same, clear_parts, make_tasks
from libs.manifest.lines import INFO, MANIFEST
from rv_train.data.checks import demo_remarks, motion_problems, refuse
from rv_train.data.forms import action_form
from rv_train.data.load import open_data
from rv_train.data.manifest_stats import read_info
from rv_train.data.stats import (
    FILE_NAME,
    NPZ_NAME,
    RANGES,
    action_range,
    compute_action_stats,
    read_stats,
    stats_as_bytes,
)
from tools.data_options import add_data_options, chosen_data


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_data_options(parser, proprio=False)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--horizon", type=int, default=8, help="actions that follow each picture, ACTION.HORIZON")
    parser.add_argument(
        "--num_bins", type=int, default=1000, help="largest integer that an action becomes, ACTION.NUM_BINS"
    )
    parser.add_argument(
        "--range",
        choices=tuple(RANGES),
        default="min_max",
        help="what 0 and the largest integer stand for, ACTION.RANGE",
    )
    parser.add_argument(
        "--stats", metavar="FILE", help="file with the range of the actions (default: that of these demonstrations)"
    )
    parser.add_argument("--format", choices=("png", "jpeg"), default="png", help="of the pictures; png loses nothing")
    parser.add_argument("--quality", type=int, default=95, help="of jpeg, 1 to 100")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    for name, least, most in (
        ("horizon", 1, 10_000),
        ("num_bins", 1, 10**9),
        ("quality", 1, 100),
        ("workers", 1, 4096),
    ):
        if not least <= getattr(args, name) <= most:
            raise BadInput(f"--{name} must be between {least} and {most}, not {getattr(args, name)}")
    check_new_folder(args.out)
    cfg = chosen_data(args, HORIZON=args.horizon, NUM_BINS=args.num_bins)
    dataset = open_data(cfg)
    if not action_form(cfg, dataset.parts).plain:
        raise BadInput("a manifest holds actions as they are recorded: leave ACTION.MODE and ACTION.ROTATION out")
    if dataset.written_with:
        raise BadInput(f"{dataset.files[0].path} holds actions as integers already: give what it was made of")
    refuse(motion_problems(dataset.demos))
    stats = compute_action_stats(dataset)
    fingerprint = stats["fingerprint"]
    if args.stats:
        stats = read_stats(args.stats)
        numbers = len(stats["min"])
        if "form" in stats or numbers != dataset.facts.action_dim:
            what = f"actions written as {stats['form']}" if "form" in stats else f"{numbers} numbers an action"
            raise BadInput(
                f"--stats {args.stats} is of {what}, a manifest of these demonstrations holds their "
                f"{dataset.facts.action_dim} numbers as they are recorded: take statistics of such, or leave it out"
            )
    low, high = action_range(stats, args.range)
    settings = Settings(
        views=dataset.views,
        horizon=args.horizon,
        num_bins=args.num_bins,
        low=low,
        high=high,
        picture_format=args.format,
        jpeg_quality=args.quality if args.format == "jpeg" else 0,
        fingerprint=fingerprint,
    )
    size = next(iter(dataset.facts.cameras.values()))
    assert size is not None, "there is data, which tells it"
    codec = ActionTextCodec(settings.low, settings.high, settings.num_bins)
    info = {
        **asdict(settings),
        "action_range": args.range,
        "action_dim": len(settings.low),
        "pictures": "upright RGB",
        "render": dataset.render,
        "resolution": max(size),
        "num_samples": len(dataset),
        "num_demos": len(dataset.demos),
        "num_clipped": sum(codec.count_clipped(rows.actions) for rows in dataset.demos),
    }
    for line in demo_remarks(dataset, codec.low, codec.high, args.num_bins):
        print(f"warning: {line}", file=sys.stderr)
    if kind_of(args.out / MANIFEST):
        check_same(settings, read_info(args.out), args.out)
        clear_parts(args.out)
    else:
        companions = {
            INFO: (json.dumps(info, indent=1) + "\n").encode(),
            FILE_NAME: stats_as_bytes(stats, ".json"),
            NPZ_NAME: stats_as_bytes(stats, ".npz"),
        }
        with Build(args.out, settings, dataset, list(make_tasks(dataset, dataset.own_split()))) as build:
            run_with_bar(build, args.workers, len(dataset))
            build.finish(companions)
    files = len(dataset.files)
    what = f"{len(dataset):,} samples of {len(dataset.demos):,} demos in {files} file{'s' * (files != 1)}"
    clipped = f", {info['num_clipped']:,} action values clipped" if info["num_clipped"] else ""
    print(f"{args.out / MANIFEST}  {what}, {len(settings.views)} views as {args.format}, upright{clipped}")


def run_with_bar(build: Build, workers: int, num_frames: int) -> None:
    done = num_frames - sum(task.frames for task in build.missing())
    with tqdm(total=num_frames, initial=done, unit="frame", smoothing=0, dynamic_ncols=True) as bar:
        try:
            build.run(workers, lambda task: bar.update(task.frames))
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command continues") from None


if __name__ == "__main__":
    main()
