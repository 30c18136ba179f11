"""What simulators on robosuite share: OpenGL without a display, child processes, cheap pictures, experts' geometry."""

from libs.robosuite_sim.env import ACTION_DIM, SETTLE_ACTION, RobosuiteEnv
from libs.robosuite_sim.gl import Graphics, SimulatorMissing, prepare_gl, tell_gl
from libs.robosuite_sim.remote import RemoteObject, SimCrash, SimProcess, SimStartFailed, SimTimeout
from libs.robosuite_sim.rendering import RENDER_SETTINGS
from libs.robosuite_sim.versions import PACKAGES, simulator_versions

__all__ = [
    "ACTION_DIM",
    "PACKAGES",
    "RENDER_SETTINGS",
    "SETTLE_ACTION",
    "Graphics",
    "RemoteObject",
    "RobosuiteEnv",
    "SimCrash",
    "SimProcess",
    "SimStartFailed",
    "SimTimeout",
    "SimulatorMissing",
    "prepare_gl",
    "simulator_versions",
    "tell_gl",
]
