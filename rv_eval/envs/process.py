"""An environment in a simulator process of ours: requests queued, replies in order."""

import abc
from collections import deque
from typing import Any, ClassVar

import numpy as np

from libs.robosuite_sim import RemoteObject, SimCrash, SimStartFailed, SimTimeout
from rv_eval.envs.base import CannotStart, Description, Episode, Reply, Task, WorkerFailure


class ProcessEnvironment(abc.ABC):
    """An Environment (see base.py) around an object in a child process; a subclass says which, and how an episode
    begins.

    The object has `reset(*arguments)`, `settle(steps, views) -> observation`, `step(action, views) -> (observation,
    success)` or (observation, success, facts), see Reply, and `close()`. It is made in the background, so the first
    reply is some seconds late.
    """

    description: ClassVar[Description]

    def __init__(self, task: Task, process: RemoteObject) -> None:
        self.task = task
        self._unanswered: deque[str] = deque()  # methods, in the order of their replies
        self._process = process

    @abc.abstractmethod
    def reset_arguments(self, episode: Episode) -> tuple:
        """The arguments of the object's `reset` for an episode."""

    def begin(self, episode: Episode, views: tuple[str, ...]) -> None:
        self._send("reset", *self.reset_arguments(episode))
        self._send("settle", episode.num_settle_steps, views)

    def act(self, action: np.ndarray, views: tuple[str, ...]) -> None:
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

    def _send(self, method: str, *arguments: Any) -> None:
        try:
            self._process.send(method, *arguments)
        except (SimCrash, SimTimeout) as error:
            raise WorkerFailure(str(error)) from error
        self._unanswered.append(method)
