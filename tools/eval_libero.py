"""Evaluate a policy in the LIBERO simulator: success table, results.jsonl, a video per episode.

    python tools/eval_libero.py --model_path RUN --task_suite libero_object --task_id 5 --episodes 10
    python tools/eval_libero.py --model_path RUN --task_suite all --num_envs 8 --log_dir LOGS
    python tools/eval_libero.py --model_path RUN --task_suite all --shard_id 3 --num_shards 8 --log_dir LOGS
    python tools/eval_libero.py --model_path ws://localhost:8000 --task_suite libero_goal_swap

Finished episodes are kept whatever happens: the same command with --skip_evaluated continues. Shards may run anywhere,
one after the other or at once; tools/summarize_eval.py puts LOGS together.
Exit code: 0 all episodes were run, whatever their outcome; 1 the simulator or the policy server failed for good; 2 bad
input; 130 interrupted.
"""

from libs.cli import cli_errors
from libs.errors import BadInput
from tools.evaluation import agent_settings, check_policy_arguments, make_parser, run_evaluation, run_name

__all__ = ["agent_settings", "main", "parse_args", "run_name", "select_tasks"]


def parse_args(argv=None):
    parser = make_parser(__doc__, "seed of the fixtures, set before every reset, and of sampling", _add_tasks)
    args = parser.parse_args(argv)
    if args.task_id is not None and args.task_name is not None:
        raise BadInput("--task_id and --task_name: give one of them")
    check_policy_arguments(args)
    return args


def _add_tasks(add):
    add("--task_suite", nargs="+", required=True, help="suites of the installed package; all: the four of the papers")
    add("--task_id", type=int, nargs="+", help="tasks of each suite (default: all)")
    add("--task_name", nargs="+", help="tasks by name, as in demo file names")


@cli_errors
def main(argv=None):
    args = parse_args(argv)
    from rv_eval.envs import libero

    tasks = select_tasks(args.task_suite, args.task_id, args.task_name)
    run_evaluation(args, tasks, libero, libero.LiberoEpisodeEnv)


def select_tasks(suites, task_ids=None, task_names=None):
    """The tasks of every suite in order, each once. BadInput for a suite, an id or a name that does not exist."""
    from libs.libero_sim import REPORTED_SUITES, get_task, num_tasks

    names = dict.fromkeys(name for suite in suites for name in (REPORTED_SUITES if suite == "all" else (suite,)))
    tasks = [
        get_task(suite, task_id)
        for suite in names
        for task_id in (range(num_tasks(suite)) if task_ids is None else sorted(set(task_ids)))
    ]
    if task_names is None:
        return tasks
    unknown = [name for name in task_names if name not in {task.name for task in tasks}]
    if unknown:
        known = ", ".join(task.name for task in tasks)
        raise BadInput(f"unknown task {unknown[0]!r} of {', '.join(names)}: there are {known}")
    return [task for task in tasks if task.name in task_names]


if __name__ == "__main__":
    main()
