"""LIBERO episodes for the rollout: a simulator process per environment, requests queued, replies in order."""

from collections import deque

from libs.libero_sim import (
    ACTION_DIM,
    VIEWS,
    LiberoTask,
    SimCrash,
    SimProcess,
    SimTimeout,
    init_states,
    prepare_gl,
)
from rv_eval.envs.base import Episode, Reply, WorkerFailure

__all__ = ["ACTION_DIM", "VIEWS", "LiberoEpisodeEnv", "headless_gl"]


class LiberoEpisodeEnv:
    """An EpisodeEnv (see base.py) of one LIBERO task in a child process.

    resolution: pixels on each side. render: a key of libs.libero_sim.RENDER_SETTINGS. The simulator starts in
    the background, so the first reply is some 10 s late. ValueError: the task has no init states.
    """

    PROCESS = SimProcess  # a subclass may put one derived from it in its place

    def __init__(self, task: LiberoTask, resolution: int, render: str):
        self.task = task
        self._init_states = init_states(task)
        self._unanswered = deque()  # methods, in the order of their replies
        self._process = self.PROCESS(task, resolution=resolution, render=render)

    def begin(self, episode: Episode, views: tuple[str, ...]) -> None:
        self._send("reset", episode.seed, self._init_states[episode.init_state])
        self._send("settle", episode.num_settle_steps, views)

    def act(self, action, views: tuple[str, ...]) -> None:
        self._send("step", action, views)

    def fileno(self) -> int:
        return self._process.fileno()

    def receive(self) -> Reply | None:
        try:
            answer = self._process.recv()
        except (SimCrash, SimTimeout) as error:
            raise WorkerFailure(str(error)) from error
        request = self._unanswered.popleft()
        if request == "reset":
            return None
        return Reply(answer, False) if request == "settle" else Reply(*answer)

    def close(self) -> None:
        if self._unanswered:  # crashed, hanging, or busy with what nobody waits for any more
            self._process.kill()
        else:
            self._process.close()

    def _send(self, method: str, *arguments) -> None:
        try:
            self._process.send(method, *arguments)
        except (SimCrash, SimTimeout) as error:
            raise WorkerFailure(str(error)) from error
        self._unanswered.append(method)


def headless_gl() -> str:
    """The OpenGL backend that simulator processes started from here will use. SimulatorMissing: there is none."""
    return prepare_gl()
