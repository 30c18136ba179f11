"""Attack a policy server while honest clients work with it.

    python tools/dev/fuzz_server.py --model_path checkpoints/quickstart --seconds 60 --clients 50
    python tools/dev/fuzz_server.py --url ws://127.0.0.1:8000           # a server that runs already
    python tools/dev/fuzz_server.py --env_command "python docs/examples/serve_env.py" --render plain

Attackers send random bytes, truncated and flipped messages, huge and wrong arrays, pickles, deep and wide messages,
broken frames, half handshakes, pictures that lie, in the forms of all its clients; they flood, hang and leave.
Meanwhile honest clients, openpi-client where it is installed and one of vla-eval's form, ask the same questions again
and again. They must get the same answers to the bit, and at the end the server must be alive, free of the attackers, no
larger than after the warm-up (a third of the time) but for TOLERANCE_MB, and must have unpickled nothing and printed no
traceback. The server that is started here has an API key. The last command attacks both ends of the wire of an
environment that lives elsewhere, see tools/dev/fuzz_env.py.

Exit code: 0 all of that holds, 1 not, 2 bad input.
"""

import argparse
import asyncio
import http.client
import json
import os
import secrets
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from libs.cli import Parser, cli_errors
from libs.errors import BadInput

if TYPE_CHECKING:
    from tools.dev.fuzz_honest import HonestClient


ROOT = Path(__file__).resolve().parents[2]
TOLERANCE_MB = 64.0  # a worst case is far more: every message is a few MB, and there are 50 clients
START_TIMEOUT_S = 120.0


