"""What every robosuite environment here has in common: its state set and read, whatever its task is."""

import contextlib
from collections.abc import Sequence

import numpy as np

from libs.errors import BadInput

ACTION_DIM = 7
SETTLE_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
MAX_PLACEMENT_TRIES = 1000  # random placements that overlap are drawn again


class RobosuiteEnv:
    """A task in a robosuite environment with one Panda arm; a subclass makes `robosuite_env`.

    task: has `name`. resolution: pixels on each side of the square pictures. render: a key of RENDER_SETTINGS.
    """

    robosuite_env = None

    def __init__(self, task, resolution: int, render: str):
        if resolution <= 0:
            raise BadInput(f"resolution must be positive, not {resolution}")
        self.task = task
        self.resolution = resolution
        self.render_setting = render

    def sim_state(self) -> np.ndarray:
        """Time, joint positions and velocities: (1 + nq + nv,) float64, as in `states` of a demo file."""
        return self.robosuite_env.sim.get_state().flatten()

    def set_sim_state(self, state: np.ndarray, gripper_action: float = -1.0) -> None:
        """Put the simulator in `state` (1 + nq + nv,) and restart what a state does not hold.

        The controllers take the present pose as their goal, the solver forgets its last solution, and the
        gripper's slow command stands where `gripper_action` (-1 open, +1 closed) has been held for long. So
        the same state and the same actions give the same next states, however the simulator came there after
        reset(seed) with the seed of the recording: the arm keeps tending to the pose of its last reset.
        BadInput if the size does not fit.
        """
        sim = self.robosuite_env.sim
        sim.set_state_from_flattened(self._checked_state(state))
        sim.data.ctrl[:] = 0.0
        sim.data.qacc_warmstart[:] = 0.0
        sim.forward()
        self._gripper.current_action = np.array([-1.0, 1.0]) * np.sign(gripper_action)
        controller = self.robosuite_env.robots[0].controller
        controller.update(force=True)
        controller.reset_goal()
        controller.new_update = True

    def model_xml(self) -> str:
        """The MuJoCo model, with the fixtures where they stand now."""
        return self.robosuite_env.sim.model.get_xml()

    @property
    def _gripper(self):
        return self.robosuite_env.robots[0].gripper

    def _checked_state(self, state: np.ndarray) -> np.ndarray:
        state = np.asarray(state, dtype=np.float64)
        model = self.robosuite_env.sim.model
        size = 1 + model.nq + model.nv
        if state.shape != (size,):
            raise BadInput(f"a state of {self.task.name} has shape ({size},), not {state.shape}")
        return state


def checked_action(action: Sequence[float]) -> np.ndarray:
    """(7,) float64. BadInput for a wrong shape or a number that is not finite."""
    action = np.asarray(action, dtype=np.float64)
    if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
        raise BadInput(f"an action is {ACTION_DIM} finite numbers, not {action.tolist()}")
    return action


def check_views(views: Sequence[str], known: Sequence[str]) -> None:
    """BadInput for a view that is not `known`."""
    if isinstance(views, str) or any(view not in known for view in views):
        raise BadInput(f"unknown views {views!r}: known are {', '.join(known)}")


@contextlib.contextmanager
def numpy_seed(seed: int):
    """Seed numpy's global generator, which robosuite draws from, and put it back afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def retry_placement(make):
    """`make()`, again while it fails for want of a placement without overlaps; RuntimeError if that never ends."""
    from robosuite.utils.errors import RandomizationError

    for _ in range(MAX_PLACEMENT_TRIES):
        with contextlib.suppress(RandomizationError):
            return make()
    raise RuntimeError(f"no placement of the objects without overlaps in {MAX_PLACEMENT_TRIES} tries")
