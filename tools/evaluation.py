"""What the tools that evaluate a policy in a simulator share: their arguments, and the run itself."""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path

from libs.errors import BadInput
from libs.files import check_new_folder
from rv_eval.agent import AgentSettings, ChunkAgent

SERVED = ("ws://", "wss://")
# What a served policy has decided already.
OF_THE_POLICY = ("device", "torch_compile", "policy_batch", "generate_temperature", "drafts")


def make_parser(description: str, seed: str, add_tasks: Callable | None = None) -> argparse.ArgumentParser:
    """The arguments of every evaluation. seed: what --seed decides. add_tasks: called with the `add_argument` of the
    group "what is run", where tasks can be chosen."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_policy_arguments(parser)

    add = parser.add_argument_group("what is run").add_argument
    if add_tasks is not None:
        add_tasks(add)
    add("--episodes", type=int, help="per task: the first so many init states (default: all, mostly 50)")
    add("--seed", type=int, default=7, help=seed)
    add("--num_steps", type=int, help="step limit per episode (default: the suite's)")
    add("--shard_id", type=int, default=0, help="run this part of the episodes ...")
    add("--num_shards", type=int, default=1, help="... of so many; numbered from 0")
    add("--skip_evaluated", action="store_true", help="continue: leave out what the results in --log_dir hold")

    add_agent_arguments(parser, "how chunks are executed (default: as the policy's recipe says)")

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
    return parser


def add_policy_arguments(parser: argparse.ArgumentParser):
    """A group of options for `load_policy`, see `check_policy_arguments`."""
    add = parser.add_argument_group("the policy").add_argument
    add("--model_path", required=True, help="run folder (its last checkpoint), step or model folder; or ws://host:port")
    add("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    add("--torch_compile", action=argparse.BooleanOptionalAction, help="compile what an answer repeats (default: no)")
    add("--policy_batch", type=int, metavar="B", help="observations per call, padded (default: the device's)")
    add(
        "--generate_temperature",
        type=float,
        metavar="T",
        help="of a text: sample it (default 0: greedy); of a flow: times the noise it starts from (default 1)",
    )
    add(
        "--drafts",
        action=argparse.BooleanOptionalAction,
        help="verify several expected tokens of a text at a time: the same answers, sooner (default: yes)",
    )
    add("--api_key_file", type=Path, help="key of a served policy (default: the environment's VLA0_API_KEY)")


def add_agent_arguments(parser: argparse.ArgumentParser, title: str):
    """A group of options for `agent_settings`."""
    add = parser.add_argument_group(title).add_argument
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


def check_policy_arguments(args):
    """BadInput for what contradicts where the policy runs."""
    served = args.model_path.startswith(SERVED)
    if args.api_key_file and not served:
        raise BadInput(f"--api_key_file is for a served policy, not for {args.model_path}")
    given = [name for name in OF_THE_POLICY if getattr(args, name) is not None]
    if served and given:
        raise BadInput(f"--{given[0]} is decided where the policy is served, not for {args.model_path}")


def run_evaluation(
    args,
    tasks: list,
    envs,
    make_env: Callable,
    policy=None,
    make_agent: Callable = ChunkAgent,
    more: dict | None = None,
) -> list[dict]:
    """Evaluate the policy of `args` on `tasks` and print the table; ends the program where it cannot go on.

    envs: a module of rv_eval.envs with VIEWS, PROPRIO, ACTION_DIM and headless_gl. make_env: (task, resolution,
    render) -> EpisodeEnv. policy: that of `args`, where it is loaded already. make_agent: see Rollout. more: goes into
    every record. Returns the records.
    """
    from rv_eval.playing.evaluate import (
        EvalOptions,
        closing_report,
        describe_run,
        evaluate,
        plan_episodes,
        shard_episodes,
    )
    from rv_eval.playing.rollout import SimulatorGaveUp
    from rv_eval.serving.protocol import PolicyChanged, PolicyFailed, PolicyLost

    # Cheap checks first: a policy may take long to load.
    if args.log_dir:
        check_new_folder(args.log_dir)
    episodes = plan_episodes(tasks, args.episodes, args.seed, args.num_steps)
    shard_episodes(episodes, args.shard_id, args.num_shards)  # refuses numbers that cannot be
    graphics = envs.headless_gl()

    policy = policy or load_policy(args)
    policy.check_environment(envs.VIEWS, envs.ACTION_DIM, args.render or policy.render, envs.PROPRIO)
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
        make_agent=make_agent,
    )
    settings = {"num_envs": args.num_envs, "gl_backend": graphics.backend, "gl_renderer": graphics.renderer}
    settings |= more or {}
    provenance = describe_run(policy, args.model_path, settings)
    make_env = functools.partial(make_env, resolution=policy.resolution, render=policy.render)
    report = functools.partial(print, flush=True)
    kept = "the finished episodes are kept, continue with --skip_evaluated"
    try:
        records = evaluate(policy, make_env, episodes, options, provenance, report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept) from None
    except (SimulatorGaveUp, PolicyLost, PolicyFailed, PolicyChanged) as error:
        print(f"error: {error}; {kept}", file=sys.stderr)
        raise SystemExit(1) from error
    report(closing_report(records, options))
    return records


def load_policy(args):
    """The policy of --model_path, loaded here or served elsewhere."""
    if args.model_path.startswith(SERVED):
        from rv_eval.serving.protocol import PolicyLost, read_api_key
        from rv_eval.serving.remote_policy import RemotePolicy

        try:
            return RemotePolicy(args.model_path, read_api_key(args.api_key_file))
        except PolicyLost as error:  # nobody is there from the start
            raise BadInput(f"--model_path: {error}") from error
    import torch

    from rv_eval.policy import Policy

    policy = Policy.from_checkpoint(
        args.model_path,
        args.device,
        bool(args.torch_compile),
        batch_rows=args.policy_batch,
        temperature=args.generate_temperature,
        drafts=args.drafts is not False,
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
