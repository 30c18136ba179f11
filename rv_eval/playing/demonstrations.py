"""Demonstrations of an environment that lives elsewhere, by its own expert: what is seen, what the expert would do.

Some are pushed off their way in bursts, and the expert is asked all the same: so a policy sees how to come back. An
attempt depends on its number and the settings only, and nothing begins where an evaluation begins.
"""

import contextlib
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from libs.demo_hdf5 import DemoFile, EpisodeWriter
from libs.demo_hdf5.schema import json_object
from libs.errors import BadInput
from libs.jobs import held_folder
from rv_eval.envs.base import Description, Episode, Reply, WorkerFailure
from rv_eval.envs.remote import RemoteEnvironment, RemoteSimulator
from rv_eval.envs.remote_messages import RemoteTask
from rv_eval.playing.rollout import MAX_INCIDENTS, START_TIMEOUT_S

if TYPE_CHECKING:
    from libs.demo_hdf5 import episodes

ATTEMPTS_PER_DEMO = 5  # an expert that succeeds more rarely is no help
AFTER_SUCCESS = 5  # steps that are still recorded: at its edge the goal is not reached yet
PUSH_CHANCE = 0.04  # of a burst to begin, per step
PUSH_STEPS = (3, 12)  # its length with the step of rest behind it, the upper one excluded: 2 to 10 steps are pushed
FIRST_DRAWN, LAST_DRAWN = 10**6, 2**31  # init states: far from an evaluation's
# Brings an environment from the reply of its beginning to where the expert begins: (its reply there, with every view;
# steps that are gone). NoDemo: there is nothing left to show.
Begin = Callable[[Reply], tuple[Reply, int]]


class NoDemo(Exception):
    """The expert did not succeed."""


@dataclass(frozen=True)
class DemoSettings:
    """Everything a demonstration depends on but its task and number. pushed: share of the attempts that are pushed off
    their way; push: {part of an action: how far at most, in its units}. versions: of the simulator's packages."""

    environment: str
    resolution: int
    render: str
    seed: int
    pushed: float = 0.0
    push: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskRecorder:
    """Records `num_demos` demonstrations of a task into out/NAME, an `EpisodeWriter`'s folder; called again it goes on.

    command: starts an environment. timeout_s: an answer that takes longer is a hang. BadInput: the folder holds others,
    another process records there, or the expert hardly ever succeeds. RuntimeError: the environment fails again and
    again.
    """

    command: str
    out: Path
    settings: DemoSettings
    num_demos: int
    timeout_s: float = 60.0

    def __call__(self, task: RemoteTask) -> None:
        in_use = f"{self.out / task.name} is in use: another process collects there"
        with held_folder(self.out / task.name, in_use), RemoteSimulator(command=self.command) as simulator:
            about = simulator.description
            cameras, rate = about.views, about.control_hz
            writer = EpisodeWriter(self.out / task.name, cameras, about.proprio, about.action_dim, rate)
            done, attempt = self.kept(writer, task)
            env: RemoteEnvironment | None = None
            incidents = 0
            try:
                while done < self.num_demos:
                    if attempt >= ATTEMPTS_PER_DEMO * self.num_demos:
                        raise BadInput(f"the expert of {task.name} succeeded only {done} times in {attempt} attempts")
                    try:
                        env = env or simulator.make(task, self.settings.resolution, self.settings.render)
                        done += self._attempt(env, writer, attempt)
                        attempt, incidents = attempt + 1, 0
                    except WorkerFailure as error:
                        if env is not None:
                            env.close()
                        env, incidents = None, incidents + 1
                        if incidents > MAX_INCIDENTS:
                            raise RuntimeError(
                                f"{task.name}, attempt {attempt}: the environment failed: {error}"
                            ) from error
            finally:
                if env is not None:
                    env.close()

    def takeover(self, env: RemoteEnvironment, rng: np.random.Generator) -> Begin | None:
        """What begins the next attempt: nothing but the environment."""
        return None

    def kept(self, writer: EpisodeWriter, task: RemoteTask) -> tuple[int, int]:
        """(demonstrations that are there, the attempt to go on with). BadInput: they are others."""
        paths = writer.paths()
        if not paths:
            return 0, 0
        attrs = DemoFile(paths[-1], writer.key_map).attrs
        found = json_object(attrs, "collection")
        if found != asdict(self.settings):
            raise BadInput(f"{writer.folder} was collected with {found}: choose another --out")
        if (suite := attrs.get("suite", task.suite)) != task.suite:  # those from before do not say
            raise BadInput(f"{writer.folder} was collected of suite {suite}, not {task.suite}: choose another --out")
        return len(paths), int(attrs["attempt"]) + 1

    def _attempt(self, env, writer, number):
        """Whether it succeeded; then it is in the folder."""
        attrs = {"collection": json.dumps(asdict(self.settings)), "attempt": number}
        attrs |= {"render": self.settings.render, "resolution": self.settings.resolution, "suite": env.task.suite}
        rng = np.random.default_rng([self.settings.seed, zlib.crc32(env.task.name.encode()), number])
        init_state, settle = int(rng.integers(FIRST_DRAWN, LAST_DRAWN)), env.description.num_settle_steps
        episode = Episode(env.task, init_state, self.settings.seed, env.task.max_steps, settle)
        with contextlib.suppress(NoDemo), writer.episode(env.task.instruction, attrs) as demo:
            pushes = Pushes(env.description, self.settings.push, rng)
            pushed = rng.random() < self.settings.pushed
            record_expert(env, episode, demo, pushes if pushed else None, self.timeout_s, self.takeover(env, rng))
            return True
        return False


def record_expert(
    env: RemoteEnvironment,
    episode: Episode,
    demo: "episodes.Episode",
    pushes: "Pushes | None",
    timeout_s: float,
    begin: Begin | None = None,
) -> None:
    """Let the environment's expert play an episode into `demo`, from where `begin` leaves it; NoDemo: it did not
    succeed."""
    views, gone = env.description.views, 0
    env.begin(episode, views)
    reply, left = env.wait(timeout_s + START_TIMEOUT_S), AFTER_SUCCESS
    if begin is not None:
        reply, gone = begin(reply)
    for _ in range(episode.max_steps - gone):
        left -= reply.success
        if left < 0:
            return
        action = env.ask_expert(timeout_s)
        demo.add(reply.observation["views"], reply.observation["proprio"], action)
        env.act(action if pushes is None else action + pushes.next(), views)
        reply = env.wait(timeout_s)
    if left == AFTER_SUCCESS and not reply.success:
        raise NoDemo(f"no success within {episode.max_steps} steps")


class Pushes:
    """What is added to an expert's actions: nothing, or for a while the same random push."""

    def __init__(self, about: Description, push: dict[str, float], rng: np.random.Generator) -> None:
        self._most = np.concatenate([np.full(part.size, push.get(part.name, 0.0)) for part in about.actions])  # (A,)
        self._rng, self._push, self._left = rng, np.zeros_like(self._most), 0

    def next(self) -> np.ndarray:
        """(A,) for the next step."""
        if self._left == 0 and self._rng.random() < PUSH_CHANCE:
            self._push, self._left = self._rng.uniform(-self._most, self._most), self._rng.integers(*PUSH_STEPS)
        self._left = max(0, self._left - 1)
        return self._push if self._left else np.zeros_like(self._most)
