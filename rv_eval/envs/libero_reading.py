"""LIBERO asked for another task's goal: starts of a suite under each of its instructions that can be meant there."""

from collections.abc import Callable
from typing import Any

from libs.cli import Numbers
from libs.errors import BadInput
from libs.libero_sim import REPORTED_SUITES, LiberoTask, get_task
from libs.libero_sim.questions import questions
from libs.robosuite_sim import RemoteObject
from rv_eval.envs.base import Episode, Request
from rv_eval.envs.libero import LiberoEnvironment, LiberoSimulator, select_tasks


class ReadingEnvironment(LiberoEnvironment):
    """An Environment of the scene that a task begins in. Every episode has a Request, whose goal is the episode's; the
    facts of its replies are those of libs.libero_sim.reading.ReadingEnv."""

    def start(self, task: LiberoTask, resolution: int, render: str) -> RemoteObject:
        about = {"task": task, "resolution": resolution, "render": render}
        return RemoteObject("libs.libero_sim.reading:ReadingEnv", about)

    def reset_arguments(self, episode: Episode) -> tuple:
        assert episode.request is not None, "what is asked decides what is judged"
        return *super().reset_arguments(episode), episode.request.task_id


class ReadingSimulator(LiberoSimulator):
    """LIBERO's suites; the tasks that are chosen are starts, and `requests` says what is asked there."""

    def add_task_arguments(self, add: Callable[..., Any]) -> None:
        add("--task_suite", required=True, choices=REPORTED_SUITES, help="whose starts and instructions are combined")
        add("--start_ids", action=Numbers, help="tasks whose starts are begun from, or all (default)")
        add("--asked_ids", action=Numbers, help="tasks whose instructions are asked, or all (default)")

    def choose_tasks(self, args: Any) -> list[LiberoTask]:
        self._asked_ids = {task.task_id for task in select_tasks([args.task_suite], args.asked_ids)}
        starts = select_tasks([args.task_suite], args.start_ids)
        if not any(map(self.requests, starts)):
            raise BadInput(f"none of --asked_ids can be asked for in the scenes of --start_ids of {args.task_suite}")
        return starts

    def requests(self, start: LiberoTask) -> list[Request]:
        """What is asked where an episode begins as `start`: the chosen tasks that its scene has the things for."""
        possible = (task_id for task_id in questions(start) if task_id in self._asked_ids)
        return [Request(get_task(start.suite, task_id).instruction, task_id) for task_id in possible]

    def make(self, task: LiberoTask, resolution: int, render: str) -> ReadingEnvironment:
        return ReadingEnvironment(task, resolution, render)
