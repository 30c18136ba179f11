"""Which episodes are run, which are done already, and what is written down about each."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rv_eval.agent import AgentSettings
from rv_eval.envs.base import Episode
from rv_eval.policy import model_fingerprint
from rv_eval.results import SIMULATOR_PACKAGES, ResultsFile, record_key, success_table
from rv_eval.rollout import EpisodeResult, Rollout
from rv_train.provenance import versions
from rv_train.tracking import format_time


@dataclass(frozen=True)
class EvalOptions:
    """How an evaluation runs. agent: how chunks are executed. skip_evaluated: leave out what results.jsonl
    holds. save_video: "all" or "none". video_every: steps between two frames of a video. timeout_s: a
    simulator call that takes longer is a hang."""

    log_dir: Path
    agent: AgentSettings
    num_envs: int = 1
    skip_evaluated: bool = False
    save_video: str = "all"
    video_every: int = 4
    timeout_s: float = 120.0


def plan_episodes(tasks, num_episodes: int, seed: int, num_steps: int | None = None) -> list[Episode]:
    """The first `num_episodes` init states of every task. num_steps: limit instead of the suite's own."""
    if num_episodes < 1:
        raise ValueError(f"the number of episodes must be at least 1, got {num_episodes}")
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}")
    for task in tasks:
        if num_episodes > task.num_init_states:
            raise ValueError(
                f"{num_episodes} episodes asked for, but {task.suite} task {task.task_id} has "
                f"{task.num_init_states} init states"
            )
    return [
        Episode(task, init_state, seed, num_steps or task.max_steps)
        for task in tasks
        for init_state in range(num_episodes)
    ]


def evaluate(
    policy,
    make_env: Callable,
    episodes: list[Episode],
    options: EvalOptions,
    provenance: dict,
    report: Callable[[str], None] = print,
) -> list[dict]:
    """Run what is left of `episodes`; returns the records of all of them, in their order.

    provenance: goes into every record, see `describe_run`. ValueError, before anything is written: the log
    folder holds results of these episodes already and skip_evaluated is off.
    """
    if options.save_video == "all" and options.video_every < 1:
        raise ValueError(f"steps between video frames must be at least 1, got {options.video_every}")
    rollout = Rollout(
        policy,
        make_env,
        options.agent,
        options.num_envs,
        options.video_every if options.save_video == "all" else 0,
        options.timeout_s,
    )
    results = ResultsFile(options.log_dir / "results.jsonl")
    plans = {record_key(_plan(episode, rollout.settings, provenance)): episode for episode in episodes}
    records = results.read()
    done = {record_key(record): record for record in records if record_key(record) in plans}
    if done and not options.skip_evaluated:
        raise ValueError(
            f"{results.path} holds {len(done)} of these {len(plans)} episodes already: continue with "
            "--skip_evaluated, or give another --log_dir"
        )
    taken_videos = {record.get("video") for record in records}
    todo = [episode for key, episode in plans.items() if key not in done]
    if done:
        report(f"{len(done)} of {len(plans)} episodes are in {results.path} already")
    progress = _Progress(len(todo))
    for result in rollout.run(todo):
        video = None
        if result.frames:
            try:
                video = _write_video(options.log_dir / "videos", result, taken_videos)
            except OSError as error:  # a full disk or a failing encoder must not cost the result
                report(f"no video of the next episode: {error}")
        record = _plan(result.episode, rollout.settings, provenance) | _outcome(result) | {"video": video}
        results.append(record)
        done[record_key(record)] = record
        report(progress.line(result))
    return [done[key] for key in plans]


def describe_run(policy, model_path, settings: dict) -> dict:
    """What else a result depends on, for every record. settings: more fields (device, GL backend ...)."""
    return {
        "model_path": str(model_path),
        "model_folder": str(policy.folder),
        **model_fingerprint(policy.folder),
        "render": policy.render,
        "resolution": policy.resolution,
        **settings,
        "versions": versions(SIMULATOR_PACKAGES),
    }


def closing_report(records: list[dict], options: EvalOptions) -> str:
    """The success table, what it is worth, and where the files are."""
    lines = ["", success_table(records), ""]
    renders = sorted({record["render"] for record in records} - {"standard"})
    if renders:
        lines.append(f"not a LIBERO result: pictures of render setting {', '.join(renders)}")
    if any(record["own_limit"] for record in records):
        lines.append("not a LIBERO result: a step limit other than the suite's")
    lines.append(f"results: {options.log_dir / 'results.jsonl'}")
    if any(record.get("video") for record in records):
        lines.append(f"videos:  {options.log_dir / 'videos'}")
    return "\n".join(lines)


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
        "incidents": len(result.incidents),
        "incident_errors": result.incidents,
        "policy_s": round(result.policy_s, 3),
        "sim_s": round(result.sim_s, 3),
        "wall_s": round(result.wall_s, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _write_video(folder: Path, result: EpisodeResult, taken: set) -> str:
    """Returns the path; never that of a video that a record refers to, under other settings for instance."""
    task, episode = result.episode.task, result.episode
    outcome = "success" if result.success else "failure"
    stem = f"{task.suite}_{task.task_id}_{task.name}_init{episode.init_state:03d}_{outcome}"
    path, number = folder / f"{stem}.mp4", 1
    while str(path) in taken:
        number += 1
        path = folder / f"{stem}_{number}.mp4"
    taken.add(str(path))
    folder.mkdir(parents=True, exist_ok=True)
    result.frames.write(path, task.instruction, result.success, result.steps)
    return str(path)


class _Progress:
    """One line per finished episode, with the time that is left if the others take as long."""

    def __init__(self, total: int):
        self.total, self.finished, self.start = total, 0, time.monotonic()

    def line(self, result: EpisodeResult) -> str:
        self.finished += 1
        elapsed = time.monotonic() - self.start
        left = elapsed / self.finished * (self.total - self.finished)
        task = result.episode.task
        outcome = "success" if result.success else "FAILURE"
        incidents = f", {len(result.incidents)} incidents" if result.incidents else ""
        return (
            f"[{self.finished}/{self.total}] {task.suite} {task.task_id} init {result.episode.init_state}: "
            f"{outcome} after {result.steps:3d} steps in {result.wall_s:.1f} s "
            f"(policy {result.policy_s:.1f} s; {result.parse_failures} of {result.queries} answers unreadable"
            f"{incidents}) | {format_time(elapsed)} gone, about {format_time(left)} left"
        )
