"""LIBERO for the rollout: a simulator process per environment."""

from collections.abc import Callable, Iterable
from typing import Any

from libs.cli import Numbers
from libs.demo_hdf5 import LIBERO
from libs.errors import BadInput
from libs.libero_sim import (
    CONTROL_FREQ,
    REPORTED_SUITES,
    VIEWS,
    LiberoProcess,
    LiberoTask,
    get_task,
    init_states,
    num_tasks,
)
from libs.robosuite_sim.remote import RemoteObject
from rv_eval.envs.base import PANDA_ACTIONS, Description, Episode
from rv_eval.envs.process import ProcessEnvironment
from rv_eval.envs.robosuite import RobosuiteSimulator

DESCRIPTION = Description(
    name="libero",
    benchmark="LIBERO",
    views=VIEWS,
    proprio={part: place.dim for part, place in LIBERO.proprio.items()},
    actions=PANDA_ACTIONS,
    control_hz=CONTROL_FREQ,
    num_settle_steps=10,
    reported_render="standard",
)


class LiberoEnvironment(ProcessEnvironment):
    """An Environment of one LIBERO task. BadInput: the task has no init states."""

    description = DESCRIPTION

    def __init__(self, task: LiberoTask, resolution: int, render: str) -> None:
        self._init_states = init_states(task)
        super().__init__(task, self.start(task, resolution, render))

    def start(self, task: LiberoTask, resolution: int, render: str) -> RemoteObject:
        return LiberoProcess(task, resolution, render)

    def reset_arguments(self, episode: Episode) -> tuple:
        return episode.seed, self._init_states[episode.init_state]


class LiberoSimulator(RobosuiteSimulator):
    """LIBERO's suites, and LIBERO-PRO's, of the installed package."""

    description = DESCRIPTION
    seed_means = "seed of the fixtures, set before every reset, and of sampling"

    def add_task_arguments(self, add: Callable[..., Any]) -> None:
        add(
            "--task_suite",
            nargs="+",
            required=True,
            metavar="NAME",
            help="such as libero_object; all: the four that papers report",
        )
        add("--task_ids", action=Numbers, help="tasks of each suite by number, or all (default)")
        add("--task_names", nargs="+", metavar="NAME", help="tasks by name, as in demo file names")

    def choose_tasks(self, args: Any) -> list[LiberoTask]:
        if args.task_ids is not None and args.task_names is not None:
            raise BadInput("--task_ids and --task_names: give one of them")
        return select_tasks(args.task_suite, args.task_ids, args.task_names)

    def make(self, task: LiberoTask, resolution: int, render: str) -> LiberoEnvironment:
        return LiberoEnvironment(task, resolution, render)


def select_tasks(
    suites: Iterable[str], task_ids: Iterable[int] | None = None, task_names: Iterable[str] | None = None
) -> list[LiberoTask]:
    """The tasks of every suite in order, each once. BadInput for a suite, an id or a name that does not exist."""
    names = dict.fromkeys(name for suite in suites for name in (REPORTED_SUITES if suite == "all" else (suite,)))
    tasks = [
        get_task(suite, task_id)
        for suite in names
        for task_id in (range(num_tasks(suite)) if task_ids is None else sorted(set(task_ids)))
    ]
    if task_names is None:
        return tasks
    unknown = [name for name in task_names if name not in {task.name for task in tasks}]
    if unknown:
        known = ", ".join(task.name for task in tasks)
        raise BadInput(f"unknown task {unknown[0]!r} of {', '.join(names)}: there are {known}")
    return [task for task in tasks if task.name in task_names]
