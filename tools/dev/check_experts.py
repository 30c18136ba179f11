"""Measure the scripted experts over random resets of each task: successes, lengths, speeds, penetrations.

    python tools/dev/check_experts.py --task_suite all --resets 20 --workers 2 --out TABLE.json

The resets draw the placement of the objects from the task's own distribution; the benchmark's evaluation init
states are not used. Success is the benchmark's own, within the task's step limit. --out is written after every
episode, and the same command continues where it stands (remove the file when the experts have changed).
"""

import argparse
import json
import queue
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from libs.cli import Numbers, Parser, cli_errors
from libs.errors import BadInput
from libs.files import check_new_file, make_folder, write_whole
from libs.jobs import follow_parent
from libs.libero_sim import REPORTED_SUITES, LiberoEnv
from libs.libero_sim.experts import expert_actions, expert_tasks
from libs.libero_sim.experts.watch import Watch
from libs.robosuite_sim import simulator_versions, tell_gl

if TYPE_CHECKING:
    from libs.libero_sim.suites import LiberoTask


COLUMNS = 8  # pictures in a row of a contact sheet


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--task_suite", required=True, nargs="+", help="names, or all: the four reported suites")
    parser.add_argument("--task_ids", action=Numbers, help="of each suite, or all that have an expert (default)")
    parser.add_argument("--resets", type=int, default=20, help="episodes of each task")
    parser.add_argument("--seed", type=int, default=0, help="of the first reset; the others count on from it")
    parser.add_argument("--workers", type=int, default=1, help="simulator processes, 1.5 GB and a core each")
    parser.add_argument("--out", type=Path, help="JSON file to write the table to, and to continue from")
    parser.add_argument(
        "--frames", type=Path, metavar="DIR", help="folder for a contact sheet of the first episode of each task"
    )
    return parser.parse_args(argv)


def run_episode(env: LiberoEnv, seed: int, num_frames: int = 0) -> tuple[dict[str, Any], list[np.ndarray]]:
    """One episode from a random reset: its record, and pictures (R, R, 3) spread over it.

    num_frames: how many pictures; 0 takes none.
    """
    env.reset(seed)
    env.settle(views=())
    watch, states, success = Watch(env), [], False
    for action in expert_actions(env, np.random.default_rng(seed)):
        if len(states) == env.task.max_steps:
            break
        _, success = env.step(action)
        watch.step()
        states.append(env.sim_state())
        if success:
            break
    record = {"seed": seed, "success": success, "steps": len(states), **watch.record()}
    return record, _pictures(env, states, num_frames)


def _pictures(env, states, count):
    chosen = np.linspace(0, len(states) - 1, count).astype(int) if states else []
    pictures = []
    for i in chosen:
        env.set_sim_state(states[i])
        pictures.append(env.render(("agentview",))["agentview"])
    return pictures


def check_task(
    task: "LiberoTask",
    seeds: Sequence[int],
    frames: Path | None,
    send: Callable[[tuple[str, int, dict[str, Any]]], None],
) -> None:
    """Run the episodes of a task in this process; send((suite, task_id, record)) after each."""
    env = LiberoEnv(task, resolution=192 if frames else 64)
    try:
        for seed in seeds:
            sheet = frames if seed == seeds[0] else None
            record, pictures = run_episode(env, seed, 2 * COLUMNS if sheet else 0)
            if sheet:
                write_sheet(sheet / f"{task.suite}_{task.task_id}.png", pictures)
            send((task.suite, task.task_id, record))
    finally:
        env.close()


def write_sheet(path: Path | str, pictures: Sequence[np.ndarray]) -> None:
    """Put pictures (R, R, 3) into rows of one PNG."""
    import imageio.v3 as imageio

    rows = [np.concatenate(pictures[i : i + COLUMNS], axis=1) for i in range(0, len(pictures), COLUMNS)]
    imageio.imwrite(path, np.concatenate(rows))


