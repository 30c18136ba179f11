"""Serve a checkpoint to robots and evaluations: openpi's websocket protocol, see rv_eval/serving/protocol.py.

    python tools/serve_policy.py --model_path checkpoints/quickstart --port 8000

Answers openpi-client, vla-eval (configs/vla_eval), and `tools/eval_libero.py --model_path ws://127.0.0.1:8000`,
eval_stack.py or run_robot.py; docs/serving.md has clients in other languages. GET /healthz says whether it is alive,
and "loading" until the model is there: clients that come before wait. An API key comes from the environment variable
VLA0_API_KEY or a file, never from the command line.
Ctrl-C or SIGTERM ends it. The server remembers nothing between observations: executed horizon and ensembling are the
client's; for vla-eval alone, whose clients want one action at a time, they are the server's.
"""

import argparse
import functools
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from libs.cli import Parser, Switch, cli_errors
from libs.errors import BadInput
from rv_eval.serving.port import take_port
from tools.evaluation import add_agent_arguments, agent_settings

if TYPE_CHECKING:
    from rv_eval.agent import AgentSettings, Answering
    from rv_eval.policy import Policy
    from rv_eval.serving.serve import ServerLimits


GRACE_S = 5.0  # for the batch that is being computed when the server is told to end


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--model_path",
        required=True,
        help="run folder (its last checkpoint), step folder or model folder; or OWNER/NAME[@REVISION] of the hub",
    )
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: every one of this machine")
    add("--port", type=int, default=8000, help="to listen at; 0: any that is free")
    add(
        "--api_key_file",
        type=Path,
        metavar="FILE",
        help="key that clients must have (default: that in VLA0_API_KEY; without: anyone may ask)",
    )
    add("--device", help="where it computes: cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    add("--threads", type=int, default=1, help="on a CPU; 1 answers exactly as tools/eval_libero.py does")
    add("--dtype", choices=("float32", "bfloat16"), help="of the weights that answer (default: as they were trained)")
    add("--torch_compile", action=Switch, default=False, help="minutes at the start, then sooner answers (default: no)")
    add(
        "--drafts",
        action=Switch,
        default=True,
        help="guess parts of a text and check them together: the same answers, sooner",
    )
    add("--policy_batch", type=int, metavar="B", help="observations that are answered together (default: the device's)")
    add(
        "--generate_temperature",
        type=float,
        metavar="T",
        help="how much chance there is in answers: of texts default 0, none; of a flow default 1, as in training",
    )
    add("--max_clients", type=int, default=64, metavar="N", help="connections at the same time")
    add(
        "--batch_wait_ms",
        type=float,
        default=5.0,
        metavar="MS",
        help="milliseconds that an observation waits for others to be answered with it",
    )
    add(
        "--idle_timeout",
        type=float,
        default=3600.0,
        metavar="S",
        help="seconds after which a silent client is sent away",
    )
    add_agent_arguments(parser, "how chunks are executed for vla-eval's clients (default: as the policy's recipe says)")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.threads < 1:
        raise BadInput(f"--threads must be at least 1, got {args.threads}")
    with take_port(args.host, args.port) as taken:
        # Only now what takes time to import: whoever comes meanwhile waits, nobody is refused.
        import asyncio

        from rv_eval.serving.protocol import read_api_key
        from rv_eval.serving.serve import ServerLimits

        limits = ServerLimits(args.max_clients, args.batch_wait_ms / 1000, args.idle_timeout)
        api_key = read_api_key(args.api_key_file)
        executed = functools.partial(agent_settings, args)
        idle = asyncio.run(serve(limits, api_key, taken, functools.partial(load_policy, args), executed))
    if not idle:
        os._exit(0)  # the policy's thread cannot be ended, and the interpreter would wait for it


def load_policy(args: argparse.Namespace) -> "Policy":
    """The policy, warm: the first client must not wait for what is compiled or allocated at the first call."""
    import numpy as np
    import torch

    from rv_eval.policy import Policy

    policy = Policy.from_checkpoint(
        args.model_path,
        args.device,
        args.torch_compile,
        batch_rows=args.policy_batch,
        temperature=args.generate_temperature,
        drafts=args.drafts,
        dtype=args.dtype,
    )
    if policy.device.type == "cpu":
        torch.set_num_threads(args.threads)
    assert policy.pictures is not None, "a model says how its pictures were made"
    proprio = {part: np.zeros(size, np.float32) for part, size in policy.proprio.items()}
    views = {view: np.zeros((*size, 3), np.uint8) for view, size in policy.pictures["cameras"].items()}
    for words in (2, 60):  # prompts of two padded lengths, each is compiled by itself
        policy.predict([{"views": views, "proprio": proprio, "instruction": "wait " * words, "random_key": (0,)}])
    return policy


def ready_line(policy: "Answering") -> str:
    about = policy.describe()
    return (
        f"{about['model_folder']}: {policy.horizon} x {policy.action_dim} actions from {', '.join(policy.views)}, "
        f"batches of {about['batch_rows']} on {about['device']}, temperature {about['temperature']:g}, "
        f"fingerprint {about['model_fingerprint'][:12]}"
    )


async def serve(
    limits: "ServerLimits",
    api_key: str | None,
    taken: socket.socket,
    load: "Callable[[], Policy]",
    executed: "Callable[[AgentSettings], AgentSettings] | None" = None,
) -> bool:
    """Serve what `load()` returns until SIGINT or SIGTERM; False where the policy is still busy or loading then.

    taken: see `take_port`. executed: see PolicyServer. A second signal ends the process at once.
    """
    import asyncio

    from rv_eval.serving.serve import PolicyServer

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal():
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    server = PolicyServer(None, limits, api_key, executed=executed)
    address = await server.start(taken)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    stopped = asyncio.create_task(stop.wait())
    loading = asyncio.create_task(server.load(load))
    await asyncio.wait({stopped, loading}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        try:
            about = ready_line(loading.result())
        except BaseException:
            await server.close(reason="the policy cannot be loaded")
            raise
        if not server.needs_key and not ipaddress.ip_address(taken.getsockname()[0]).is_loopback:
            print(f"warning: anyone who reaches {address} can use this policy: no API key is set", file=sys.stderr)
        print(f"serving {address} | {about}", flush=True)
        await stopped
    print("stopping", flush=True)
    return await server.close(GRACE_S)


if __name__ == "__main__":
    main()
