"""The LIBERO simulator without a display: suites, seeded envs, lazy upright pictures."""

from libs.libero_sim.env import SETTLE_ACTION, VIEWS, LiberoEnv
from libs.libero_sim.rendering import RENDER_SETTINGS
from libs.libero_sim.suites import LiberoTask, find_task, get_task, init_states, list_suites, num_tasks

__all__ = [
    "RENDER_SETTINGS",
    "SETTLE_ACTION",
    "VIEWS",
    "LiberoEnv",
    "LiberoTask",
    "find_task",
    "get_task",
    "init_states",
    "list_suites",
    "num_tasks",
]
