"""What late answers cost in LIBERO: success with a simulated delay between question and answer, in control steps.

    python tools/eval_delay.py --model_path checkpoints/RUN --task_suite libero_object --task_ids 5 --episodes 100 \\
        --delays 1 2 4 8 --executions naive splice --log_dir LOGS

Without delay the simulator waits for every answer (sync). With a delay its time goes on for so many steps, in which
the chunk before is executed on, or the arm holds; naive begins the new chunk with its first action, splice with the one
that is due, prefix has the policy begin it with what is executed meanwhile (rv_eval/splice.py). Every cell is an
evaluation of its own, in LOGS/sync_0, LOGS/splice_2 ..., with all that tools/eval_libero.py writes, and continued in
the same way. The table is printed at the end, and put into LOGS/delays.json. Of shards each has its own part in both,
and a delays_NNN_of_NNN.json; where they have ended the same command with --skip_evaluated, without them, has all.
Exit code: as tools/eval_libero.py.
"""

import argparse
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libs.cli import cli_errors
from libs.errors import BadInput
from libs.files import check_new_folder, write_whole
from rv_eval.envs import get_simulator
from rv_eval.envs.base import Simulator
from rv_eval.splice import EXECUTIONS, NAIVE, SPLICE, SYNC, check_execution
from tools.evaluation import ask_in_wordings, load_policy, parse_args, run_evaluation, run_name

if TYPE_CHECKING:
    from rv_eval.agent import Answering


def parse_cells(simulator: Simulator, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of an evaluation, and which cells of the table are wanted."""
    args = parse_args(simulator, __doc__, argv, more=_add_cells)
    if min(args.delays) < 0:
        raise BadInput(f"--delays: control steps, at least 0, got {min(args.delays)}")
    return args


def _add_cells(parser):
    add = parser.add_argument_group("cells of the table").add_argument
    add("--delays", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="control steps until an answer is there")
    add(
        "--executions",
        nargs="+",
        choices=EXECUTIONS,
        default=[SYNC, NAIVE, SPLICE],
        help="what is done meanwhile, see above",
    )


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    simulator = get_simulator("libero")
    args = parse_cells(simulator, argv)
    if args.log_dir:
        check_new_folder(args.log_dir)
    simulator.choose_tasks(args)  # refuses what does not exist, before a policy is loaded
    print("\n" + table(run_cells(args, simulator, load_policy(args))))


def run_cells(args: argparse.Namespace, simulator: Simulator, policy: "Answering") -> list[dict]:
    """A row for every cell, of this shard's episodes; also written to delays.json."""
    from rv_eval.playing.delay import DelayedAgent
    from rv_eval.results.records import shard_file, wilson_interval

    for execution in args.executions:
        check_execution(execution, policy)
    folder = args.log_dir or Path("eval_logs") / f"{run_name(policy.describe()['model_folder'])}_delay"
    rows = []
    for execution, delay in cells(args.executions, args.delays):
        print(f"\n{execution}, {delay} steps of delay", flush=True)
        args.log_dir = folder / f"{execution}_{delay}"
        agent = functools.partial(DelayedAgent, execution=execution, delay=delay)
        cell = {"execution": execution, "delay_steps": delay}
        records = run_evaluation(args, simulator, ask_in_wordings, policy, agent, cell)
        steps = [record["steps"] for record in records if record["success"]]
        low, high = wilson_interval(len(steps), len(records))
        cell |= {"episodes": len(records), "successes": len(steps), "low": low, "high": high}
        rows.append(cell | {"mean_steps": sum(steps) / len(steps) if steps else None})
    path = shard_file(folder, "delays", args.shard_id, args.num_shards).with_suffix(".json")
    write_whole(path, json.dumps(rows, indent=1) + "\n")
    return rows


def cells(executions: Iterable[str], delays: Iterable[int]) -> list[tuple[str, int]]:
    """(execution, delay), each once: sync waits, so its delay is nothing; without delay all are sync."""
    wanted = [
        (SYNC, 0) if execution == SYNC or delay == 0 else (execution, delay)
        for execution in executions
        for delay in sorted(delays)
    ]
    return list(dict.fromkeys(wanted))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{'execution':<12}{'delay':>6}{'success':>10}{'rate':>8}   95 %            steps of a success"]
    for row in rows:
        rate, count = row["successes"] / max(row["episodes"], 1), f"{row['successes']}/{row['episodes']}"
        steps = "-" if row["mean_steps"] is None else f"{row['mean_steps']:.0f}"
        span = f"{row['low']:.1%} to {row['high']:.1%}"
        lines.append(f"{row['execution']:<12}{row['delay_steps']:>6}{count:>10}{rate:>8.1%}   {span:<16}{steps:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
