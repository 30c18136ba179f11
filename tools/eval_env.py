"""Evaluate a policy in any simulator: success table, results.jsonl, a video per episode.

    python tools/eval_env.py --env stack --model_path checkpoints/RUN --episodes 20
    python tools/eval_env.py --env libero --model_path checkpoints/RUN --task_suite libero_object --task_ids 0 3
    python tools/eval_env.py --env_command "THERE/bin/python serve_metaworld.py" --model_path RUN --num_envs 2
    python tools/eval_env.py --env ws://HOST:8020 ws://HOST:8021 --model_path checkpoints/RUN

Environments may live elsewhere, see docs/remote_environments.md: programs that --env_command starts, --num_envs of them
at a time, or that stand at addresses already, one environment each.

Each simulator has options of its own for its tasks. Everything else is as in tools/eval_libero.py: finished episodes
are kept, the same command with --skip_evaluated continues, tools/summarize_eval.py puts LOGS together; exit codes 0
(all episodes were run), 1 (the simulator or the policy server failed for good), 2 (bad input), 130 (interrupted).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from libs.cli import Parser, cli_errors
from libs.errors import BadInput
from rv_eval.envs import SIMULATORS
from tools.evaluation import SERVED, evaluate_in, parse_args, run_evaluation

if TYPE_CHECKING:
    from rv_eval.envs.remote import RemoteSimulator

ELSEWHERE = ("--env", "--env_command")


def add_env_arguments(parser: argparse.ArgumentParser) -> None:
    """--env and --env_command, see `open_remote`."""
    where = parser.add_mutually_exclusive_group(required=True)
    names = f"{', '.join(SIMULATORS)}; or addresses ws://host:port; with --help: all other arguments"
    where.add_argument("--env", nargs="+", help=names)
    where.add_argument(
        "--env_command", metavar="CMD", help="command that starts an environment; --child is added to it"
    )


def parse_env(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What decides what the other arguments are, and the others."""
    named = any(word.partition("=")[0] in ELSEWHERE for word in argv)
    parser = Parser(__doc__, add_help=not named)  # of a simulator that is named, its own parser says
    add_env_arguments(parser)
    return parser.parse_known_args(argv)


def open_remote(args: argparse.Namespace) -> "RemoteSimulator | None":
    """The RemoteSimulator of --env or --env_command; None where --env names one of ours. BadInput: it is neither."""
    served = [name.startswith(SERVED) for name in args.env or ()]
    if args.env_command is None and not any(served):
        if len(args.env) > 1:
            raise BadInput(f"--env takes one of {', '.join(SIMULATORS)}, or addresses ws://host:port")
        return None
    if not all(served):
        raise BadInput(f"--env {args.env[served.index(False)]}: addresses are ws://host:port, all of them")
    from rv_eval.envs.remote import RemoteSimulator

    return RemoteSimulator(args.env or (), args.env_command)


def evaluate_elsewhere(simulator: "RemoteSimulator", argv: list[str], prog: str) -> None:
    """A command line: evaluate a policy in environments that live elsewhere."""
    with simulator:
        most = simulator.max_envs
        args = parse_args(simulator, __doc__, argv, prog, lambda parser: parser.set_defaults(num_envs=most or 1))
        if most is not None and args.num_envs > most:
            raise BadInput(f"--num_envs {args.num_envs}: there are {most} addresses, an environment each")
        run_evaluation(args, simulator)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args, others = parse_env(sys.argv[1:] if argv is None else argv)
    prog = (
        f"{Path(__file__).name} --env {' '.join(args.env)}" if args.env else f"{Path(__file__).name} --env_command CMD"
    )
    simulator = open_remote(args)
    if simulator is None:
        evaluate_in(args.env[0], __doc__, others, prog)
    else:
        evaluate_elsewhere(simulator, others, prog)


if __name__ == "__main__":
    main()
