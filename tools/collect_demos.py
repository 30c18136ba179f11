"""Collect demonstrations of LIBERO tasks with scripted experts, from random resets of the simulator.

    python tools/collect_demos.py --task_suite libero_object --task_ids 0 3 --num_demos 20 --out data/object

Writes OUT/<task name>_demo.hdf5 in LIBERO's layout. The same command continues after an interruption; the
result depends neither on interruptions nor on the number of workers.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from libs.cli import Numbers, Parser, cli_errors
from libs.demo_hdf5 import DemoFile
from libs.errors import BadInput
from libs.files import check_new_folder
from libs.libero_sim.collection import Settings, TaskJob
from libs.libero_sim.experts import expert_tasks
from libs.robosuite_sim import RENDER_SETTINGS
from libs.robosuite_sim.pool import run_with_bar

COUNTS = {"num_demos": (1, math.inf), "workers": (1, math.inf), "resolution": (1, math.inf), "seed": (0, math.inf)}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--task_suite", required=True, metavar="NAME", help="such as libero_object")
    parser.add_argument("--task_ids", action=Numbers, required=True, help="tasks by number, or all")
    parser.add_argument("--num_demos", required=True, type=int, metavar="N", help="demonstrations of each task")
    parser.add_argument("--out", required=True, type=Path, help="folder of the demo files")
    parser.add_argument("--resolution", type=int, default=256, help="pixels on each side of a picture")
    parser.add_argument("--workers", type=int, default=1, help="simulator processes, 1.5 GB and a core each")
    parser.add_argument(
        "--render",
        choices=tuple(RENDER_SETTINGS),
        default="standard",
        help="fast: 6 to 11 times cheaper on a CPU, pictures look otherwise; policies are evaluated with the same",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other demos")
    parser.add_argument(
        "--start_noise",
        type=float,
        default=0.0,
        metavar="METRES",
        help="start with the gripper up to this far (along each axis) from its usual start",
    )
    parser.add_argument(
        "--start_near",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="this fraction of the demos starts with the gripper right above the object to be grasped",
    )
    parser.add_argument(
        "--start_late",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="this fraction starts in the middle of a run that was pushed off its way",
    )
    add_takeover_options(parser.add_argument)
    return parser.parse_args(argv)


def add_takeover_options(add: Callable[..., Any]) -> None:
    """The two options of demonstrations that a policy begins."""
    add(
        "--takeover",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="this fraction starts where the policy of --model_path got to after a random while: so it learns to mend "
        "its own mistakes (DAgger)",
    )
    add("--model_path", help="run folder, step folder or model folder of that policy, or its name on the hub")


def check_takeover(args: argparse.Namespace) -> bool:
    """Whether a policy begins some attempts; BadInput where it cannot be so."""
    check_ranges(args, takeover=(0, 1))
    if bool(args.takeover) != bool(args.model_path):
        raise BadInput("--takeover says how many demos the policy of --model_path begins: give both, or none")
    return bool(args.takeover)


def check_ranges(args: argparse.Namespace, **ranges: tuple[float, float]) -> None:
    """BadInput for an argument outside (lowest, highest)."""
    for name, (low, high) in ranges.items():
        if not low <= getattr(args, name) <= high:
            raise BadInput(f"--{name} must be between {low} and {high}, not {getattr(args, name)}")


def make_jobs(args: argparse.Namespace) -> list[TaskJob]:
    """One TaskJob per task; BadInput for anything that cannot be collected as asked."""
    check_ranges(args, **COUNTS, start_noise=(0, 0.3), start_near=(0, 1), start_late=(0, 1))
    takeover = check_takeover(args)
    check_new_folder(args.out)
    tasks = expert_tasks(args.task_suite, args.task_ids)
    settings = [
        Settings(
            task_suite=args.task_suite,
            task_id=task.task_id,
            resolution=args.resolution,
            render=args.render,
            seed=args.seed,
            start_noise=args.start_noise,
            start_near=args.start_near,
            start_late=args.start_late,
        )
        for task in tasks
    ]
    job_of: type[TaskJob] = TaskJob
    if takeover:
        from rv_eval.envs.libero_takeover import TakeoverJob, with_policy  # it loads a model

        job_of, settings = TakeoverJob, with_policy(settings, args.takeover, args.model_path)
    return [job_of(task, one, args.num_demos, args.out) for task, one in zip(tasks, settings, strict=True)]


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    jobs = make_jobs(args)
    run_with_bar(jobs, args.workers)
    for job in jobs:
        demos = DemoFile(job.path)
        frames = sum(demos.num_frames(demo) for demo in demos.demos)
        print(f"{job.path}  {len(demos.demos)} demos, {frames} frames")


if __name__ == "__main__":
    main()
