"""Measure the scripted experts: successes and lengths over random resets of each task.

    python tools/check_experts.py --task_suite libero_object --task_ids all --resets 20 --out TABLE.json

The resets draw the placement of the objects from the task's own distribution; the benchmark's evaluation init
states are not used. No pictures are rendered.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libs.cli import cli_errors
from libs.errors import BadInput
from libs.files import check_new_file
from libs.libero_sim import LiberoEnv, simulator_versions, tell_gl
from libs.libero_sim.experts import expert_actions, expert_tasks


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--task_suite", required=True, help="for example libero_object")
    parser.add_argument("--task_ids", default="all", help="comma-separated, or all")
    parser.add_argument("--resets", type=int, default=20, help="episodes of each task")
    parser.add_argument("--seed", type=int, default=0, help="of the first reset; the others count on from it")
    parser.add_argument("--out", type=Path, help="JSON file to write the table to")
    return parser.parse_args(argv)


def run_episode(env, seed):
    """One episode from a random reset: (success, number of actions)."""
    env.reset(seed)
    env.settle(views=())
    steps = 0
    for action in expert_actions(env, np.random.default_rng(seed)):
        _, success = env.step(action)
        steps += 1
        if success or steps == env.task.max_steps:
            return success, steps
    return False, steps


def check_task(task, seeds, progress):
    """One row of the table; `progress()` is called after every episode."""
    env = LiberoEnv(task, resolution=64)
    try:
        results = []
        for seed in seeds:
            results.append(run_episode(env, seed))
            progress()
    finally:
        env.close()
    lengths = [steps for success, steps in results if success]
    return {
        "task_id": task.task_id,
        "name": task.name,
        "resets": len(results),
        "successes": len(lengths),
        "failed_seeds": [seed for seed, (success, _) in zip(seeds, results, strict=True) if not success],
        "mean_steps": round(float(np.mean(lengths)), 1) if lengths else None,
        "min_steps": min(lengths, default=None),
        "max_steps": max(lengths, default=None),
    }


def table(rows):
    """The rows as Markdown."""
    lines = ["| task | success/resets | mean steps |", "|---|---|---|"]
    for row in rows:
        rate = f"{row['successes']}/{row['resets']}"
        lines.append(f"| {row['task_id']} {row['name']} | {rate} | {row['mean_steps'] or '-'} |")
    return "\n".join(lines)


@cli_errors
def main(argv=None):
    args = parse_args(argv)
    if args.resets < 1 or args.seed < 0:
        raise BadInput(f"--resets {args.resets} and --seed {args.seed}: at least 1 and 0 are needed")
    if args.out:
        check_new_file(args.out)
    tasks = expert_tasks(args.task_suite, args.task_ids)
    tell_gl()
    seeds = range(args.seed, args.seed + args.resets)
    with tqdm(total=len(tasks) * len(seeds), unit="episode", dynamic_ncols=True) as bar:
        rows = [check_task(task, seeds, bar.update) for task in tasks]
    print(table(rows))
    if args.out:
        settings = {"task_suite": args.task_suite, "resets": args.resets, "seed": args.seed}
        text = json.dumps({**settings, "packages": simulator_versions(), "tasks": rows}, indent=2)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
