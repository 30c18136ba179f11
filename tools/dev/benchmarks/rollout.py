"""rv_eval's rollout beside the plain loop: one environment, one episode after the other, every picture rendered.

The reference is measured twice: with soft resets, as LiberoEnv has them, and with LIBERO's own default, which builds
the simulation anew at every reset. All play the same episodes in turns, block by block, and keep their simulators;
start-up and the first answer are timed apart. Success and number of steps must be the same in every episode.
"""

import argparse
import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from libs.cli import Switch
from libs.errors import BadInput
from tools.dev.benchmarks.clock import CpuMeter, add_phases

VARIANTS = {"plain": "plain loop", "plain_hard": "plain, hard resets", "ours": "this code"}
PHASES = ("reset", "physics", "rendering", "encode", "vision", "prefill", "decode", "policy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model_path", default="checkpoints/quickstart", help="run folder, step folder or model folder")
    add("--task_suite", default="libero_object", help="whose task is played")
    add("--task_ids", type=int, nargs=1, default=[0], metavar="N", help="the task of the suite")
    add("--episodes", type=int, default=16, help="the first so many init states, played by every loop")
    add("--hard_episodes", type=int, help="so many of them with hard resets too (default: all)")
    add("--block", type=int, default=8, help="episodes before it is another loop's turn")
    add("--rounds", type=int, default=1, help="times that everything is repeated")
    add("--num_envs", type=int, default=4, help="simulators of this code")
    add("--action_horizon", type=int, default=0, help="actions executed per query; 0: all that are predicted")
    add("--policy_batch", type=int, help="observations per call of this code's policy (default: the device's)")
    add("--device", default="cpu", help="where the policy computes: cpu, cuda, cuda:1 ...")
    add("--torch_compile", action=Switch, default=False, help="compile the decoding step, of both loops")
    add("--num_steps", type=int, help="step limit per episode (default: the suite's)")
    add("--seed", type=int, default=7, help="of the episodes")
    add("--render", help="default: the policy's own; another one costs what it costs, whatever becomes of the success")
    add("--resolution", type=int, help="pixels on each side (default: the policy's own)")