class ServerProcess:
    """tools/serve_policy.py on a free port, with an API key. RuntimeError: it does not start."""

    def __init__(self, model_path: Path | str, folder: Path) -> None:
        self.api_key = secrets.token_hex(16)
        self._log = folder / "server.log"
        command = [sys.executable, "-m", "tools.serve_policy", "--port", "0", "--policy_batch", "4", "--device", "cpu"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--model_path", str(Path(model_path).resolve())],
                cwd=ROOT,
                env={**os.environ, "VLA0_API_KEY": self.api_key},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout, "a pipe"
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(START_TIMEOUT_S) else ""
        if not line.startswith("serving ws://"):
            self.process.kill()
            raise RuntimeError(f"the server does not start: {self.printed()[-500:] or 'no word'}")
        self.url = line.split()[1]

    def printed(self) -> str:
        return self._log.read_text(errors="replace")

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> int:
        """Ends it as an operator would; returns its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            assert self.process.stdout, "a pipe"
            self.process.stdout.close()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--model_path", help="start a server of this checkpoint, and look into its process")
    where.add_argument("--url", help="attack this server; its memory and console are not seen")
    where.add_argument("--env_command", metavar="CMD", help="command that starts an environment; --child is added")
    parser.add_argument("--render", default="fast", help="a render setting of --env_command's")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--clients", type=int, default=50, help="attackers")
    parser.add_argument("--seed", type=int, default=0, help="of the attacks")
    parser.add_argument("--api_key_file", type=Path, help="key of --url (default: the environment's VLA0_API_KEY)")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.seconds <= 0 or args.clients < 1:
        raise BadInput(f"--seconds and --clients must be positive, got {args.seconds} and {args.clients}")
    from rv_eval.serving.protocol import read_api_key

    if args.model_path:
        from rv_train.checkpoint import find_model_folder

        # else its absence would stand in the server's console; and of the hub it is fetched here
        args.model_path = find_model_folder(args.model_path)
    if args.env_command:
        from tools.dev.fuzz_env import fuzz_env

        with tempfile.TemporaryDirectory(prefix="fuzz_env_") as folder:
            _end(fuzz_env(args.env_command, args.render, Path(folder), args.seconds, args.seed), "the environment")
        return
    with tempfile.TemporaryDirectory(prefix="fuzz_server_") as folder:
        server = ServerProcess(args.model_path, Path(folder)) if args.model_path else None
        try:
            url, key = (server.url, server.api_key) if server else (args.url, read_api_key(args.api_key_file))
            problems = fuzz(url, key, server, Path(folder), args.seconds, args.clients, args.seed)
        except RuntimeError as error:
            problems = [str(error)]
        finally:
            code = server.stop() if server else 0
        if code:
            problems.append(f"the server ended with exit code {code} at SIGTERM")
        if server and "Traceback" in server.printed():
            problems.append(f"the server printed a traceback: {server.printed()[-1000:]}")
    _end(problems, "the server")


def _end(problems, what):
    print("\n".join(f"FAILED: {problem}" for problem in problems) or f"\n{what} holds")
    if problems:
        raise SystemExit(1)


def fuzz(
    url: str, api_key: str | None, server: ServerProcess | None, folder: Path, seconds: float, clients: int, seed: int
) -> list[str]:
    """The attack and its table; returns what is not as it should be."""
    from rv_eval.serving.remote_policy import RemotePolicy
    from tools.dev.fuzz_attacks import Target, attack_until
    from tools.dev.fuzz_honest import HonestClient, openpi_asker, vla_eval_asker

    remote = RemotePolicy(url, api_key)
    metadata = remote.describe()
    remote.close()
    marker = folder / "unpickled"
    target = Target(url, api_key, metadata, str(marker))
    honest = [HonestClient(url, api_key, metadata, asker) for asker in (openpi_asker, vla_eval_asker)]
    memory = [("start", server.memory_mb())] if server else []
    tallies = {}

    async def attack():
        deadline = asyncio.get_running_loop().time() + seconds
        attackers = [
            asyncio.create_task(attack_until(deadline, seed, number, target, tallies)) for number in range(clients)
        ]
        await asyncio.sleep(seconds / 3)
        if server:
            memory.append(("after the warm-up", server.memory_mb()))
        await asyncio.gather(*attackers)

    print(f"{clients} attackers against {url} for {seconds:g} s, seed {seed}", flush=True)
    for client in honest:
        client.start()
    asyncio.run(attack())
    for client in honest:
        client.finish()
    problems: list[str] = [client.problem for client in honest if client.problem]
    health = wait_for_calm(url, len(honest))
    if server:
        memory.append(("end", server.memory_mb()))
        if memory[-1][1] - memory[1][1] > TOLERANCE_MB:
            problems.append(f"the server grew by more than {TOLERANCE_MB:g} MB after the warm-up")
    problems += [f"the honest client ({client.name}) got no answer" for client in honest if not client.latencies]
    if health is None:
        problems.append("/healthz does not answer")
    elif health["clients"] > len(honest):
        problems.append(f"{health['clients'] - len(honest)} attackers are still counted as clients")
    if marker.exists():
        problems.append("a pickle was loaded")
    print_table(tallies, honest, memory, health)
    return problems


def wait_for_calm(url: str, clients: int, seconds: float = 15.0) -> dict[str, Any] | None:
    """What /healthz says once only so many clients are left, or after so many seconds; None: nothing."""
    health, deadline = None, time.monotonic() + seconds
    while time.monotonic() < deadline and not (health and health["clients"] <= clients):
        connection = http.client.HTTPConnection(url.removeprefix("ws://"), timeout=10)
        try:
            connection.request("GET", "/healthz")
            health = json.loads(connection.getresponse().read())
        except ConnectionRefusedError:
            return None
        except (OSError, ValueError, http.client.HTTPException):
            health = None
        finally:
            connection.close()
        time.sleep(0.2)
    return health


def print_table(
    tallies: Mapping[str, Counter],
    honest: "Sequence[HonestClient]",
    memory: Sequence[tuple[str, float]],
    health: Mapping[str, Any] | None,
) -> None:
    from tools.dev.fuzz_attacks import OUTCOMES

    print(f"\n{'attack':<16}{'sent':>8}" + "".join(f"{name:>11}" for name in OUTCOMES))
    for kind in sorted(tallies):
        tally = tallies[kind]
        print(f"{kind:<16}{tally['sent']:>8}" + "".join(f"{tally[name] or '-':>11}" for name in OUTCOMES))
    total = sum(tally["sent"] for tally in tallies.values())
    print(f"{'all':<16}{total:>8}\n")
    for client in honest:
        for name, latencies in (("before", client.calm), ("during", client.latencies)):
            if latencies:
                middle, late, last = 1000 * np.quantile(latencies, [0.5, 0.95, 1.0])
                print(
                    f"honest client ({client.name}) {name} the attack: {len(latencies)} answers, "
                    f"{middle:.0f} ms in the middle, 95 % within {late:.0f} ms, the last within {last:.0f} ms"
                )
    print("memory of the server: " + (", ".join(f"{mb:.0f} MB {when}" for when, mb in memory) or "not seen"))
    print(f"/healthz: {json.dumps(health)}")


if __name__ == "__main__":
    main()
