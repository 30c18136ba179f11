"""The LIBERO simulator without a display: suites, seeded envs, scripted experts."""

from libs.libero_sim.env import CONTROL_FREQ, VIEWS, LiberoEnv, LiberoProcess
from libs.libero_sim.suites import (
    REPORTED_SUITES,
    LiberoTask,
    find_task,
    get_task,
    init_states,
    list_suites,
    num_tasks,
)

__all__ = [
    "CONTROL_FREQ",
    "REPORTED_SUITES",
    "VIEWS",
    "LiberoEnv",
    "LiberoProcess",
    "LiberoTask",
    "find_task",
    "get_task",
    "init_states",
    "list_suites",
    "num_tasks",
]
