"""Cube stacking for the rollout: a simulator process per environment."""

from collections.abc import Callable
from typing import Any

from libs.stack_sim import CONTROL_FREQ, PROPRIO_DIMS, VIEWS, StackProcess, StackTask, init_seed
from rv_eval.envs.base import PANDA_ACTIONS, Description, Episode
from rv_eval.envs.process import ProcessEnvironment
from rv_eval.envs.robosuite import RobosuiteSimulator

DESCRIPTION = Description(
    name="stack",
    benchmark="stack",
    views=VIEWS,
    proprio=PROPRIO_DIMS,
    actions=PANDA_ACTIONS,
    control_hz=CONTROL_FREQ,
    num_settle_steps=10,
)


class StackEnvironment(ProcessEnvironment):
    """An Environment of cube stacking. An init state is a numbered reset of its own seed; the episode's seed is the
    policy's only."""

    description = DESCRIPTION

    def __init__(self, task: StackTask, resolution: int, render: str) -> None:
        super().__init__(task, StackProcess(task, resolution, render))

    def reset_arguments(self, episode: Episode) -> tuple:
        return (init_seed(episode.init_state),)


class StackSimulator(RobosuiteSimulator):
    """robosuite's Stack: one task."""

    description = DESCRIPTION
    seed_means = "seed of the policy's noise; resets have their own"

    def add_task_arguments(self, add: Callable[..., Any]) -> None:
        """There is one task."""

    def choose_tasks(self, args: Any) -> list[StackTask]:
        return [StackTask()]

    def make(self, task: StackTask, resolution: int, render: str) -> StackEnvironment:
        return StackEnvironment(task, resolution, render)
