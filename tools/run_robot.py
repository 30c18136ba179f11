"""Run a policy on a robot: docs/robots.md says how, and what to do first.

    python tools/run_robot.py --model_path checkpoints/RUN --robot ws://127.0.0.1:8010 --rate 30 \\
        --limits my_arm.json --instruction "put the cube into the box" --log logs/first.hdf5
    python tools/run_robot.py --model_path ws://gpu:8000 --robot my_robot.py --rate 30 --limits my_arm.json \\
        --instruction "put the cube into the box" --seconds 20

The next chunk is computed while the present one is executed; where an answer is late, lost or unreadable the robot
holds, and after --patience seconds the run ends. Ctrl-C holds and ends. The log is a demonstration file:
tools/diagnose.py and tools/inspect_demos.py read it with the key map that is written beside it.
Exit code: 0 all steps were done; 1 stopped before, with the reason, or no log could be written; 2 bad input; 130
interrupted.
"""

import argparse
import dataclasses
import importlib.util
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libs.cli import Parser, cli_errors
from libs.errors import BadInput
from libs.files import read_text
from rv_eval.splice import EXECUTIONS, SPLICE
from tools.evaluation import (
    SERVED,
    add_agent_arguments,
    add_policy_arguments,
    agent_settings,
    check_policy_arguments,
    load_policy,
)

if TYPE_CHECKING:
    from rv_eval.serving.robot import Robot, RobotResult
    from rv_eval.serving.robot_limits import Limits


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_policy_arguments(parser)
    add = parser.add_argument_group("the robot").add_argument
    add("--robot", required=True, help="ws://host:port, or a Python file with make_robot(): observe(), act(), hold()")
    add(
        "--limits",
        required=True,
        type=Path,
        help="JSON file: range of every number of an action, its largest change, and which numbers are rotations: "
        "others change number by number, which leads a quaternion or an angle at +-pi the long way round",
    )
    add("--rate", required=True, type=float, metavar="HZ", help="control steps a second, as in the training data")
    add("--instruction", required=True, help="what to do, in the words of the training data")
    add(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="then it ends; with --log pictures are kept in memory until then",
    )
    add("--snap_gripper", action="store_true", help="the last number of an action is -1 or +1, as in LIBERO's data")
    add("--log", type=Path, help="what was seen and done, a .hdf5 file that does not exist yet")
    add("--yes", action="store_true", help="begin at once, without waiting for Enter")

    add = parser.add_argument_group("while the next answer is computed").add_argument
    add(
        "--execution",
        choices=EXECUTIONS,
        default=SPLICE,
        help="sync: hold; else go on, and take the new answer from its first action (naive), from the one that is due "
        "(splice), or have the policy begin it with what is executed (prefix)",
    )
    add("--patience", type=float, default=3.0, metavar="S", help="an answer that takes longer ends the run")
    add(
        "--first_patience",
        type=float,
        default=60.0,
        metavar="S",
        help="the same of the first answer, which may take longer",
    )
    add_agent_arguments(parser, "how chunks are executed (default: as the policy's recipe says)")
    args = parser.parse_args(argv)
    check_policy_arguments(args)
    if args.policy_batch is None and not args.model_path.startswith(SERVED):
        args.policy_batch = 1  # there is one robot, and on a CPU every row costs
    return args


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from rv_eval.serving.remote_robot import RobotLost, RobotRefused
    from rv_eval.serving.robot import RobotLoop, RobotOptions, ThreadAsker, picture_remark
    from rv_eval.serving.robot_limits import Limits
    from rv_eval.serving.robot_log import RobotLog, check_log_path

    # Cheap checks first: a policy may take long to load.
    limits = Limits.load(args.limits)
    log_path = check_log_path(args.log) if args.log else None
    log = RobotLog() if log_path else None
    robot = connect_robot(args.robot)
    try:
        policy = load_policy(args)
        if args.model_path.startswith(SERVED):
            served: Any = policy  # a RemotePolicy
            served.timeout_s, served.reconnect_s = args.first_patience, args.patience
        options = RobotOptions(
            instruction=args.instruction,
            rate_hz=args.rate,
            max_steps=max(1, round(args.seconds * args.rate)) if args.seconds > 0 else 0,
            settings=agent_settings(args, policy.preset),
            execution=args.execution,
            snap_gripper=args.snap_gripper,
            patience_s=args.patience,
            first_patience_s=args.first_patience,
        )
        loop = RobotLoop(robot, policy, ThreadAsker(policy), options, limits, log)
        try:
            if remark := picture_remark(robot, policy):
                print(f"warning: {remark}", file=sys.stderr)
        except (RobotLost, RobotRefused) as error:
            raise BadInput(f"--robot: {error}") from error
        confirm(args, limits.of(policy.rotations))
        unwritten = ""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C: the robot holds
        try:
            loop.run()
        except (RobotLost, RobotRefused) as error:
            loop.result.reason = str(error)
        finally:
            signal.signal(signal.SIGTERM, before)
            if log and log_path:
                record = {"run": dataclasses.asdict(options), "result": dataclasses.asdict(loop.result)}
                record |= {"policy": policy.describe(), "limits": dataclasses.asdict(limits), "robot": args.robot}
                try:
                    if log.write(log_path, args.instruction, record):
                        print(f"log: {log_path}, key map {log_path.with_suffix('.json')}")
                except OSError as error:  # a full disk: what happened on the robot is told all the same
                    unwritten = f"the log could not be written: {error}"
                    print(f"error: {unwritten}", file=sys.stderr)
    finally:
        if hasattr(robot, "close"):
            robot.close()
    print(summary(loop.result))
    if not loop.result.done:
        print(f"error: stopped: {loop.result.reason}", file=sys.stderr)
    if unwritten or not loop.result.done:
        raise SystemExit(1)


