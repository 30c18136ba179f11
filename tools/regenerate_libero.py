"""Re-render published LIBERO demonstrations: larger pictures, the one before each action, no idle steps.

    python tools/regenerate_libero.py path/to/libero_spatial path/to/libero_object --out data/libero --workers 8

Each demo is played again in the simulator: its first recorded state, ten steps to settle, then its actions except
those that neither move the arm nor change the gripper. All actions are run, and the demo is kept if the task is
solved after the last one, as in the sets that VLA-0's and OpenVLA's published numbers were trained on; with
--stop_at_success it ends, and counts, where the task is first solved, and with --wait N also up to N steps later, which
are not recorded: what was let go may still be falling.

Demonstrations that tools/collect_demos.py recorded begin as they began there, at rest, and keep all of their actions.

Writes DIR/<same name> and DIR/summary.json. The same command continues after an interruption; the files
depend neither on interruptions nor on the number of workers. Exit code: 0; 1 where no demo of a file succeeds (the
other files are written); 2 for bad input.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from libs.cli import Parser, cli_errors
from libs.demo_hdf5 import DemoFile, demo_files
from libs.errors import BadInput
from libs.files import check_new_folder
from libs.libero_sim.regeneration import NOOP_NORM, SETTLE_STEPS, FileJob
from libs.libero_sim.replay import recorded_task
from libs.robosuite_sim import RENDER_SETTINGS, simulator_versions
from libs.robosuite_sim.pool import run_with_bar

COUNTS = (
    "demos_in",
    "demos_kept",
    "frames_in",
    "frames_kept",
    "noops_removed",
    "frames_of_dropped_demos",
    "frames_cut",
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE_OR_FOLDER", help="demonstration files, or folders of them"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the new files")
    parser.add_argument("--resolution", type=int, default=256, help="pixels on each side of a picture")
    parser.add_argument("--workers", type=int, default=1, help="simulator processes, 1.5 GB and a core each")
    parser.add_argument(
        "--render",
        choices=tuple(RENDER_SETTINGS),
        default="standard",
        help="how pictures are drawn; fast: cheaper, they look otherwise",
    )
    parser.add_argument("--stop_at_success", action="store_true", help="end each demo where the task is first solved")
    parser.add_argument(
        "--wait",
        type=int,
        default=0,
        metavar="N",
        help="steps after the last action in which the task may still be solved",
    )
    return parser.parse_args(argv)


def make_jobs(args: argparse.Namespace) -> list[FileJob]:
    """One FileJob per demonstration file; BadInput for anything that cannot be regenerated as asked."""
    for name in ("resolution", "workers"):
        if getattr(args, name) < 1:
            raise BadInput(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.wait < 0:
        raise BadInput(f"--wait must be at least 0, not {args.wait}")
    check_new_folder(args.out)
    sources = {}  # name -> path
    for path in source_files(args.files, args.out):
        if path.name in sources:
            raise BadInput(f"{sources[path.name]} and {path} have the same name: use two --out folders")
        sources[path.name] = path
    jobs = []
    for path in sources.values():
        source = DemoFile(path)
        task = recorded_task(source)
        jobs.append(FileJob(source, task, args.out, args.resolution, args.render, args.stop_at_success, args.wait))
    return jobs


def source_files(entries: Iterable[Path | str], out: Path) -> list[Path]:
    """Files and folders (with everything below them but what stands in `out`) -> demonstration files.

    BadInput where nothing is found.
    """
    paths, out = {}, out.resolve()
    for entry in entries:
        found = [path for path in demo_files(entry) if out not in path.resolve().parents]
        if not found:
            raise BadInput(f"{entry}: what is to be read stands in --out {out}; choose another folder")
        paths.update((path.resolve(), path) for path in found)
    return list(paths.values())


def file_summary(job: FileJob) -> dict[str, Any]:
    """One file's entry of summary.json: frames_in = frames_kept + noops_removed + frames_of_dropped_demos + frames_cut
    (those after the success, with --stop_at_success)."""
    records = job.records()
    kept = [record for record in records.values() if not record["reason"]]
    counts = {
        "demos_in": len(records),
        "demos_kept": len(kept),
        "frames_in": sum(record["frames"] for record in records.values()),
        "frames_kept": sum(record["kept"] for record in kept),
        "noops_removed": sum(record["noops"] for record in kept),
    }
    counts["frames_of_dropped_demos"] = counts["frames_in"] - sum(record["frames"] for record in kept)
    counts["frames_cut"] = counts["frames_in"] - sum(counts[name] for name in COUNTS[3:6])
    return {
        "file": job.path.name,
        "source": str(job.source.path),
        "source_sha256": job.settings.source_sha256,
        "task_suite": job.task.suite,
        "task_id": job.task.task_id,
        **counts,
        "dropped": {demo: record["reason"] for demo, record in records.items() if record["reason"]},
    }


def summary(jobs: Sequence[FileJob], args: argparse.Namespace, replayed: int, seconds: float) -> dict[str, Any]:
    """What summary.json holds; replayed: demos that this run replayed, in `seconds`."""
    files = [file_summary(job) for job in jobs]
    return {
        "files": files,
        "total": {name: sum(file[name] for file in files) for name in COUNTS},
        "settings": {
            "resolution": args.resolution,
            "render": args.render,
            "stop_at_success": args.stop_at_success,
            "wait": args.wait,
            "num_settle_steps": SETTLE_STEPS,
            "noop_norm": NOOP_NORM,
        },
        "packages": simulator_versions(),
        "workers": args.workers,
        "replayed_demos": replayed,
        "seconds": round(seconds, 1),
    }


def table(found: Mapping[str, Any]) -> list[str]:
    """The counts of a summary as lines of text, and which demos were dropped."""
    head = ("file", "demos", "frames", "no-ops removed")
    rows = [
        (
            name,
            f"{row['demos_kept']} of {row['demos_in']}",
            f"{row['frames_kept']} of {row['frames_in']}",
            str(row["noops_removed"]),
        )
        for name, row in [*((file["file"], file) for file in found["files"]), ("total", found["total"])]
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        f"{row[0]:{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in (head, *rows)
    ]
    for file in found["files"]:
        lines += [f"dropped: {file['file']} {demo}: {reason}" for demo, reason in file["dropped"].items()]
    return lines


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    jobs = make_jobs(args)
    started, before = time.monotonic(), sum(job.num_done for job in jobs)
    run_with_bar(jobs, args.workers)
    replayed = sum(job.num_done for job in jobs) - before
    found = summary(jobs, args, replayed, time.monotonic() - started)
    path = args.out / "summary.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print("\n".join(table(found)))
    print(path)
    empty = [job for job in jobs if not job.complete]
    for job in empty:
        print(f"error: no demo of {job.source.path} succeeds when it is replayed: no file written", file=sys.stderr)
    if empty:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
