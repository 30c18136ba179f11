"""An environment in a simulator process: requests queued, replies in order."""

import abc
from collections import deque

from libs.libero_sim import Graphics, SimCrash, SimProcess, SimStartFailed, SimTimeout, tell_gl
from rv_eval.envs.base import CannotStart, Episode, Reply, WorkerFailure


class ProcessEpisodeEnv(abc.ABC):
    """An EpisodeEnv (see base.py) of one task in a child process; a subclass says how an episode begins.

    resolution: pixels on each side. render: a key of libs.libero_sim.RENDER_SETTINGS. The simulator starts in
    the background, so the first reply is some seconds late.
    """

    PROCESS = SimProcess  # a subclass may put one derived from it in its place

    def __init__(self, task, resolution: int, render: str):
        self.task = task
        self._unanswered = deque()  # methods, in the order of their replies
        self._process = self.PROCESS(task, resolution=resolution, render=render)

    @abc.abstractmethod
    def reset_arguments(self, episode: Episode) -> tuple:
        """The arguments of the simulator's `reset` for an episode."""

    def begin(self, episode: Episode, views: tuple[str, ...]) -> None:
        self._send("reset", *self.reset_arguments(episode))
        self._send("settle", episode.num_settle_steps, views)

    def act(self, action, views: tuple[str, ...]) -> None:
        self._send("step", action, views)

    def fileno(self) -> int:
        return self._process.fileno()

    def receive(self) -> Reply | None:
        try:
            answer = self._process.recv()
        except SimStartFailed as error:
            raise CannotStart(str(error)) from error
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


def headless_gl() -> Graphics:
    """What simulator processes started from here draw with. BadInput: nothing, or not what the environment says."""
    return tell_gl()
