"""The LIBERO simulator without a display: suites, seeded envs, lazy pictures, child processes."""

from libs.libero_sim.env import ACTION_DIM, SETTLE_ACTION, VIEWS, LiberoEnv
from libs.libero_sim.gl import Graphics, SimulatorMissing, prepare_gl, simulator_versions, tell_gl
from libs.libero_sim.remote import RemoteObject, SimCrash, SimProcess, SimStartFailed, SimTimeout
from libs.libero_sim.rendering import RENDER_SETTINGS
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
    "ACTION_DIM",
    "RENDER_SETTINGS",
    "REPORTED_SUITES",
    "SETTLE_ACTION",
    "VIEWS",
    "Graphics",
    "LiberoEnv",
    "LiberoTask",
    "RemoteObject",
    "SimCrash",
    "SimProcess",
    "SimStartFailed",
    "SimTimeout",
    "SimulatorMissing",
    "find_task",
    "get_task",
    "init_states",
    "list_suites",
    "num_tasks",
    "prepare_gl",
    "simulator_versions",
    "tell_gl",
]
