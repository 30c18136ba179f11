"""What an evaluation needs of a simulator, and of a task and a running environment in it: written contracts.

A simulator is one file in this folder with an object that satisfies `Simulator`, named in one line of
rv_eval/envs/__init__.py; docs/adding_simulator.md leads through it. Nothing here knows where the simulation runs: in a
child process of ours, or in a program of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np


class WorkerFailure(RuntimeError):
    """The process behind an environment crashed or hung. Its episode says nothing about the policy."""


class CannotStart(WorkerFailure):
    """The environment's process says that its simulator cannot be made, and why."""


@dataclass(frozen=True)
class ActionPart:
    """Neighbouring numbers of an action that belong together, such as an arm's rotation or a gripper.

    levels: (low, high), of which the nearer one is executed: a gripper that opens or closes. None: any number is.
    """

    name: str
    size: int
    levels: tuple[float, float] | None = None


# OSC_POSE's six numbers, and the Panda's gripper: opened by -1, closed by +1.
PANDA_ACTIONS = (ActionPart("position", 3), ActionPart("rotation", 3), ActionPart("gripper", 1, (-1.0, 1.0)))


def snap(action: np.ndarray, parts: Sequence[ActionPart]) -> np.ndarray:
    """An action (A,) as it is executed, float64: parts with levels at the nearer one, at the lower where both are."""
    action, start = np.array(action, np.float64), 0
    for part in parts:
        numbers = slice(start, start + part.size)
        if part.levels is not None:
            low, high = part.levels
            action[numbers] = np.where(action[numbers] > (low + high) / 2, high, low)
        start = numbers.stop
    return action


@dataclass(frozen=True)
class Description:
    """What is always true of a simulator's environments.

    name: as in the registry. benchmark: what its results are called, "LIBERO". views: the cameras, the one for videos
    first. proprio: {part of the robot's state that an observation tells: numbers in it}. actions: the parts of an
    action, in order. control_hz: actions per second of the simulated time. num_settle_steps: steps without the policy
    at the beginning of an episode. reported_render: the render setting of everybody's results; None: there is none.
    """

    name: str
    benchmark: str
    views: tuple[str, ...]
    proprio: dict[str, int]
    actions: tuple[ActionPart, ...]
    control_hz: float
    num_settle_steps: int = 0
    reported_render: str | None = None

    @property
    def action_dim(self) -> int:
        return sum(part.size for part in self.actions)

    def as_record(self) -> dict:
        """What a result keeps of it, as JSON: what its actions, steps and render setting mean."""
        parts = [{**asdict(part), "levels": part.levels and list(part.levels)} for part in self.actions]
        return {
            "name": self.name,
            "benchmark": self.benchmark,
            "actions": parts,
            "control_hz": self.control_hz,
            "reported_render": self.reported_render,
        }


class Task(Protocol):
    """One task of a suite; hashable, and equal to what is the same task. `name` goes into file names."""

    @property
    def suite(self) -> str: ...
    @property
    def task_id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def instruction(self) -> str: ...
    @property
    def max_steps(self) -> int:
        """Steps that an episode may take, as the benchmark has it."""

    @property
    def num_init_states(self) -> int:
        """How many beginnings are numbered, from 0; the same number begins the same episode, whenever and wherever."""


@dataclass(frozen=True)
class Request:
    """What a policy is asked where it is not simply the task's instruction.

    text: what it reads. task_id: the task of the suite whose goal that is. axes: in what a wording differs from the
    instruction, see docs/wordings.md; new_words: those of its words that were not trained on. None: it is no wording.
    """

    text: str
    task_id: int
    axes: tuple[str, ...] | None = None
    new_words: tuple[str, ...] | None = None

    def as_record(self) -> dict:
        """What a result keeps of it, as JSON."""
        about = {"axes": self.axes, "new_words": self.new_words}
        kept = {name: list(value) for name, value in about.items() if value is not None}
        return {"asked": self.text, "asked_task_id": self.task_id, **kept}


@dataclass(frozen=True)
class Episode:
    """One episode to run. init_state: number of its beginning. seed: of whatever that leaves open. request: what is
    asked; None: the task's instruction."""

    task: Task
    init_state: int
    seed: int
    max_steps: int
    num_settle_steps: int = 0
    request: Request | None = None

    @property
    def instruction(self) -> str:
        """What the policy reads."""
        return self.task.instruction if self.request is None else self.request.text


@dataclass(frozen=True)
class Reply:
    """The answer to one `begin` or `act`: the observation after it and whether the goal is reached.

    observation: {"views": {name: (R, R, 3) uint8 upright} of the views that were asked for, "instruction": str,
    "proprio": {part: (n,) floats} of Description.proprio}. Its instruction is the task's; what an episode asks instead
    is put in its place by who plays it.
    facts: what else the simulator has to tell of the episode so far, as JSON: {name: value}. The last reply's go into
    the episode's result.
    """

    observation: dict
    success: bool
    facts: dict = field(default_factory=dict)


@runtime_checkable
class Environment(Protocol):
    """A running environment of one task, elsewhere: `begin` and `act` return at once and may be queued; replies come in
    their order. Every method but `close` may raise WorkerFailure."""

    @property
    def task(self) -> Task: ...
    @property
    def description(self) -> Description: ...

    def begin(self, episode: Episode, views: tuple[str, ...]) -> None:
        """Bring the task to the beginning of an episode, settled; the reply holds pictures of `views`."""

    def act(self, action: np.ndarray, views: tuple[str, ...]) -> None:
        """One action (A,) float64; the reply holds pictures of `views` taken after it."""

    def fileno(self) -> int:
        """For select and multiprocessing.connection.wait: readable as long as what arrived is not received."""

    def receive(self) -> Reply | None:
        """Read what arrived: call when readable. None: not yet a whole reply. BadInput: a request was wrong."""

    def close(self) -> None:
        """End whatever runs, hanging or not. Never raises."""


AnyTask = TypeVar("AnyTask", bound=Task)


@runtime_checkable
class Simulator(Protocol[AnyTask]):
    """Everything an evaluation asks a simulator for. Making one of these starts nothing."""

    @property
    def description(self) -> Description: ...
    @property
    def seed_means(self) -> str:
        """What an episode's seed decides, for the help of --seed."""

    def add_task_arguments(self, add: Callable[..., Any]) -> None:
        """Declare how tasks are chosen on a command line; `add` is argparse's add_argument. Nothing where there is no
        choice."""

    def choose_tasks(self, args: Any) -> list[AnyTask]:
        """The tasks that parsed arguments name, each once. BadInput: there is no such task, and which there are."""

    def prepare(self) -> dict[str, str]:
        """Make sure, once and before a policy is loaded, that environments can be made; returns what a result should
        keep of that, such as what draws the pictures. BadInput: they cannot, and why."""

    def versions(self) -> dict[str, str | None]:
        """{package: version} of what physics and pictures depend on: results of other ones are not the same
        measurement."""

    def make(self, task: AnyTask, resolution: int, render: str) -> Environment:
        """An environment of a task, which may still be starting. resolution: pixels on each side of its pictures;
        render: how they are drawn, by a name of the simulator's own. BadInput, then or in the first reply: it does not
        know that name."""
