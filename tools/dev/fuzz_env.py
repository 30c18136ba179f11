"""What tools/dev/fuzz_server.py --env_command does to the two ends of an environment's wire.

The environment's end: attackers send requests that are broken, huge, pickled and rude to one that was started by the
command, while somebody honest plays the same episode again and again and must see the same to the bit. Our end: answers
with anything in the place of anything must be taken, or refused as what they are.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from libs.errors import BadInput
from rv_eval.envs.base import Description, Episode, WorkerFailure
from rv_eval.envs.remote import RemoteSimulator
from rv_eval.envs.remote_line import StartedServer
from rv_eval.envs.remote_messages import PROTOCOL, RemoteTask, read_action, read_greeting, read_reply, unpack
from rv_eval.serving import wire
from tools.dev import fuzz_attacks
from tools.dev.fuzz_attacks import MANNERS, Target, misbehave, send_messages

SIDE, STEPS, TIMEOUT_S = 32, 5, 60.0
ATTACKERS = 8  # at a time: one of them has the connection, the others are sent away
MESSAGES = (
    *(fuzz_attacks.valid, fuzz_attacks.random_bytes, fuzz_attacks.truncated, fuzz_attacks.bit_flips),
    *(fuzz_attacks.huge_declared, fuzz_attacks.huge_real, fuzz_attacks.wrong_dtype, fuzz_attacks.pickled),
    *(fuzz_attacks.deep, fuzz_attacks.huge_map, fuzz_attacks.wrong_shape, fuzz_attacks.text_frame),
    fuzz_attacks.fragments,
)
RUDE = tuple(attack for attack in MANNERS if attack is not fuzz_attacks.episodes)


class EnvTarget(Target):
    """An environment, to attackers that were made for policies."""

    def observation(self, rng: np.random.Generator) -> dict:
        """A valid request."""
        about, tasks = self.metadata["about"], self.metadata["tasks"]
        task, views = tasks[rng.integers(len(tasks))], list(about.views)
        make = {"suite": task.suite, "task_id": task.task_id, "resolution": SIDE, "render": self.metadata["render"]}
        requests: list[dict[str, Any]] = [
            {"do": "make", **make},
            {"do": "begin", "init_state": int(rng.integers(100)), "seed": 7, "settle": 0, "views": views},
            {"do": "act", "action": rng.normal(size=about.action_dim), "views": views[:1]},
            {"do": "expert"},
        ]
        return requests[rng.integers(len(requests))]

    def with_picture(self, rng: np.random.Generator, picture: Any) -> dict:
        return {"do": "act", "action": picture, "views": []}


class Played:
    """Somebody honest: the same episode again and again, which must be the same to the bit."""

    def __init__(self, url: str, render: str) -> None:
        self.url, self.render, self.times = url, render, 0
        self.right = self.play()

    def play(self) -> list[dict[str, bytes]]:
        """Pictures and state of every step."""
        with RemoteSimulator([self.url]) as simulator:
            task, views = simulator.tasks[0], simulator.description.views
            env = simulator.make(task, SIDE, self.render)
            try:
                env.begin(Episode(task, 1, 7, STEPS), views)
                for step in range(STEPS):
                    env.act(np.full(simulator.description.action_dim, 0.1 * step), views)
                replies = [env.wait(TIMEOUT_S) for _ in range(STEPS + 1)]
            finally:
                env.close()
        self.times += 1
        seen = [(reply.observation["views"], reply.observation["proprio"]) for reply in replies]
        return [{name: values.tobytes() for group in both for name, values in group.items()} for both in seen]

    def problem(self) -> str | None:
        """Play; what was not as it was before."""
        try:
            return None if self.play() == self.right else "the same episode is another one"
        except (BadInput, WorkerFailure) as error:
            return f"an honest evaluation fails: {error}"


def fuzz_env(command: str, render: str, folder: Path, seconds: float, seed: int) -> list[str]:
    """Both attacks and their tables; returns what is not as it should be."""
    server = StartedServer(command)
    try:
        while (url := server.address()) is None:
            time.sleep(0.1)
        with RemoteSimulator([url]) as simulator:
            about, tasks = simulator.description, simulator.tasks
        honest = Played(url, render)
        metadata = {"about": about, "tasks": tasks, "render": render, "views": (), "resolution": SIDE}
        target = EnvTarget(url, None, metadata, str(folder / "unpickled"))
        problems = attack_environment(target, honest, server.pid, 0.8 * seconds, seed)
    finally:
        server.close()
    if Path(target.marker).exists():
        problems.append("a pickle was loaded")
    return problems + attack_readers(about, tasks[0], 0.2 * seconds, seed)


def attack_environment(target: EnvTarget, honest: Played, pid: int, seconds: float, seed: int) -> list[str]:
    """Messages and manners, to the environment with this process."""
    rng, memory = np.random.default_rng(seed), [memory_mb(pid)]
    tallies: dict[str, Counter] = {}
    kinds: tuple[Callable[..., Any], ...] = (*MESSAGES, *RUDE)

    async def volley():
        chosen = [kinds[rng.integers(len(kinds))] for _ in range(ATTACKERS)]
        streams = rng.spawn(ATTACKERS)
        runs = [
            (send_messages if kind in MESSAGES else misbehave)(kind, stream, target)
            for kind, stream in zip(chosen, streams, strict=True)
        ]
        for kind, tally in zip(chosen, await asyncio.gather(*runs), strict=True):
            tallies.setdefault(kind.__name__, Counter()).update(tally)

    began, problems = time.monotonic(), []
    while time.monotonic() - began < seconds and not problems:
        asyncio.run(volley())
        if problem := honest.problem():
            problems.append(problem)
        if len(memory) == 1 and time.monotonic() - began > seconds / 3:
            memory.append(memory_mb(pid))
    memory.append(memory_mb(pid))
    for kind, tally in sorted(tallies.items()):
        print(f"{kind:<16}" + "  ".join(f"{count} {name}" for name, count in tally.items()))
    print(
        f"honest evaluations: {honest.times}; memory of the environment: {', '.join(f'{mb:.0f} MB' for mb in memory)}"
    )
    if memory[-1] - memory[min(1, len(memory) - 2)] > 32:
        problems.append("the environment grew by more than 32 MB after the warm-up")
    if any(tally["no answer"] for tally in tallies.values()):
        problems.append("a request got no answer")
    return problems


def attack_readers(about: Description, task: RemoteTask, seconds: float, seed: int) -> list[str]:
    """Answers that lie, to what reads them here."""
    rng, tally = np.random.default_rng(seed), Counter()
    views = about.views
    pictures = {view: np.zeros((SIDE, SIDE, 3), np.uint8) for view in views}
    proprio = {part: np.zeros(size) for part, size in about.proprio.items()}
    told = {"views": pictures, "proprio": proprio, "success": False, "facts": {"distance": 0.1}}
    parts = [{"name": part.name, "size": part.size, "levels": None} for part in about.actions]
    hello: dict[str, Any] = {"protocol": PROTOCOL, "name": about.name, "benchmark": about.benchmark}
    hello["views"] = list(views)
    hello |= {"proprio": about.proprio, "actions": parts, "control_hz": 5.0, "num_settle_steps": 0, "expert": True}
    hello |= {"reported_render": None, "versions": {}, "drawn_by": {}, "tasks": [asdict(task)]}
    readers = (
        (hello, read_greeting),
        (told, lambda message: read_reply(message, about, "do it", views, SIDE)),
        ({"action": np.zeros(about.action_dim)}, lambda message: read_action(message, about)),
    )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        whole, read = readers[rng.integers(len(readers))]
        data = bytearray(wire.pack(changed(whole, rng), wire.Form.TEXT_KEYS))
        if rng.random() < 0.3:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        if rng.random() < 0.1:
            data = data[: rng.integers(len(data))]
        try:
            read(unpack(bytes(data)))
            tally["taken"] += 1
        except (BadInput, WorkerFailure) as error:
            tally[type(error).__name__] += 1
        except Exception as error:
            return [f"an answer is not refused but fails: {type(error).__name__}: {error}"]
    print("answers that lie: " + ", ".join(f"{count} {name}" for name, count in tally.items()))
    return []


def changed(tree: Any, rng: np.random.Generator) -> Any:
    """The tree with anything in the place of something in it, mostly."""
    if rng.random() < 0.2 or not isinstance(tree, dict | list) or not tree:
        return anything(rng) if rng.random() < 0.7 else tree
    tree = dict(tree) if isinstance(tree, dict) else list(tree)
    place = list(tree)[rng.integers(len(tree))] if isinstance(tree, dict) else int(rng.integers(len(tree)))
    if isinstance(tree, dict) and rng.random() < 0.2:
        del tree[place]
    else:
        tree[place] = changed(tree[place], rng)
    return tree


def anything(rng: np.random.Generator) -> object:
    """Something that the wire can carry."""
    several: list[object] = [None, True, -1, 0, 2**62, 1e300, float("nan"), "", "x" * 3000, "../x", b"\x00"]
    several += [[], {}, [[]], {"a": {}}]
    several += [np.zeros(3, np.float16), np.full(4, np.nan), np.zeros((2, 2), np.uint8), np.float64(1), ["a", "a"]]
    return several[rng.integers(len(several))]


def memory_mb(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
