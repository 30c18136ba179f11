"""Evaluate a policy in the LIBERO simulator: success table, results.jsonl, a video per episode.

    python tools/eval_libero.py --model_path checkpoints/RUN --task_suite libero_object --task_ids 0 3 --episodes 10
    python tools/eval_libero.py --model_path checkpoints/RUN --task_suite all --num_envs 8 --log_dir eval_logs/RUN
    python tools/eval_libero.py --model_path checkpoints/RUN --task_suite all --shard_id 3 --num_shards 8 \\
        --log_dir eval_logs/RUN --skip_evaluated
    python tools/eval_libero.py --model_path ws://localhost:8000 --task_suite libero_goal_swap

Finished episodes are kept whatever happens: the same command with --skip_evaluated continues. Shards may run anywhere,
one after the other or at once; tools/summarize_eval.py puts the --log_dir together.
Exit code: 0 all episodes were run, whatever their outcome; 1 the simulator or the policy server failed for good; 2 bad
input; 130 interrupted.
"""

from collections.abc import Sequence

from libs.cli import cli_errors
from tools.evaluation import evaluate_in


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    evaluate_in("libero", __doc__, argv)


if __name__ == "__main__":
    main()
