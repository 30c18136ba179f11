"""Demonstration files as a manifest: a JSON line per training sample, its pictures beside as PNG or JPEG files.

    python tools/build_manifest.py FILE_OR_FOLDER... --out data/manifest [--workers 8]

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
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from libs.action_text import ActionTextCodec
from libs.cli import cli_errors
from libs.demo_hdf5 import KeyMap, demo_files
from libs.errors import BadInput
from libs.files import check_new_folder, kind_of
from libs.manifest.build import Build, Settings, check_same, clear_parts, make_tasks
from libs.manifest.lines import INFO, MANIFEST
from rv_train.data.checks import demo_remarks, motion_problems, refuse
from rv_train.data.demos import DemoDataset, split_by_masks
from rv_train.data.manifest import read_info
from rv_train.data.stats import (
    FILE_NAME,
    NPZ_NAME,
    RANGES,
    action_range,
    compute_action_stats,
    read_stats,
    stats_as_bytes,
)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("files", nargs="+", metavar="FILE_OR_FOLDER", help="HDF5 files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--key_map", default="libero", help="layout of the files, DATA.KEY_MAP (default: libero)")
    parser.add_argument(
        "--views", help="cameras, DATA.VIEWS (default: all of the key map, for libero agentview,eye_in_hand)"
    )
    parser.add_argument(
        "--instruction", default="", help="of every demo, DATA.INSTRUCTION (default: what the files state)"
    )
    parser.add_argument("--horizon", type=int, default=8, help="actions per sample, ACTION.HORIZON (default: 8)")
    parser.add_argument("--num_bins", type=int, default=1000, help="largest integer, ACTION.NUM_BINS (default: 1000)")
    parser.add_argument(
        "--range", choices=tuple(RANGES), default="min_max", help="of the statistics, ACTION.RANGE (default: min_max)"
    )
    parser.add_argument("--stats", metavar="FILE", help="range of the actions (default: of these demonstrations)")
    parser.add_argument("--format", choices=("png", "jpeg"), default="png", help="png is lossless (default)")
    parser.add_argument("--quality", type=int, default=95, help="of jpeg, 1 to 100 (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    return parser.parse_args(argv)


@cli_errors
def main(argv=None):
    args = parse_args(argv)
    for name, low, high in (("horizon", 1, 10_000), ("num_bins", 1, 10**9), ("quality", 1, 100), ("workers", 1, 4096)):
        if not low <= getattr(args, name) <= high:
            raise BadInput(f"--{name} must be between {low} and {high}, not {getattr(args, name)}")
    check_new_folder(args.out)
    paths = demo_files(*args.files)
    key_map = KeyMap.find(args.key_map)
    views = list(dict.fromkeys(args.views.split(","))) if args.views else list(key_map.views)
    dataset = DemoDataset(paths, views, args.horizon, key_map, instruction=args.instruction)
    refuse(motion_problems(dataset.demos))
    stats = compute_action_stats(dataset)
    fingerprint = stats["fingerprint"]
    if args.stats:
        stats = read_stats(args.stats)
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
    codec = ActionTextCodec(settings.low, settings.high, settings.num_bins)
    info = {
        **asdict(settings),
        "action_range": args.range,
        "action_dim": len(settings.low),
        "pictures": "upright RGB",
        "render": dataset.render,
        "resolution": dataset.resolution,
        "num_samples": len(dataset),
        "num_demos": dataset.num_demos,
        "num_clipped": sum(codec.count_clipped(rows.actions) for rows in dataset.demos),
    }
    for line in demo_remarks(dataset.demos, args.horizon, codec.low, codec.high, args.num_bins):
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
        with Build(args.out, settings, list(make_tasks(dataset.files, splits_of))) as build:
            run_with_bar(build, args.workers, len(dataset))
            build.finish(companions)
    what = f"{len(dataset):,} samples of {dataset.num_demos:,} demos in {len(paths)} file{'s' * (len(paths) != 1)}"
    clipped = f", {info['num_clipped']:,} action values clipped" if info["num_clipped"] else ""
    print(f"{args.out / MANIFEST}  {what}, {len(settings.views)} views as {args.format}, upright{clipped}")


def run_with_bar(build, workers, num_frames):
    done = num_frames - sum(task.frames for task in build.missing())
    with tqdm(total=num_frames, initial=done, unit="frame", smoothing=0, dynamic_ncols=True) as bar:
        try:
            build.run(workers, lambda task: bar.update(task.frames))
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command continues") from None


def splits_of(file):
    """{demo: "train", "valid" or "neither"} where a demonstration file has lists of them (robomimic), else {}."""
    listed = split_by_masks(file, file.demos)
    if listed is None:
        return {}
    train, valid = listed
    return {name: "train" if name in train else "valid" if name in valid else "neither" for name in file.demos}


if __name__ == "__main__":
    main()