def summarize(task: "LiberoTask", episodes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table from a task's episode records."""
    episodes = sorted(episodes, key=lambda episode: episode["seed"])
    lengths = [episode["steps"] for episode in episodes if episode["success"]]
    fastest = max(episodes, key=lambda episode: episode["object_speed"])
    deepest = max(episodes, key=lambda episode: episode["penetration_mm"])
    return {
        "task_suite": task.suite,
        "task_id": task.task_id,
        "name": task.name,
        "resets": len(episodes),
        "successes": len(lengths),
        "failed_seeds": [episode["seed"] for episode in episodes if not episode["success"]],
        "mean_steps": round(float(np.mean(lengths)), 1) if lengths else None,
        "min_steps": min(lengths, default=None),
        "max_steps": max(lengths, default=None),
        "object_speed": fastest["object_speed"],
        "fastest_object": fastest["fastest_object"],
        "penetration_mm": deepest["penetration_mm"],
        "deepest_pair": deepest["deepest_pair"],
        "hand_speed": max(episode["hand_speed"] for episode in episodes),
        "episodes": episodes,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    head = ("task", "success/resets", "mean steps", "object m/s", "hand m/s", "penetration mm")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = (
            f"{row['task_suite']} {row['task_id']} {row['name']}",
            f"{row['successes']}/{row['resets']}",
            row["mean_steps"] or "-",
            f"{row['object_speed']:.2f}",
            f"{row['hand_speed']:.2f}",
            f"{row['penetration_mm']:.1f} {' - '.join(row['deepest_pair'])}",
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


class Results:
    """The episodes of every task, on disk in `path` (None: nowhere) after each."""

    def __init__(self, path: Path | None, tasks: "Iterable[LiberoTask]", seeds: Sequence[int]) -> None:
        self.path, self.tasks, self.seeds = path, {(task.suite, task.task_id): task for task in tasks}, seeds
        self.episodes = {key: {} for key in self.tasks}
        self.others = {}  # rows of the file that this call does not ask for: they stay in it
        if path and path.exists():
            try:
                self._read(json.loads(path.read_text())["tasks"])
            except (ValueError, LookupError, TypeError):
                raise BadInput(f"--out {path} exists and is no table of this command: choose another name") from None

    def _read(self, rows):
        for row in rows:
            key = row["task_suite"], row["task_id"]
            kept = {episode["seed"]: episode for episode in row["episodes"] if episode["seed"] in self.seeds}
            self.episodes.get(key, {}).update(kept)
            if key not in self.tasks:
                self.others[key] = row

    def missing(self, key: tuple[str, int]) -> list[int]:
        return [seed for seed in self.seeds if seed not in self.episodes[key]]

    def add(self, key: tuple[str, int], record: dict[str, Any]) -> None:
        self.episodes[key][record["seed"]] = record
        self.write()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [summarize(task, self.episodes[key].values()) for key, task in self.tasks.items() if self.episodes[key]]

    def write(self) -> None:
        if self.path:
            rows = self.rows + list(self.others.values())
            order = {suite: i for i, suite in enumerate(REPORTED_SUITES)}
            rows.sort(key=lambda row: (order.get(row["task_suite"], len(order)), row["task_suite"], row["task_id"]))
            content = {"seed": self.seeds[0], "packages": simulator_versions(), "tasks": rows}
            make_folder(self.path.parent)
            write_whole(self.path, json.dumps(content, indent=1) + "\n")


def _worker(orders, answers):
    """Runs in a process of its own: does one task after another until None comes."""
    follow_parent()
    for task, seeds, frames in iter(orders.get, None):
        try:
            check_task(task, seeds, frames, answers.put)
        except Exception as error:  # told to the parent, which ends
            answers.put(error)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.resets < 1 or args.seed < 0 or args.workers < 1:
        raise BadInput(f"--resets {args.resets}, --seed {args.seed}, --workers {args.workers}: at least 1, 0, 1")
    if args.out:
        check_new_file(args.out)
    if args.frames:
        make_folder(args.frames)
    suites = REPORTED_SUITES if args.task_suite == ["all"] else args.task_suite
    tasks = [task for suite in suites for task in expert_tasks(suite, args.task_ids)]
    tell_gl()
    results = Results(args.out, tasks, range(args.seed, args.seed + args.resets))
    run(results, args.workers, args.frames)
    print(table(results.rows))


def run(results: Results, num_workers: int, frames: Path | None) -> None:
    """Run the missing episodes of all tasks in `num_workers` processes."""
    context = get_context("spawn")
    orders, answers = context.Queue(), context.Queue()
    left = 0
    for key, task in results.tasks.items():
        if seeds := results.missing(key):
            orders.put((task, seeds, frames))
            left += len(seeds)
    workers = [context.Process(target=_worker, args=(orders, answers), daemon=True) for _ in range(num_workers)]
    for worker in workers:
        orders.put(None)
        worker.start()
    with tqdm(total=left, unit="episode", dynamic_ncols=True) as bar:
        while left:
            try:
                answer = answers.get(timeout=5.0)
            except queue.Empty:
                if any(worker.exitcode for worker in workers):
                    raise OSError("a simulator process died; the same command continues") from None
                continue
            if isinstance(answer, Exception):
                raise answer
            suite, task_id, record = answer
            results.add((suite, task_id), record)
            left -= 1
            bar.update()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
