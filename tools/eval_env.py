"""Evaluate a policy in any simulator: success table, results.jsonl, a video per episode.

    python tools/eval_env.py --env stack --model_path RUN --episodes 20
    python tools/eval_env.py --env libero --help

Each simulator has options of its own for its tasks. Everything else is as in tools/eval_libero.py: finished episodes
are kept, the same command with --skip_evaluated continues, tools/summarize_eval.py puts LOGS together; exit codes 0
(all episodes were run), 1 (the simulator or the policy server failed for good), 2 (bad input), 130 (interrupted).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from libs.cli import cli_errors
from rv_eval.envs import SIMULATORS
from tools.evaluation import evaluate_in


def parse_env(argv: Sequence[str]) -> tuple[str, list[str]]:
    """--env, which decides what the other arguments are, and the others."""
    named = any(word.partition("=")[0] == "--env" for word in argv)
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=not named,  # of a simulator that is named, its own parser says
    )
    parser.add_argument("--env", required=True, help=f"{', '.join(SIMULATORS)}; with --help: all other arguments")
    args, others = parser.parse_known_args(argv)
    return args.env, others


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    env, others = parse_env(sys.argv[1:] if argv is None else argv)
    evaluate_in(env, __doc__, others, prog=f"{Path(__file__).name} --env {env}")


if __name__ == "__main__":
    main()
