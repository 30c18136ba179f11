"""What every robosuite environment here has in common: made and reset by a seed, its state, its cameras."""

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from libs.errors import BadInput
from libs.robosuite_sim.rendering import apply_render_setting, get_render_setting
from libs.robosuite_sim.stepping import compute_once

ACTION_DIM = 7
SETTLE_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
MAX_PLACEMENT_TRIES = 1000  # random placements that overlap are drawn again


class RobosuiteEnv(abc.ABC):
    """A task in a robosuite environment with one Panda arm. Making one takes seconds; a process should hold one.

    A subclass names its CAMERAS and says how robosuite's environment is made, reset and stepped.
    task: has `name`. resolution: pixels on each side of the square pictures. render: a key of RENDER_SETTINGS, which
    must match between data and evaluation. Raises SimulatorMissing where OpenGL or the simulator is missing, BadInput
    for an unknown setting.

    An observation is {"views": {name: (R, R, 3) uint8, upright}, "instruction": str, "proprio": see `proprio_dict`}.
    """

    CAMERAS: dict[str, str]  # view -> camera name in the model
    MIRRORED: bool  # whether an upright picture of these cameras has left and right exchanged, too
    robosuite_env: Any = None

    def __init__(self, task: Any, resolution: int, render: str) -> None:
        setting = get_render_setting(render)
        if resolution <= 0:
            raise BadInput(f"resolution must be positive, not {resolution}")
        self.task = task
        self.resolution = resolution
        self.render_setting = render
        make = self._maker()
        with numpy_seed(0):  # a placement is drawn once already while the model is built
            self.robosuite_env = retry_placement(make)
        apply_render_setting(self.robosuite_env.sim, setting)
        compute_once(self.robosuite_env)

    @abc.abstractmethod
    def _maker(self) -> Callable:
        """Import the simulator; returns what makes robosuite's environment: soft resets, no step limit of its own."""

    @abc.abstractmethod
    def reset(self, seed: int) -> dict:
        """Start an episode, everything random drawn from the seed; its observation, before objects are at rest."""

    @abc.abstractmethod
    def step(self, action: np.ndarray | Sequence[float], views: Sequence[str] = ()) -> tuple[dict, bool]:
        """Apply one action (7,): 3 position, 3 rotation, gripper -1 open / +1 close, each in [-1, 1].

        views: the pictures to render after this step; only those stand in the observation. Returns
        (observation, success). BadInput for a wrong shape, a number that is not finite or an unknown view.
        """

    @abc.abstractmethod
    def proprio_dict(self) -> dict[str, np.ndarray]:
        """The robot's present state by parts, all float64."""

    def settle(self, num_settle_steps: int = 10, views: Sequence[str] | None = None) -> dict:
        """Let the objects come to rest, gripper open, for one step or more.

        Returns the last observation, with `views` (None: all of them).
        """
        assert num_settle_steps >= 1, "the observation is a step's"
        for _ in range(num_settle_steps - 1):
            self.step(SETTLE_ACTION)
        observation, _ = self.step(SETTLE_ACTION, tuple(self.CAMERAS) if views is None else views)
        return observation

    def check_success(self) -> bool:
        """Whether the task's goal holds in the present state."""
        return bool(self.robosuite_env._check_success())

    def render(self, views: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Upright pictures {view: (R, R, 3) uint8} of the present state; views None: all of them."""
        views = tuple(self.CAMERAS) if views is None else views
        self._check_views(views)
        sim, size = self.robosuite_env.sim, self.resolution
        return {
            view: self._upright(sim.render(camera_name=self.CAMERAS[view], width=size, height=size)) for view in views
        }

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

    def close(self) -> None:
        """Free the renderer; the env cannot be used afterwards. Closing twice does nothing."""
        if self.robosuite_env is not None:
            self.robosuite_env.close()
            self.robosuite_env = None

    def _reset_seeded(self, seed: int, reset: Callable) -> Any:
        """What `reset()` returns, run with this seed until a placement has no overlaps."""
        with numpy_seed(seed):
            returned = retry_placement(reset)
        self._gripper.current_action = np.zeros(self._gripper.dof)  # a soft reset forgets this one
        return returned

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

    def _check_views(self, views: Sequence[str]) -> None:
        """BadInput for a view that there is not."""
        if isinstance(views, str) or any(view not in self.CAMERAS for view in views):
            raise BadInput(f"unknown views {views!r}: known are {', '.join(self.CAMERAS)}")

    def _upright(self, picture: np.ndarray) -> np.ndarray:
        """robosuite's pictures come upside down."""
        return np.ascontiguousarray(picture[::-1, ::-1] if self.MIRRORED else picture[::-1])


def checked_action(action: np.ndarray | Sequence[float]) -> np.ndarray:
    """(7,) float64. BadInput for a wrong shape or a number that is not finite."""
    action = np.asarray(action, dtype=np.float64)
    if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
        raise BadInput(f"an action is {ACTION_DIM} finite numbers, not {action.tolist()}")
    return action


@contextlib.contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which robosuite draws from, and put it back afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def retry_placement(make: Callable) -> Any:
    """`make()`, again while it fails for want of a placement without overlaps; RuntimeError if that never ends."""
    from robosuite.utils.errors import RandomizationError

    for _ in range(MAX_PLACEMENT_TRIES):
        with contextlib.suppress(RandomizationError):
            return make()
    raise RuntimeError(f"no placement of the objects without overlaps in {MAX_PLACEMENT_TRIES} tries")
