"""Collect demonstrations of cube stacking (robosuite's Stack) with a scripted expert, from random resets.

    python tools/collect_stack.py --num_demos 150 --start_late 0.3 --render fast --out data/stack

Writes OUT/stack_the_red_cube_on_the_green_cube_demo.hdf5 in the layout of Isaac Lab's and NVIDIA Cosmos' cube
stacking: train on it with DATA.KEY_MAP isaac_cosmos. The same command continues after an interruption; the result
depends neither on interruptions nor on the number of workers.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from libs.cli import Parser, cli_errors
from libs.files import check_new_folder
from libs.robosuite_sim import RENDER_SETTINGS
from libs.robosuite_sim.pool import run_with_bar
from libs.stack_sim import StackTask
from libs.stack_sim.collection import StackJob, StackSettings
from tools.collect_demos import COUNTS, add_takeover_options, check_ranges, check_takeover


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--num_demos", required=True, type=int, metavar="N", help="demonstrations")
    add("--out", required=True, type=Path, help="folder of the demo file")
    add("--resolution", type=int, default=200, help="pixels on each side of a picture")
    add("--workers", type=int, default=1, help="simulator processes, a core each")
    add(
        "--render",
        choices=tuple(RENDER_SETTINGS),
        default="standard",
        help="fast: 9 times cheaper on a CPU, pictures look otherwise; policies are evaluated with the same",
    )
    add("--seed", type=int, default=0, help="another seed gives other demos")
    add(
        "--start_late",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="this fraction starts in the middle of a run that was pushed off its way",
    )
    add_takeover_options(add)
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    check_ranges(args, **COUNTS, start_late=(0, 1))
    takeover = check_takeover(args)
    check_new_folder(args.out)
    settings = StackSettings(args.resolution, args.render, args.seed, args.start_late)
    job_of: type[StackJob] = StackJob
    if takeover:
        from rv_eval.envs.stack_takeover import TakeoverJob, with_policy  # it loads a model

        job_of, settings = TakeoverJob, with_policy(settings, args.takeover, args.model_path)
    job = job_of(StackTask(), settings, args.num_demos, args.out)
    run_with_bar([job], args.workers)
    demos = job.open_file()
    frames = sum(demos.num_frames(demo) for demo in demos.demos)
    print(f"{job.path}  {len(demos.demos)} demos, {frames} frames")


if __name__ == "__main__":
    main()