def measure(args: argparse.Namespace, report: Callable[[str], None]) -> dict:
    """Run the benchmark; report(line) tells what is going on.

    Returns {"settings", "start_up", "summary", "problems", "blocks"}: problems is empty where all loops agree, blocks
    holds every episode. BadInput: bad arguments.
    """
    for name in ("block", "rounds", "num_envs"):
        if getattr(args, name) < 1:
            raise BadInput(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.hard_episodes is not None and args.hard_episodes < 0:
        raise BadInput(f"--hard_episodes must not be negative, got {args.hard_episodes}")
    from libs.libero_sim import get_task
    from libs.robosuite_sim import tell_gl
    from rv_eval.envs.libero import DESCRIPTION
    from rv_eval.playing.evaluate import plan_episodes

    tell_gl()  # before anything is loaded: it may refuse
    task = get_task(args.task_suite, *args.task_ids)
    episodes = plan_episodes([task], args.episodes, args.seed, args.num_steps, DESCRIPTION.num_settle_steps)
    num_hard = len(episodes) if args.hard_episodes is None else args.hard_episodes
    blocks = []
    with contextlib.ExitStack() as stack:
        loops, start_up, policy = _start(args, task, stack, report)
        settings = _settings(args, policy)
        n_action_steps = settings["n_action_steps"]
        for round_number in range(args.rounds):
            for start in range(0, len(episodes), args.block):
                turn = {name: episodes[start : start + args.block] for name in VARIANTS}
                turn["plain_hard"] = episodes[start : min(start + args.block, num_hard)]
                names = [name for name in VARIANTS if turn[name]]
                for name in names[:: 1 if len(blocks) % 2 == 0 else -1]:  # nobody always comes first
                    block = loops[name](turn[name], n_action_steps)
                    blocks.append({"round": round_number, "first": start, "loop": name, **block})
                    report(_progress(blocks[-1]))
    return {
        "settings": settings,
        "start_up": start_up,
        "summary": summarize(blocks, start_up),
        "problems": disagreements(blocks),
        "blocks": blocks,
    }


def _settings(args, policy):
    from rv_eval.agent import AgentSettings

    pictures = {"render": args.render or policy.render, "resolution": args.resolution or policy.resolution}
    return {
        **{name: getattr(args, name) for name in vars(args) if name not in ("out", "benchmark")},
        **pictures,
        "own_pictures": pictures == {"render": policy.render, "resolution": policy.resolution},
        "n_action_steps": AgentSettings(args.action_horizon).resolve(policy.horizon).n_action_steps,
        "policy": {name: value for name, value in policy.describe().items() if name != "model_folder"},
    }


def _start(args, task, stack, report):
    """Everything that lives as long as the benchmark.

    Returns {loop: play(episodes, n_action_steps) -> block}, {"plain" or "ours": seconds of the start}, our policy.
    """
    from libs.robosuite_sim import RemoteObject
    from tools.dev.benchmarks.clock import PhaseClock
    from tools.dev.benchmarks.rollout_loops import OurLoop, first_answer, load_policy

    start_up = {}
    clock, began = PhaseClock(), time.perf_counter()
    policy = load_policy(args.model_path, args.device, args.torch_compile, args.policy_batch, clock)
    render, resolution = args.render or policy.render, args.resolution or policy.resolution
    ours = OurLoop(policy, clock, task, render, resolution, args.num_envs)
    stack.callback(ours.close)
    start_s = time.perf_counter() - began
    start_up["ours"] = {
        "start_s": start_s,
        "first_answer_s": first_answer(policy, task.instruction),
    }
    report(f"{args.num_envs} simulators and the policy: ready after {start_s:.1f} s")

    kwargs = {"task": task, "render": render, "resolution": resolution, "model_path": str(args.model_path)}
    kwargs |= {"device": args.device, "torch_compile": args.torch_compile}
    began = time.perf_counter()
    with _environment(LP_NUM_THREADS=str(os.cpu_count())):  # rendering may use every core, as it does by default
        factory = "tools.dev.benchmarks.rollout_loops:PlainLoop"
        plain = stack.enter_context(RemoteObject(factory, kwargs, timeout_s=3600.0, hide_cuda=False))
    first_s = plain.call("first_answer", task.instruction)
    start_up["plain"] = {"start_s": time.perf_counter() - began - first_s, "first_answer_s": first_s}
    report(f"the plain loop: ready after {start_up['plain']['start_s']:.1f} s")

    def play_plain(hard):
        def play(episodes, n_action_steps):
            meter = CpuMeter({"loop": plain.pid})
            results = plain.call("play", episodes, n_action_steps, hard)
            return {"episodes": results, **meter.read(), "phases": add_phases(r["phases"] for r in results)}

        return play

    return {"plain": play_plain(False), "plain_hard": play_plain(True), "ours": ours.play}, start_up, policy


@contextlib.contextmanager
def _environment(**values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def disagreements(blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the loops do not agree on, one line per episode, and incidents, which disturb the timing."""
    outcomes, problems = {}, []
    for block in blocks:
        for episode in block["episodes"]:
            outcome = (episode["success"], episode["steps"])
            outcomes.setdefault(episode["init_state"], {}).setdefault(outcome, []).append(block["loop"])
            if episode["incidents"]:
                problems.append(f"init state {episode['init_state']}: {episode['incidents']} incidents")
    for init_state, found in sorted(outcomes.items()):
        if len(found) > 1:
            told = (
                f"{'success' if success else 'failure'} after {steps} steps ({', '.join(sorted(set(loops)))})"
                for (success, steps), loops in found.items()
            )
            problems.append(f"init state {init_state}: {'; '.join(told)}")
    return problems


def summarize(blocks: Sequence[Mapping[str, Any]], start_up: Mapping[str, Any]) -> dict:
    """Per loop: episodes, successes, seconds and CPU seconds per episode; ratios to this code on the same blocks."""
    summary = {}
    for name in VARIANTS:
        own = [block for block in blocks if block["loop"] == name]
        if own:
            summary[name] = _summarize_loop(own)
    ours = {(block["round"], block["first"]): _per_episode(block) for block in blocks if block["loop"] == "ours"}
    for name, numbers in summary.items():
        ratios = [
            _per_episode(block) / ours[block["round"], block["first"]] for block in blocks if block["loop"] == name
        ]
        numbers["ratio_to_ours"] = _spread(ratios)
        numbers["cpu_ratio_to_ours"] = _cpu_s(numbers) / _cpu_s(summary["ours"])
        start = start_up["ours" if name == "ours" else "plain"]
        numbers["total_with_start_s"] = numbers["total_s"] + start["start_s"] + start["first_answer_s"]
    return summary


def _summarize_loop(blocks):
    episodes = [episode for block in blocks for episode in block["episodes"]]
    count, wall = len(episodes), sum(block["wall_s"] for block in blocks)
    phases = add_phases(block["phases"] for block in blocks)
    cpu = sum(seconds for block in blocks for seconds in block["cpu_s"].values())
    per_phase = {name: phases.get(name, {"cpu_s": 0.0})["cpu_s"] / count for name in PHASES}
    return {
        "episodes": count,
        "successes": sum(episode["success"] for episode in episodes),
        "mean_steps": sum(episode["steps"] for episode in episodes) / count,
        "mean_queries": sum(episode["queries"] for episode in episodes) / count,
        "queries_per_call": sum(episode["queries"] for episode in episodes) / phases["decode"]["count"],
        "pictures_per_episode": phases["rendering"]["count"] / count,
        "total_s": wall,
        "s_per_episode": _spread([_per_episode(block) for block in blocks]),
        "wall_s_per_episode": {name: phases.get(name, {"wall_s": 0.0})["wall_s"] / count for name in PHASES},
        "cpu_s_per_episode": {**per_phase, "other": cpu / count - sum(per_phase.values())},
        "cores_used": cpu / wall,
        "cores_used_by_process": {
            name: sum(block["cpu_s"][name] for block in blocks) / wall for name in blocks[0]["cpu_s"]
        },
        "cores_used_by_others": sum(block["others_cpu_s"] for block in blocks) / wall,
    }


def _per_episode(block):
    """Seconds per episode of a block. Hard resets may be measured on a part of the others' block."""
    return block["wall_s"] / len(block["episodes"])


def _cpu_s(numbers):
    """CPU seconds per episode: unlike seconds, hardly moved by what else runs on the machine."""
    return sum(numbers["cpu_s_per_episode"].values())


def _spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "blocks": len(values)}


def _progress(block):
    name, count = VARIANTS[block["loop"]], len(block["episodes"])
    solved = sum(episode["success"] for episode in block["episodes"])
    others = block["others_cpu_s"] / block["wall_s"]
    return (
        f"{name:<18} {count} episodes from number {block['first']:>2}: {block['wall_s']:6.1f} s, "
        f"{_per_episode(block):.2f} s each, {solved} solved (other processes on this machine: {others:.2f} cores)"
    )


def table(result: Mapping[str, Any]) -> str:
    """The summary as text."""
    summary = result["summary"]
    rows = [["", *(VARIANTS[name] for name in summary)]]

    def row(label, cell):
        rows.append([label, *(cell(numbers) for numbers in summary.values())])

    row("episodes", lambda n: str(n["episodes"]))
    row("solved", lambda n: str(n["successes"]))
    row("seconds per episode", lambda n: _told(n["s_per_episode"]))
    row("this code is faster by", lambda n: f"{_told(n['ratio_to_ours'], 1)}x")
    row("pictures per episode", lambda n: f"{n['pictures_per_episode']:.0f}")
    row("queries per episode", lambda n: f"{n['mean_queries']:.1f}")
    row("queries per call of the model", lambda n: f"{n['queries_per_call']:.2f}")
    row("CPU seconds per episode", lambda n: f"{_cpu_s(n):.2f}")
    for name in (*PHASES, "other"):
        row(f"  {name}", lambda n, name=name: f"{n['cpu_s_per_episode'][name]:.2f}")
    row("this code needs less CPU by", lambda n: f"{n['cpu_ratio_to_ours']:.1f}x")
    row("cores in use", lambda n: f"{n['cores_used']:.2f}")
    row("cores others used", lambda n: f"{n['cores_used_by_others']:.2f}")
    row("all, start-up included, s", lambda n: f"{n['total_with_start_s']:.0f}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    busy = ", ".join(f"{name} {cores:.2f}" for name, cores in summary["ours"]["cores_used_by_process"].items())
    return "\n".join([*lines, f"cores in use by this code's processes: {busy}"])


def _told(spread, digits=2):
    told = f"{spread['median']:.{digits}f}"
    if math.isclose(spread["min"], spread["max"]):
        return told
    return f"{told} ({spread['min']:.{digits}f}-{spread['max']:.{digits}f})"
