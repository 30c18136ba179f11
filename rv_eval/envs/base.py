"""What the rollout needs of an environment, whatever simulator is behind it."""

from dataclasses import dataclass
from typing import Any, Protocol


class WorkerFailure(RuntimeError):
    """The process behind an environment crashed or hung. Its episode says nothing about the policy."""


class CannotStart(WorkerFailure):
    """The environment's process says that its simulator cannot be made, and why."""


@dataclass(frozen=True)
class Episode:
    """One episode to run. `task` has suite, task_id, name and instruction; init_state is an index."""

    task: Any
    init_state: int
    seed: int
    max_steps: int
    num_settle_steps: int = 10


@dataclass(frozen=True)
class Reply:
    """The answer to one `begin` or `act`: the observation after it and whether the goal is reached."""

    observation: dict
    success: bool


class EpisodeEnv(Protocol):
    """An environment of one task in a process of its own. `begin` and `act` return at once and may be queued;
    replies come in order. Every method may raise WorkerFailure."""

    task: Any

    def begin(self, episode: Episode, views: tuple[str, ...]) -> None:
        """Reset to the episode's init state and let it settle; the reply holds pictures of `views`."""

    def act(self, action, views: tuple[str, ...]) -> None:
        """One action (A,); the reply holds pictures of `views` taken after it."""

    def fileno(self) -> int:
        """For select and multiprocessing.connection.wait: readable when something arrived."""

    def receive(self) -> Reply | None:
        """Read what arrived: call when readable. None: not yet a whole reply."""

    def close(self) -> None:
        """End the process, hanging or not. Never raises."""
