"""Evaluate a policy in the LIBERO simulator: success table, results.jsonl, a video per episode.

    python tools/eval_libero.py --model_path RUN --task_suite libero_object --task_id 5 --episodes 10
    python tools/eval_libero.py --model_path RUN --task_suite all --num_envs 8 --log_dir LOGS
    python tools/eval_libero.py --model_path RUN --task_suite all --shard_id 3 --num_shards 8 --log_dir LOGS
    python tools/eval_libero.py --model_path ws://localhost:8000 --task_suite libero_goal_swap

Finished episodes are kept whatever happens: the same command with --skip_evaluated continues. Shards may run anywhere,
one after the other or at once; tools/summarize_eval.py puts LOGS together.
Exit code: 0 all episodes were run, whatever their outcome; 1 the simulator or the policy server failed for good; 2 bad
input; 130 interrupted.
"""

import argparse
import dataclasses
import functools
import sys
from pathlib import Path

from libs.cli import cli_errors
from rv_eval.agent import AgentSettings

SERVED = ("ws://", "wss://")
# What a served policy has decided already.
OF_THE_POLICY = ("device", "torch_compile", "policy_batch", "generate_temperature")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument_group("the policy").add_argument
    add("--model_path", required=True, help="run folder (its last checkpoint), step or model folder; or ws://host:port")
    add("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    add("--torch_compile", action=argparse.BooleanOptionalAction, help="compile the decoding step (default: no)")
    add("--policy_batch", type=int, metavar="B", help="observations per call, padded (default: the device's)")
    add("--generate_temperature", type=float, metavar="T", help="sample the text (default 0: greedy)")
    add("--api_key_file", type=Path, help="key of a served policy (default: the environment's VLA0_API_KEY)")

    add = parser.add_argument_group("what is run").add_argument
    add("--task_suite", nargs="+", required=True, help="suites of the installed package; all: the four of the papers")
    add("--task_id", type=int, nargs="+", help="tasks of each suite (default: all)")
    add("--task_name", nargs="+", help="tasks by name, as in demo file names")
    add("--episodes", type=int, help="per task: the first so many init states (default: all, 50 in LIBERO's suites)")
    add("--seed", type=int, default=7, help="seed of the fixtures, set before every reset, and of sampling")
    add("--num_steps", type=int, help="step limit per episode (default: the suite's)")
    add("--shard_id", type=int, default=0, help="run this part of the episodes ...")
    add("--num_shards", type=int, default=1, help="... of so many; numbered from 0")
    add("--skip_evaluated", action="store_true", help="continue: leave out what the results in --log_dir hold")

    add = parser.add_argument_group("how chunks are executed (default: as the policy's recipe says)").add_argument
    add("--action_horizon", type=int, metavar="N", help="actions executed per query; 0: all that are predicted")
    add("--ensemble_prediction", type=int, metavar="M", help="average M overlapping chunks; 1: none")
    add("--ensemble_version", type=int, choices=(1, 2), help="1: older chunks weigh the same; 2: they fade")
    add(
        "--ensemble_weight",
        type=float,
        metavar="W",
        help="version 1: of every older chunk (1: the plain mean); version 2: to the power of its age",
    )
    add("--allow_no_overlap", action="store_true", help="run though the executed horizon leaves nothing to average")

    add = parser.add_argument_group("simulators").add_argument
    add("--num_envs", type=int, default=1, help="at the same time; each takes a core at times, and about 1.5 GB")
    add("--recycle_after", type=int, default=50, help="episodes after which a simulator process is replaced")
    add("--timeout", type=float, default=120.0, help="seconds after which a simulator counts as hanging")
    add("--render", help="refuse to run unless the policy's render setting is this one")

    add = parser.add_argument_group("what is kept").add_argument
    add("--log_dir", type=Path, help="default: eval_logs/<run name>")
    add("--save_video", choices=("all", "failures", "none"), default="all")
    add("--video_every", type=int, default=4, help="steps between two frames of a video (20 steps are a second)")
    add("--save_all_data", action="store_true", help="all that was seen, answered and done, an HDF5 file per episode")
    args = parser.parse_args(argv)
    if args.task_id is not None and args.task_name is not None:
        raise ValueError("--task_id and --task_name: give one of them")
    served = args.model_path.startswith(SERVED)
    if args.api_key_file and not served:
        raise ValueError(f"--api_key_file is for a served policy, not for {args.model_path}")
    given = [name for name in OF_THE_POLICY if getattr(args, name) is not None]
    if served and given:
        raise ValueError(f"--{given[0]} is decided where the policy is served, not for {args.model_path}")
    return args


@cli_errors
def main(argv=None):
    args = parse_args(argv)
    # Cheap checks first: the simulator and torch take seconds to import.
    from rv_eval.envs import libero
    from rv_eval.evaluate import EvalOptions, closing_report, describe_run, evaluate, plan_episodes, shard_episodes
    from rv_eval.protocol import PolicyChanged, PolicyFailed, PolicyLost
    from rv_eval.rollout import SimulatorGaveUp

    tasks = select_tasks(args.task_suite, args.task_id, args.task_name)
    episodes = plan_episodes(tasks, args.episodes, args.seed, args.num_steps)
    shard_episodes(episodes, args.shard_id, args.num_shards)  # refuses numbers that cannot be

    policy = load_policy(args)
    policy.check_environment(libero.VIEWS, libero.ACTION_DIM, args.render or policy.render)
    options = EvalOptions(
        log_dir=args.log_dir or Path("eval_logs") / run_name(policy.describe()["model_folder"]),
        agent=agent_settings(args, policy.preset),
        num_envs=args.num_envs,
        shard_id=args.shard_id,
        num_shards=args.num_shards,
        skip_evaluated=args.skip_evaluated,
        save_video=args.save_video,
        video_every=args.video_every,
        save_all_data=args.save_all_data,
        timeout_s=args.timeout,
        recycle_after=args.recycle_after,
    )
    settings = {"num_envs": args.num_envs, "gl_backend": libero.headless_gl()}
    provenance = describe_run(policy, args.model_path, settings)
    make_env = functools.partial(libero.LiberoEpisodeEnv, resolution=policy.resolution, render=policy.render)
    report = functools.partial(print, flush=True)
    kept = "the finished episodes are kept, continue with --skip_evaluated"
    try:
        records = evaluate(policy, make_env, episodes, options, provenance, report)
    except KeyboardInterrupt:
        report(f"interrupted: {kept}")
        raise SystemExit(130) from None
    except (SimulatorGaveUp, PolicyLost, PolicyFailed, PolicyChanged) as error:
        print(f"error: {error}; {kept}", file=sys.stderr)
        raise SystemExit(1) from error
    report(closing_report(records, options))


def select_tasks(suites, task_ids=None, task_names=None):
    """The tasks of every suite in order, each once. ValueError for a suite, an id or a name that does not exist."""
    from libs.libero_sim import REPORTED_SUITES, get_task, num_tasks

    names = dict.fromkeys(name for suite in suites for name in (REPORTED_SUITES if suite == "all" else (suite,)))
    tasks = [
        get_task(suite, task_id)
        for suite in names
        for task_id in (range(num_tasks(suite)) if task_ids is None else sorted(set(task_ids)))
    ]
    if task_names is None:
        return tasks
    unknown = [name for name in task_names if name not in {task.name for task in tasks}]
    if unknown:
        known = ", ".join(task.name for task in tasks)
        raise ValueError(f"unknown task {unknown[0]!r} of {', '.join(names)}: there are {known}")
    return [task for task in tasks if task.name in task_names]


def load_policy(args):
    """The policy of --model_path, loaded here or served elsewhere."""
    if args.model_path.startswith(SERVED):
        from rv_eval.protocol import read_api_key
        from rv_eval.remote_policy import RemotePolicy

        return RemotePolicy(args.model_path, read_api_key(args.api_key_file))
    import torch

    from rv_eval.policy import Policy

    policy = Policy.from_checkpoint(
        args.model_path,
        args.device,
        bool(args.torch_compile),
        batch_rows=args.policy_batch,
        temperature=args.generate_temperature or 0.0,
    )
    if policy.device.type == "cpu":
        torch.set_num_threads(1)  # the simulators need the other cores
    return policy


def agent_settings(args, preset: AgentSettings) -> AgentSettings:
    """The preset with what the command line says instead."""
    given = {
        "n_action_steps": args.action_horizon,
        "ensemble_size": args.ensemble_prediction,
        "ensemble_version": args.ensemble_version,
        "ensemble_weight": args.ensemble_weight,
        "allow_no_overlap": args.allow_no_overlap,
    }
    return dataclasses.replace(preset, **{name: value for name, value in given.items() if value is not None})


def run_name(model_path) -> str:
    """The name of the run that a run, step or model folder belongs to."""
    path = Path(model_path).resolve()
    while path.name in ("model", "last") or path.name.startswith("step_"):
        path = path.parent
    return path.name


if __name__ == "__main__":
    main()
