"""Evaluating a policy in a simulator, whichever it is: the arguments, and the run itself."""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libs.cli import Parser, Switch
from libs.errors import BadInput
from libs.files import check_new_folder
from libs.hub import is_hub_id, name_of_cached, split_id

if TYPE_CHECKING:  # what imports numpy: tools/serve_policy.py takes its port before
    from rv_eval.agent import AgentSettings, Answering
    from rv_eval.envs.base import Episode, Simulator

SERVED = ("ws://", "wss://")
SERVER_WAIT_S = 30.0  # for a server that was started together with the evaluation
TRAINED_WORDINGS = Path(__file__).parents[1] / "configs" / "wordings" / "libero_train.json"
Ask = Callable[[argparse.Namespace, "list[Episode]"], tuple["list[Episode]", str | None]]
# What a served policy has decided already.
OF_THE_POLICY = ("device", "dtype", "torch_compile", "policy_batch", "generate_temperature", "drafts")


def evaluate_in(name: str, description: str, argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """A command line: evaluate a policy in the simulator called `name`, which is not asked for any more.

    description: the text of --help. Ends the program where it cannot go on.
    """
    from rv_eval.envs import get_simulator

    simulator = get_simulator(name)
    run_evaluation(parse_args(simulator, description, argv, prog), simulator)


def parse_args(
    simulator: "Simulator",
    description: str,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
    more: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """BadInput for arguments that contradict each other. more: declares arguments of a command's own."""
    parser = make_parser(simulator, description, prog)
    if more is not None:
        more(parser)
    add = parser.add_argument_group("other wordings of the instructions, see docs/wordings.md").add_argument
    add(
        "--wordings",
        type=Path,
        metavar="FILE",
        help="JSON: other wordings of instructions, which the episodes of a task take in turns",
    )
    add(
        "--trained_wordings",
        type=Path,
        metavar="FILE",
        default=TRAINED_WORDINGS,
        help="those that were trained on: the table tells wordings with new words apart",
    )
    args = parser.parse_args(argv)
    check_policy_arguments(args)
    return args


def make_parser(simulator: "Simulator", description: str, prog: str | None = None) -> Parser:
    """The Parser of an evaluation in a simulator. prog: how the command is called, by default its file."""
    parser = Parser(description, prog=prog)
    add_policy_arguments(parser)

    add = parser.add_argument_group("what is run").add_argument
    simulator.add_task_arguments(add)
    add("--episodes", type=int, metavar="N", help="per task, each from another start (default: all, mostly 50)")
    add("--seed", type=int, default=7, help=simulator.seed_means)
    add("--num_steps", type=int, metavar="N", help="steps after which an episode has failed (default: the suite's)")
    add("--shard_id", type=int, default=0, metavar="N", help="run this part of the episodes, numbered from 0 ...")
    add("--num_shards", type=int, default=1, metavar="N", help="... of so many parts")
    add("--skip_evaluated", action="store_true", help="continue: leave out what the results in --log_dir hold")

    add_agent_arguments(parser, "how chunks are executed (default: as the policy's recipe says)")

    add = parser.add_argument_group("simulators").add_argument
    add("--num_envs", type=int, default=1, metavar="N", help="played at the same time, a core and about 1.5 GB each")
    add("--recycle_after", type=int, default=50, metavar="N", help="episodes until a simulator is started anew")
    add("--timeout", type=float, default=120.0, metavar="S", help="seconds until a simulator counts as hanging")
    add("--render", metavar="NAME", help="refuse a policy that was trained on pictures rendered otherwise")

    add = parser.add_argument_group("what is kept").add_argument
    add("--log_dir", type=Path, metavar="FOLDER", help="of results and videos (default: eval_logs/<run name>)")
    add("--save_video", choices=("all", "failures", "none"), default="all", help="of which episodes")
    rate = f"{simulator.description.control_hz:g} steps are a second"
    add("--video_every", type=int, default=4, metavar="N", help=f"steps between two frames of a video ({rate})")
    add(
        "--save_all_data",
        action="store_true",
        help="keep all that was seen, answered and done, an HDF5 file per episode",
    )
    return parser


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """A group of options for `load_policy`, see `check_policy_arguments`."""
    add = parser.add_argument_group("the policy").add_argument
    add(
        "--model_path",
        required=True,
        help="run folder (its last checkpoint), step or model folder; OWNER/NAME[@REVISION] of the Hugging Face hub; "
        "or ws://host:port",
    )
    add("--device", help="where it computes: cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    add("--dtype", choices=("float32", "bfloat16"), help="of the weights that answer (default: as they were trained)")
    add("--torch_compile", action=Switch, help="minutes at the start, then sooner answers (default: no)")
    add("--policy_batch", type=int, metavar="B", help="observations that are answered together (default: the device's)")
    add(
        "--generate_temperature",
        type=float,
        metavar="T",
        help="how much chance there is in answers: of texts default 0, none; of a flow default 1, as in training",
    )
    add(
        "--drafts",
        action=Switch,
        help="guess parts of a text and check them together: the same answers, sooner (default: yes)",
    )
    add("--api_key_file", type=Path, metavar="FILE", help="key of a served policy (default: that in VLA0_API_KEY)")


def add_agent_arguments(parser: argparse.ArgumentParser, title: str) -> None:
    """A group of options for `agent_settings`."""
    add = parser.add_argument_group(title).add_argument
    add("--action_horizon", type=int, metavar="N", help="actions executed of an answer before the next; 0: all")
    add("--ensemble_prediction", type=int, metavar="M", help="average what M answers say of the same moment; 1: none")
    add("--ensemble_version", type=int, choices=(1, 2), help="1: older answers weigh the same; 2: they fade")
    add(
        "--ensemble_weight",
        type=float,
        metavar="W",
        help="of older answers. version 1: of each (1: the plain mean); version 2: to the power of its age",
    )
    add(
        "--allow_no_overlap", action="store_true", help="run though answers do not overlap, so that nothing is averaged"
    )


def check_policy_arguments(args: argparse.Namespace) -> None:
    """BadInput for what contradicts where the policy runs."""
    served = args.model_path.startswith(SERVED)
    if args.api_key_file and not served:
        raise BadInput(f"--api_key_file is for a served policy, not for {args.model_path}")
    given = [name for name in OF_THE_POLICY if getattr(args, name) is not None]
    if served and given:
        raise BadInput(f"--{given[0]} is decided where the policy is served, not for {args.model_path}")


def ask_in_wordings(args: argparse.Namespace, episodes: "list[Episode]") -> tuple["list[Episode]", str | None]:
    """The episodes as --wordings has them asked, and what their results say of that (None: nothing)."""
    if args.wordings is None:
        return episodes, None
    from libs.wordings import read_wordings
    from rv_eval.playing.requests import reword, wordings_setting, words_of

    wordings = read_wordings(args.wordings, dict.fromkeys(episode.task.instruction for episode in episodes))
    own = dict.fromkeys(wordings, ())
    known = words_of(own) | words_of(read_wordings(args.trained_wordings))
    return reword(episodes, wordings, known), wordings_setting(args.wordings)


def run_evaluation(
    args: argparse.Namespace,
    simulator: "Simulator",
    ask: Ask = ask_in_wordings,
    policy: "Answering | None" = None,
    make_agent: Callable[..., Any] | None = None,
    more: dict | None = None,
) -> list[dict]:
    """Evaluate the policy of `args` and print the table; ends the program where it cannot go on.

    ask: what is asked in the planned episodes, and what their results say of that. policy: that of `args`, where it is
    loaded already. make_agent: see Rollout (default: a ChunkAgent). more: goes into every record. Returns the records.
    """
    from rv_eval.agent import ChunkAgent
    from rv_eval.picture_sizes import shape_remark
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
    about, tasks = simulator.description, simulator.choose_tasks(args)
    episodes = plan_episodes(tasks, args.episodes, args.seed, args.num_steps, about.num_settle_steps)
    episodes, instructions = ask(args, episodes)
    shard_episodes(episodes, args.shard_id, args.num_shards)  # refuses numbers that cannot be
    prepared = simulator.prepare()

    policy = policy or load_policy(args)
    policy.check_environment(about.views, about.action_dim, args.render or policy.render, about.proprio)
    shown = dict.fromkeys(policy.views, (policy.resolution, policy.resolution))
    if policy.pictures and (remark := shape_remark(policy.pictures, shown, "the environment")):
        print(f"warning: {remark}", file=sys.stderr)
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
        make_agent=make_agent or ChunkAgent,
    )
    settings = {"num_envs": args.num_envs, **prepared}
    settings |= more or {}
    settings |= {"instructions": instructions} if instructions else {}
    provenance = describe_run(policy, args.model_path, simulator, settings)
    make_env = functools.partial(simulator.make, resolution=policy.resolution, render=policy.render)
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


def load_policy(args: argparse.Namespace) -> "Answering":
    """The policy of --model_path, loaded here or served elsewhere."""
    if args.model_path.startswith(SERVED):
        from rv_eval.serving.protocol import PolicyLost, read_api_key
        from rv_eval.serving.remote_policy import RemotePolicy

        try:
            waits = functools.partial(print, file=sys.stderr, flush=True)
            return RemotePolicy(args.model_path, read_api_key(args.api_key_file), wait_s=SERVER_WAIT_S, report=waits)
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
        dtype=args.dtype,
    )
    if policy.device.type == "cpu":
        torch.set_num_threads(1)  # the simulators need the other cores
    return policy


def agent_settings(args: argparse.Namespace, preset: "AgentSettings") -> "AgentSettings":
    """The preset with what the command line says instead."""
    given = {
        "n_action_steps": args.action_horizon,
        "ensemble_size": args.ensemble_prediction,
        "ensemble_version": args.ensemble_version,
        "ensemble_weight": args.ensemble_weight,
        "allow_no_overlap": args.allow_no_overlap,
    }
    return dataclasses.replace(preset, **{name: value for name, value in given.items() if value is not None})


def run_name(model_path: Path | str) -> str:
    """The name of the run that a run, step or model folder belongs to, or of the policy on the hub that it is of."""
    if is_hub_id(model_path):
        return split_id(str(model_path))[0].partition("/")[2]
    path = Path(model_path).resolve()
    if cached := name_of_cached(path):
        return cached
    while path.name in ("model", "last") or path.name.startswith("step_"):
        path = path.parent
    return path.name
