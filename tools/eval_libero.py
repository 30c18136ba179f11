"""Evaluate a checkpoint in the LIBERO simulator: success table, results.jsonl, a video per episode.

python tools/eval_libero.py --model_path RUN --task_suite libero_object --task_id 5 --episodes 10
"""

import argparse
import functools
import sys
from pathlib import Path

from libs.cli import cli_errors
from rv_eval.agent import AgentSettings


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model_path", required=True, help="run folder (its last checkpoint), step folder or model folder")
    add("--task_suite", required=True, help="e.g. libero_object; any suite of the installed package")
    add("--task_id", type=int, nargs="+", help="tasks of the suite (default: all)")
    add("--episodes", type=int, default=50, help="per task: the first so many init states of the benchmark")
    add("--seed", type=int, default=7, help="seed of the fixtures, set before every reset")
    add("--num_steps", type=int, help="step limit per episode (default: the suite's)")
    add("--action_horizon", type=int, default=0, help="actions executed per query; 0: all that are predicted")
    add(
        "--ensemble_prediction",
        type=int,
        default=1,
        metavar="M",
        help="average M overlapping chunks; 1: none",
    )
    add("--ensemble_version", type=int, default=1, choices=(1, 2))
    add(
        "--ensemble_weight",
        type=float,
        default=0.5,
        help="1: of every older chunk; 2: to the power of its age",
    )
    add(
        "--allow_no_overlap",
        action="store_true",
        help="run though the executed horizon leaves nothing to average",
    )
    add("--num_envs", type=int, default=1, help="simulators at the same time")
    add("--render", help="refuse to run unless the checkpoint's render setting is this one")
    add("--skip_evaluated", action="store_true", help="continue: leave out what results.jsonl holds")
    add("--log_dir", type=Path, help="default: eval_logs/<run name>")
    add("--save_video", choices=("all", "none"), default="all")
    add(
        "--video_every",
        type=int,
        default=4,
        help="steps between two frames of a video (20 steps are a second)",
    )
    add("--timeout", type=float, default=120.0, help="seconds after which a simulator counts as hanging")
    add("--device", default="cpu", help="of the policy: cpu, cuda, cuda:1 ...")
    add("--torch_compile", action=argparse.BooleanOptionalAction, default=False, help="pays on a GPU")
    return parser.parse_args(argv)


@cli_errors
def main(argv=None):
    args = parse_args(argv)
    agent = AgentSettings(
        n_action_steps=args.action_horizon,
        ensemble_size=args.ensemble_prediction,
        ensemble_version=args.ensemble_version,
        ensemble_weight=args.ensemble_weight,
        allow_no_overlap=args.allow_no_overlap,
    )
    # Cheap checks first: the simulator and torch take seconds to import.
    from libs.libero_sim import get_task, num_tasks
    from rv_eval.envs import libero
    from rv_eval.evaluate import EvalOptions, closing_report, describe_run, evaluate, plan_episodes
    from rv_eval.rollout import SimulatorGaveUp

    task_ids = range(num_tasks(args.task_suite)) if args.task_id is None else sorted(set(args.task_id))
    tasks = [get_task(args.task_suite, task_id) for task_id in task_ids]
    episodes = plan_episodes(tasks, args.episodes, args.seed, args.num_steps)

    import torch

    from rv_eval.policy import Policy

    if args.device == "cpu":
        torch.set_num_threads(1)  # the simulators need the other cores
    policy = Policy.from_checkpoint(args.model_path, args.device, args.torch_compile)
    policy.check_environment(libero.VIEWS, libero.ACTION_DIM, args.render or policy.render)
    options = EvalOptions(
        log_dir=args.log_dir or Path("eval_logs") / run_name(args.model_path),
        agent=agent,
        num_envs=args.num_envs,
        skip_evaluated=args.skip_evaluated,
        save_video=args.save_video,
        video_every=args.video_every,
        timeout_s=args.timeout,
    )
    provenance = describe_run(
        policy,
        args.model_path,
        {
            "device": args.device,
            "torch_compile": args.torch_compile,
            "num_envs": args.num_envs,
            "gl_backend": libero.headless_gl(),
        },
    )
    make_env = functools.partial(
        libero.LiberoEpisodeEnv,
        resolution=policy.resolution,
        render=policy.render,
    )
    report = functools.partial(print, flush=True)
    try:
        records = evaluate(policy, make_env, episodes, options, provenance, report)
    except KeyboardInterrupt:
        report("interrupted: the finished episodes are kept, continue with --skip_evaluated")
        raise SystemExit(130) from None
    except SimulatorGaveUp as error:
        print(f"error: {error}; the finished episodes are kept, continue with --skip_evaluated", file=sys.stderr)
        raise SystemExit(1) from error
    report(closing_report(records, options))


def run_name(model_path) -> str:
    """The name of the run that a run, step or model folder belongs to."""
    path = Path(model_path).resolve()
    while path.name in ("model", "last") or path.name.startswith("step_"):
        path = path.parent
    return path.name


if __name__ == "__main__":
    main()
