"""Which episodes are run, which are done already, and what is written down about each."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from libs.errors import BadInput
from rv_eval.agent import AgentSettings, Answering, ChunkAgent
from rv_eval.envs.base import Environment, Episode, Simulator, Task
from rv_eval.playing.episode import EpisodeResult
from rv_eval.playing.rollout import Rollout
from rv_eval.results.asking import asked_tables
from rv_eval.results.records import (
    SETTING_KEYS,
    ResultsFile,
    caveats,
    record_key,
    setting_of,
    shard_file,
    shard_files,
    simulator_packages,
    success_table,
)
from rv_train.provenance import versions
from rv_train.tracking import format_time

SAVE_VIDEO = ("all", "failures", "none")
# Episodes of a plan where nobody says how many: an environment may number all that a seed can be.
MOST_UNASKED = 100_000


@dataclass(frozen=True)
class EvalOptions:
    """How an evaluation runs. agent: how chunks are executed. shard_id, num_shards: the part of the episodes that
    is run here. skip_evaluated: leave out what the results in log_dir hold. save_video: one of SAVE_VIDEO.
    video_every: steps between two frames of a video. save_all_data: a file per episode, see EpisodeTrace.
    timeout_s: a simulator call that takes longer is a hang. recycle_after: episodes that a simulator process plays.
    make_agent: see Rollout.
    """

    log_dir: Path
    agent: AgentSettings
    num_envs: int = 1
    shard_id: int = 0
    num_shards: int = 1
    skip_evaluated: bool = False
    save_video: str = "all"
    video_every: int = 4
    save_all_data: bool = False
    timeout_s: float = 120.0
    recycle_after: int = 50
    make_agent: Callable[..., Any] = ChunkAgent


def plan_episodes(
    tasks: Sequence[Task],
    num_episodes: int | None,
    seed: int,
    num_steps: int | None = None,
    num_settle_steps: int = 0,
) -> list[Episode]:
    """The first `num_episodes` init states of every task, None: all. num_steps: limit instead of the suite's own.

    num_settle_steps: of the environment, see Description. BadInput: a number that cannot be, or all are too many.
    """
    if num_episodes is not None and num_episodes < 1:
        raise BadInput(f"the number of episodes must be at least 1, got {num_episodes}")
    if num_steps is not None and num_steps < 1:
        raise BadInput(f"the number of steps must be at least 1, got {num_steps}")
    if not 0 <= seed < 2**32:
        raise BadInput(f"the seed must be from 0 to {2**32 - 1}, got {seed}")
    if num_episodes is None and (number := sum(task.num_init_states for task in tasks)) > MOST_UNASKED:
        raise BadInput(f"the tasks have {number:,} init states, too many to play all: give --episodes N, per task")
    for task in tasks:
        if (num_episodes or 1) > task.num_init_states:
            raise BadInput(
                f"{num_episodes or 'all'} episodes asked for, but {task.suite} task {task.task_id} has "
                f"{task.num_init_states} init states"
            )
    return [
        Episode(task, init_state, seed, num_steps or task.max_steps, num_settle_steps)
        for task in tasks
        for init_state in range(num_episodes or task.num_init_states)
    ]


def shard_episodes(episodes: list[Episode], shard_id: int, num_shards: int) -> list[Episode]:
    """The part of `episodes` that shard `shard_id` (from 0) runs.

    Neighbours stay together, so that a shard starts few simulators, and every shard may take about as many steps:
    an episode is where its middle falls when the sum of all step limits is cut into equal parts.
    """
    if num_shards < 1 or not 0 <= shard_id < num_shards:
        raise BadInput(f"shard {shard_id} of {num_shards}: shards are numbered 0 to {max(num_shards, 1) - 1}")
    total = sum(episode.max_steps for episode in episodes)
    part, before = [], 0
    for episode in episodes:
        if (2 * before + episode.max_steps) * num_shards // (2 * total) == shard_id:
            part.append(episode)
        before += episode.max_steps
    return part


def evaluate(
    policy: Answering,
    make_env: Callable[[Task], Environment],
    episodes: list[Episode],
    options: EvalOptions,
    provenance: dict,
    report: Callable[[str], None] = print,
) -> list[dict]:
    """Run what is left of this shard's part of `episodes`; returns the records of the part, in its order.

    provenance: goes into every record, see `describe_run`. BadInput, before anything is written: the log
    folder holds results of these episodes already and skip_evaluated is off.
    """
    if options.save_video not in SAVE_VIDEO:
        raise BadInput(f"save_video must be one of {', '.join(SAVE_VIDEO)}, got {options.save_video!r}")
    if options.save_video != "none" and options.video_every < 1:
        raise BadInput(f"steps between video frames must be at least 1, got {options.video_every}")
    rollout = Rollout(
        policy,
        make_env,
        options.agent,
        num_envs=options.num_envs,
        video_every=options.video_every if options.save_video != "none" else 0,
        keep_trace=options.save_all_data,
        timeout_s=options.timeout_s,
        recycle_after=options.recycle_after,
        make_agent=options.make_agent,
    )
    part = shard_episodes(episodes, options.shard_id, options.num_shards)
    plans = {record_key(_plan(episode, rollout.settings, provenance)): episode for episode in part}
    earlier = [record for path in shard_files(options.log_dir, "results") for record in _read_results(path)]
    done = {record_key(record): record for record in earlier if record_key(record) in plans}
    if done and not options.skip_evaluated:
        raise BadInput(
            f"{options.log_dir} holds {len(done)} of these {len(plans)} episodes already: continue with "
            "--skip_evaluated, or give another --log_dir"
        )
    shard = options.shard_id, options.num_shards
    _write_plan(shard_file(options.log_dir, "planned", *shard), episodes, rollout.settings, provenance)
    results = ResultsFile(shard_file(options.log_dir, "results", *shard))
    todo = [episode for key, episode in plans.items() if key not in done]
    if done:
        report(f"{len(done)} of {len(plans)} episodes are in {options.log_dir} already")
    progress = _Progress(len(todo))

    def keep(result):
        record = _plan(result.episode, rollout.settings, provenance) | _outcome(result)
        record |= {"shard_id": options.shard_id, "num_shards": options.num_shards}
        record |= _write_files(options, result, record, report)
        results.append(record)
        done[record_key(record)] = record
        report(progress.line(result))

    # Beside the rollout: the policy should not wait for a video to be encoded. One at a time, so that a kill costs
    # one finished episode at most, and what goes wrong ends the evaluation at the next.
    with ThreadPoolExecutor(max_workers=1) as writer:
        last = None
        for result in rollout.run(todo):
            if last:
                last.result()
            last = writer.submit(keep, result)
        if last:
            last.result()
    return [done[key] for key in plans]


def _read_results(path: Path) -> list[dict]:
    """The records of a file. BadInput: a line that is none."""
    records = ResultsFile(path).read()
    for number, record in enumerate(records, start=1):
        try:
            hash(record_key(record))
        except (AttributeError, TypeError) as error:
            raise BadInput(f"{path} line {number} is not a result: {error}") from error
    return records


def describe_run(policy: Answering, model_path: Path | str, simulator: Simulator, settings: dict) -> dict:
    """What else a result depends on, for every record. settings: more fields (num_envs, GL backend ...)."""
    described = policy.describe()
    del described["preset"]  # a record says what was done, not what the recipe wanted
    packages = simulator.versions()
    return {
        "model_path": str(model_path),
        **described,
        **settings,
        "environment": simulator.description.as_record(),
        "simulator_packages": list(packages),
        "versions": versions() | packages,
    }


def closing_report(records: list[dict], options: EvalOptions) -> str:
    """The success table, what it is worth, and where the files are."""
    lines = ["", success_table(records), ""]
    lines += [f"{table.text}\n" for table in asked_tables(records)]
    lines += caveats(records)
    lines += _writing(records)
    lines.append(f"results: {shard_file(options.log_dir, 'results', options.shard_id, options.num_shards)}")
    if any(record.get("video") for record in records):
        lines.append(f"videos:  {options.log_dir / 'videos'}")
    return "\n".join(lines)


def _writing(records: list[dict]) -> list[str]:
    """How much the policy wrote, and how fast; nothing of one that writes no text."""
    counted = [record for record in records if record.get("passes")]
    if not counted:
        return []
    queries, tokens, passes = (sum(record[name] for record in counted) for name in ("queries", "tokens", "passes"))
    return [f"an answer: {tokens / queries:.0f} tokens in {passes / queries:.1f} passes of the model, in the mean"]


def _plan(episode: Episode, settings: AgentSettings, provenance: dict) -> dict:
    """The part of a record that is known before the episode is run."""
    task = episode.task
    return {
        "suite": task.suite,
        "task_id": task.task_id,
        "task_name": task.name,
        "instruction": task.instruction,
        "init_state": episode.init_state,
        "seed": episode.seed,
        "max_steps": episode.max_steps,
        "own_limit": episode.max_steps != task.max_steps,
        "num_settle_steps": episode.num_settle_steps,
        **(episode.request.as_record() if episode.request else {}),
        **asdict(settings),
        **provenance,
    }


def _outcome(result: EpisodeResult) -> dict:
    return {
        "success": result.success,
        "steps": result.steps,
        "queries": result.queries,
        "parse_failures": result.parse_failures,
        "repaired": result.repaired,
        "tokens": result.tokens,
        "passes": result.passes,
        "incidents": len(result.incidents),
        "incident_errors": result.incidents,
        "policy_s": round(result.policy_s, 3),
        "sim_s": round(result.sim_s, 3),
        "wall_s": round(result.wall_s, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **({"facts": result.facts} if result.facts else {}),
    }


def _write_files(options: EvalOptions, result: EpisodeResult, record: dict, report: Callable[[str], None]) -> dict:
    """The episode's video and data: {"video": path, "data": path} relative to the log folder, None where there is none.

    The names hold a digest of what makes the record a measurement of its own: under other settings it has other files.
    """
    task, episode = result.episode.task, result.episode
    outcome = "success" if result.success else "failure"
    digest = hashlib.sha256(repr(record_key(record)).encode()).hexdigest()[:8]
    stem = f"{task.suite}_{task.task_id}_{task.name}_init{episode.init_state:03d}_{outcome}_{digest}"
    show = options.save_video == "all" or (options.save_video == "failures" and not result.success)
    written: dict[str, str | None] = {"video": None, "data": None}
    try:
        if result.frames and show:
            path = f"videos/{stem}.mp4"
            result.frames.write(_make_room(options.log_dir / path), episode.instruction, result.success, result.steps)
            written["video"] = path
        if result.trace:
            path = f"episodes/{stem}.hdf5"
            result.trace.write(_make_room(options.log_dir / path), record)
            written["data"] = path
    except OSError as error:  # a full disk or a failing encoder must not cost the result
        report(f"a file of the next episode could not be written: {error}")
    return written


def _make_room(path: Path) -> Path:
    """The same path, in a folder that exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_plan(path: Path, episodes: list[Episode], settings: AgentSettings, provenance: dict) -> None:
    """A line per task, and per sentence that it is asked in, with what all shards together are to run, so that a
    summary knows what is missing."""
    by_task = defaultdict(list)
    for episode in episodes:
        by_task[episode.task, episode.request].append(episode)
    file = ResultsFile(path)
    known = file.read()
    for group in by_task.values():
        plan = _plan(group[0], settings, provenance)
        names = ("suite", "task_id", "task_name", "seed", "own_limit", *SETTING_KEYS)
        line = {name: setting_of(plan, name) for name in names} | {"init_states": [e.init_state for e in group]}
        line |= {"asked": plan["asked"]} if "asked" in plan else {}
        packages = simulator_packages(plan)
        line |= {"simulator_packages": packages, "versions": {name: plan["versions"].get(name) for name in packages}}
        if line not in known:
            file.append(line)


class _Progress:
    """One line per finished episode, with the time that is left if the others take as long."""

    def __init__(self, total: int):
        self.total, self.finished, self.start = total, 0, time.monotonic()

    def line(self, result: EpisodeResult) -> str:
        self.finished += 1
        elapsed = time.monotonic() - self.start
        left = elapsed / self.finished * (self.total - self.finished)
        task, request = result.episode.task, result.episode.request
        asked = f", {request.text!r}" if request else ""
        outcome = "success" if result.success else "FAILURE"
        incidents = f", {len(result.incidents)} incidents" if result.incidents else ""
        return (
            f"[{self.finished}/{self.total}] {task.suite} {task.task_id} init {result.episode.init_state}{asked}: "
            f"{outcome} after {result.steps:3d} steps in {result.wall_s:.1f} s "
            f"(policy {result.policy_s:.1f} s; {result.parse_failures} of {result.queries} answers unreadable"
            f"{incidents}) | {format_time(elapsed)} gone, about {format_time(left)} left"
        )
