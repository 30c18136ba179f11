"""Evaluate a policy on cube stacking (robosuite's Stack): success rate, results.jsonl, a video per episode.

    python tools/eval_stack.py --model_path checkpoints/RUN --episodes 20
    python tools/eval_stack.py --model_path checkpoints/RUN --num_envs 8 --log_dir eval_logs/RUN
    python tools/eval_stack.py --model_path ws://localhost:8000

An episode is a fresh reset of its own seed, from which no collected demonstration starts, and succeeds once the red
cube rests on the green one and is let go. Everything else is as in tools/eval_libero.py: finished episodes are kept,
the same command with --skip_evaluated continues, tools/summarize_eval.py puts LOGS together; exit codes 0 (all episodes
were run), 1 (the simulator or the policy server failed for good), 2 (bad input), 130 (interrupted).
"""

from collections.abc import Sequence

from libs.cli import cli_errors
from tools.evaluation import evaluate_in


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    evaluate_in("stack", __doc__, argv)


if __name__ == "__main__":
    main()
