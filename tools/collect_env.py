"""Collect demonstrations in environments that live elsewhere, by their own experts: see docs/remote_environments.md.

    python tools/collect_env.py --env_command "THERE/bin/python serve_metaworld.py" --num_demos 50 --render fast \\
        --task_ids 0 3 --pushed 0.5 --push_by position=0.6 --out data/metaworld

Writes OUT/TASK/episode_000000.hdf5 ... and OUT/TASK/key_map.json, which reads them (DATA.KEY_MAP; those of all tasks
are the same). The same command continues after an interruption; the result depends neither on interruptions nor on the
number of workers, and no demonstration begins where an evaluation does.
"""

import argparse
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from libs.cli import Numbers, Parser, cli_errors
from libs.errors import BadInput
from libs.files import check_new_folder
from libs.jobs import run_jobs
from rv_eval.envs.remote import RemoteSimulator
from rv_eval.envs.remote_messages import RemoteTask
from rv_eval.playing.demonstrations import DemoSettings, TaskRecorder
from tools.collect_demos import COUNTS, add_takeover_options, check_ranges, check_takeover


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--env_command", required=True, metavar="CMD", help="command that starts an environment; --child is added to it"
    )
    add("--num_demos", required=True, type=int, metavar="N", help="demonstrations of each task")
    add("--out", required=True, type=Path, help="a folder for each task is made in it")
    add("--task_suite", nargs="+", metavar="NAME", help="suites by name (default: all)")
    add("--task_ids", action=Numbers, help="tasks of each suite by number, or all (default)")
    add("--task_names", nargs="+", metavar="NAME", help="tasks by name")
    add("--resolution", type=int, default=128, help="pixels on each side of a picture")
    add("--render", required=True, metavar="NAME", help="how pictures are drawn, a name of the environment's")
    add("--seed", type=int, default=0, help="another seed gives other demos")
    add(
        "--pushed",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="this fraction is pushed off its way in bursts ...",
    )
    add("--push_by", nargs="+", default=[], metavar="PART=MOST", help="... these parts of an action, so far at most")
    add_takeover_options(add)
    add("--workers", type=int, default=1, help="environments at a time, each with another task")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds until an environment counts as hanging")
    return parser.parse_args(argv)


def check_names(tasks: Iterable[RemoteTask]) -> None:
    """BadInput: two tasks would be written into one folder."""
    suites: dict[str, str] = {}
    for task in tasks:
        if other := suites.get(task.name):
            both = task.suite if other == task.suite else f"{other} and {task.suite}"
            raise BadInput(f"two tasks of {both} are called {task.name}, as their folder in --out: choose one of them")
        suites[task.name] = task.suite


def read_pushes(words: Iterable[str], parts: Collection[str]) -> dict[str, float]:
    """{part: how far}. BadInput: no such part, or no number above 0."""
    pushes = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            pushes[name] = float(number)
        except ValueError:
            pushes[name] = math.nan
        if name not in parts or not 0 < pushes[name] < math.inf:
            raise BadInput(f"--push_by {word}: PART=MOST, a number above 0, of {', '.join(parts)}")
    return pushes


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    check_ranges(args, **COUNTS, pushed=(0, 1), timeout=(1e-3, math.inf))
    takeover = check_takeover(args)
    check_new_folder(args.out)
    with RemoteSimulator(command=args.env_command) as simulator:
        if not simulator.has_expert:
            raise BadInput("--env_command: this environment has no expert: nobody there knows how")
        about, tasks, versions = simulator.description, simulator.choose_tasks(args), simulator.versions()
    check_names(tasks)
    push = read_pushes(args.push_by, [part.name for part in about.actions])
    if bool(args.pushed) != bool(push):
        raise BadInput(
            "--pushed says which share of the demonstrations is pushed, --push_by which parts of an action, and how "
            "far: give both, or neither"
        )
    settings = DemoSettings(about.name, args.resolution, args.render, args.seed, args.pushed, push, versions)
    record_of: type[TaskRecorder] = TaskRecorder
    if takeover:
        from rv_eval.envs.remote_takeover import TakeoverRecorder, with_policy  # it loads a model

        record_of, settings = TakeoverRecorder, with_policy(settings, about, args.takeover, args.model_path)
    record = record_of(args.env_command, args.out, settings, args.num_demos, args.timeout)
    try:
        run_jobs(
            record, tasks, args.workers, lambda task: print(f"{args.out / task.name}: {args.num_demos} demos"), args.out
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues") from None


if __name__ == "__main__":
    main()
