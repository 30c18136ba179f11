"""Measure whether a policy reads: every start of a LIBERO suite under each of the suite's instructions.

    python tools/eval_reading.py --model_path checkpoints/RUN --task_suite libero_goal --episodes 5 --log_dir LOGS
    python tools/eval_reading.py --model_path checkpoints/RUN --task_suite libero_spatial --start_ids 0 1
    python tools/summarize_eval.py LOGS --json benchmarks/reading.json

An episode begins at an init state of one task, is asked for another task's goal and ends when that one is reached, or
at the step limit. --episodes is per start and instruction: 5 are 500 episodes in libero_goal, ten instructions in one
scene. In libero_spatial, where two bowls stand, each start can be asked for either bowl that an instruction names.
docs/reading.md says what is counted and how to read the tables. Everything else, exit codes too, is as in
tools/eval_libero.py.
"""

from collections.abc import Sequence

from libs.cli import cli_errors
from rv_eval.envs.libero_reading import ReadingSimulator
from rv_eval.playing.requests import ask_all
from rv_eval.results.records import ALL_OF_SUITE
from tools.evaluation import check_policy_arguments, make_parser, run_evaluation


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    simulator = ReadingSimulator()
    args = make_parser(simulator, __doc__).parse_args(argv)
    check_policy_arguments(args)
    run_evaluation(args, simulator, lambda _, episodes: (ask_all(episodes, simulator.requests), ALL_OF_SUITE))


if __name__ == "__main__":
    main()