def connect_robot(where: str) -> "Robot":
    """The robot at ws://host:port, or what `make_robot()` of a Python file returns. BadInput: there is none."""
    if where.startswith("ws"):
        from rv_eval.serving.remote_robot import RemoteRobot

        return RemoteRobot(where)
    path = Path(where)
    if path.suffix != ".py":
        raise BadInput(f"--robot {where}: ws://host:port, or a Python file (.py)")
    try:
        compile(read_text(path), path, "exec")
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"--robot {where} is not Python: {error}") from None
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a Python file that can be read"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "make_robot"):
        raise BadInput(f"--robot {where}: it has no function make_robot()")
    robot = module.make_robot()
    missing = [name for name in ("observe", "act", "hold") if not callable(getattr(robot, name, None))]
    if missing:
        raise BadInput(f"--robot {where}: what make_robot() returns has no {missing[0]}()")
    return robot


def confirm(args: argparse.Namespace, limits: "Limits") -> None:
    """Tell what will happen and wait for Enter."""
    change = "any change" if limits.max_change is None else f"changes of at most {list(limits.max_change)} per step"
    turns = limits.rotations
    known = f"as rotations ({turns.form}) those from {list(turns.dims)} on" if turns.dims else "each number by itself"
    print(f"{args.instruction!r} for {args.seconds:g} s at {args.rate:g} Hz; actions from {list(limits.low)}")
    print(f"to {list(limits.high)}, {change}; {known}", flush=True)
    if args.yes:
        return
    try:
        input("Hand on the power switch, nobody in reach of the arm? Enter begins, Ctrl-C ends. ")
    except EOFError:
        raise BadInput("nobody is there to press Enter: give --yes to begin without") from None


def summary(result: "RobotResult") -> str:
    late = (
        f"answers after {sorted(result.delays)[len(result.delays) // 2]} steps in the middle" if result.delays else ""
    )
    return (
        f"{result.steps} steps: {result.executed} actions, {result.limited} of them limited, {result.holds} holds; "
        f"{result.queries} questions, {result.refused} answers refused, {result.late} too late; "
        f"{result.missed} steps began late" + (f"; {late}" if late else "")
    )


if __name__ == "__main__":
    main()
