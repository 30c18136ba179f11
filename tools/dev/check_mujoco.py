"""Compare versions of mujoco: which start LIBERO, draw the same pictures and move the same way as the installed one.

    python tools/dev/check_mujoco.py --versions 3.0.1 3.3.2 --folder /tmp/mujoco --task_ids 0 5

Each version is installed into a folder of its own below --folder (once) and used by a process that finds it there
before the installed one. In the tasks --task_ids of all four suites it draws the first evaluation state, makes
--steps steps of actions that are the same for all, and draws again. --out writes the table as JSON.

    PYTHONPATH=/tmp/mujoco/3.3.2:$PWD python tools/eval_libero.py ...

plays with a version afterwards.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libs.cli import Parser, cli_errors
from libs.files import check_new_file, make_folder, write_whole
from libs.libero_sim import REPORTED_SUITES, VIEWS, LiberoEnv, get_task, init_states
from libs.robosuite_sim import simulator_versions

RESOLUTION, SEED = 128, 7
VISIBLE = 8  # levels of 255 by which a number of a picture must differ to be counted
COLUMNS = {
    "version": 9,
    "tasks": 7,
    "start: mean": 13,
    "share": 9,
    "end: mean": 11,
    "share ": 9,
    "state moved apart": 19,
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--versions", nargs="+", default=[], help="of mujoco, beside the installed one")
    parser.add_argument("--folder", type=Path, default=Path("mujoco_versions"), help="where they are installed")
    parser.add_argument("--task_ids", nargs="+", type=int, default=[0, 5], metavar="N", help="tasks of each suite")
    parser.add_argument("--steps", type=int, default=20, help="control steps between the two pictures")
    parser.add_argument("--out", type=Path, help="JSON file of the table")
    parser.add_argument("--look", type=Path, metavar="OUT.npz", help="no table: what this process sees goes there")
    return parser.parse_args(argv)


def look(task_ids: Sequence[int], steps: int) -> dict[str, np.ndarray]:
    """What the mujoco of this process makes of the tasks.

    Returns:
        {"suite/id/start" and "/end": pictures of all cameras (cameras, R, R, 3) uint8, "/state": (1 + nq + nv,)}
    """
    seen = {}
    for suite in REPORTED_SUITES:
        for task_id in task_ids:
            task = get_task(suite, task_id)
            env = LiberoEnv(task, RESOLUTION)
            env.reset(SEED, init_states(task)[0])
            seen[f"{suite}/{task_id}/start"] = _pictures(env)
            actions = np.random.default_rng(SEED).uniform(-0.3, 0.3, (steps, 7))
            for action in actions:
                env.step(action)
            seen[f"{suite}/{task_id}/end"] = _pictures(env)
            seen[f"{suite}/{task_id}/state"] = env.sim_state()
            env.close()
    return seen


def _pictures(env):
    drawn = env.render()
    return np.stack([drawn[view] for view in VIEWS])


def compare(seen: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What `look` saw, beside what it saw with the installed version.

    Returns:
        {"tasks": number, "start" and "end": {"mean": levels of 255, "share": of the numbers that differ by more than
        VISIBLE}, "state": the largest difference of a number of the state, metres or radians and per second}
    """
    row: dict[str, Any] = {"tasks": sum(name.endswith("/state") for name in seen)}
    for moment in ("start", "end"):
        apart = np.concatenate(
            [np.abs(seen[n].astype(int) - base[n]).ravel() for n in seen if n.endswith(f"/{moment}")]
        )
        row[moment] = {"mean": float(apart.mean()), "share": float((apart > VISIBLE).mean())}
    row["state"] = max(float(np.abs(seen[n] - base[n]).max()) for n in seen if n.endswith("/state"))
    return row


def install(version: str, folder: Path) -> Path:
    """The folder that holds this version of mujoco, and nothing else; RuntimeError if it cannot be had."""
    target = folder / version
    if not (target / "mujoco").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        done = subprocess.run([*pip, f"mujoco=={version}"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mujoco {version}: {done.stderr.strip().splitlines()[-1]}")
    return target


def try_version(version: str, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """What `look` sees in a process with this version; RuntimeError with its last line if it ends badly."""
    target, out = install(version, args.folder), args.folder / f"{version}.npz"
    path = os.pathsep.join([str(target.resolve()), os.getcwd(), os.environ.get("PYTHONPATH", "")])
    options = ["--task_ids", *map(str, args.task_ids), "--steps", str(args.steps), "--look", str(out)]
    command = [sys.executable, "-m", "tools.dev.check_mujoco", *options]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    with np.load(out) as stored:
        return dict(stored)


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows by version, as `compare` gives them, or {"failed": line}."""
    lines = ["".join(f"{name:>{width}}" for name, width in COLUMNS.items())]
    for version, row in rows.items():
        if "failed" in row:
            lines.append(f"{version:>{COLUMNS['version']}}  {row['failed']}")
            continue
        pictures = [f"{row[moment]['mean']:.3f} {row[moment]['share']:.2%}".split() for moment in ("start", "end")]
        cells = [version, row["tasks"], *pictures[0], *pictures[1], f"{row['state']:.1e}"]
        lines.append("".join(f"{cell:>{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True)))
    return "\n".join(lines)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.look:
        np.savez(args.look, **look(args.task_ids, args.steps))
        return
    if args.out:
        check_new_file(args.out)
    make_folder(args.folder)
    installed = simulator_versions()["mujoco"]
    base = look(args.task_ids, args.steps)
    rows: dict[str, dict[str, Any]] = {installed: compare(look(args.task_ids, args.steps), base)}
    for version in args.versions:
        try:
            rows[version] = compare(try_version(version, args), base)
        except RuntimeError as error:
            rows[version] = {"failed": str(error)}
        print(table({version: rows[version]}).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if args.out:
        found = {"compared_with": installed, "resolution": RESOLUTION, "steps": args.steps, "rows": rows}
        write_whole(args.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
