"""Evaluate a policy on cube stacking (robosuite's Stack): success rate, results.jsonl, a video per episode.

    python tools/eval_stack.py --model_path RUN --episodes 20
    python tools/eval_stack.py --model_path RUN --num_envs 8 --log_dir LOGS
    python tools/eval_stack.py --model_path ws://localhost:8000

An episode is a fresh reset of its own seed, from which no collected demonstration starts, and succeeds once the red
cube rests on the green one and is let go. Everything else is as in tools/eval_libero.py: finished episodes are kept,
the same command with --skip_evaluated continues, tools/summarize_eval.py puts LOGS together; exit codes 0 (all episodes
were run), 1 (the simulator or the policy server failed for good), 2 (bad input), 130 (interrupted).
"""

from libs.cli import cli_errors
from tools.evaluation import check_policy_arguments, make_parser, run_evaluation


def parse_args(argv=None):
    args = make_parser(__doc__, "seed of the policy's noise; resets have their own").parse_args(argv)
    check_policy_arguments(args)
    return args


@cli_errors
def main(argv=None):
    args = parse_args(argv)
    from rv_eval.envs import stack

    run_evaluation(args, [stack.StackTask()], stack, stack.StackEpisodeEnv)


if __name__ == "__main__":
    main()
