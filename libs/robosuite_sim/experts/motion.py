"""From a goal of the gripper to actions: a proportional controller whose goal moves along a funnel.

Every action depends only on where the gripper is now, not on the time since a motion began, so that a policy
which sees single frames can imitate it and the motion recovers from any start.
"""

from dataclasses import dataclass

import numpy as np

from libs.robosuite_sim.experts.geometry import rotation_vector, wrap_axis

OPEN, CLOSE = -1.0, 1.0
_GAIN = 18.0  # action per metre of error; 20 would be critically damped in LIBERO's controller
_TURN_GAIN = 2.0  # action per radian
_TURN_LIMIT = 0.5
_TURN_DEADBAND = 0.04  # radians; exactly zero rotation below it keeps the controller's orientation goal
_RISE_FIRST = 0.04  # metres below the funnel at which all sideways motion stops


@dataclass(frozen=True)
class Funnel:
    """The way to a goal: travel at `travel_z`, come down on a cone that ends in the goal.

    goal: (3,) gripper site in world metres; yaw: of the finger axis, or None to leave it; radius: distance
    from the goal, seen from above, within which the descent is straight; slope: height per sideways metre.
    """

    goal: np.ndarray
    yaw: float | None
    travel_z: float
    radius: float
    slope: float

    def height(self, position: np.ndarray) -> float:
        """Lowest height (metres) that the gripper site may have over this place."""
        distance = float(np.linalg.norm(self.goal[:2] - position[:2]))
        cone = self.goal[2] + self.slope * max(0.0, distance - self.radius)
        return min(cone, max(self.travel_z, self.goal[2]))

    def target(self, position: np.ndarray) -> np.ndarray:
        """Where to steer from `position` (3,): below the funnel first up, then sideways as well."""
        height = self.height(position)
        sideways = np.clip(1.0 - (height - position[2] - 0.01) / _RISE_FIRST, 0.0, 1.0)
        return np.array([*(position[:2] + sideways * (self.goal[:2] - position[:2])), height])


def steer(
    position: np.ndarray, yaw: float, target: np.ndarray, target_yaw: float | None, finger: float, speed: float = 1.0
) -> np.ndarray:
    """One action (7,) towards a target, with the gripper pointing where it points.

    position, target: (3,) metres; yaw, target_yaw: radians (target_yaw None: do not turn); finger: OPEN or
    CLOSE; speed: largest position component, at most 1.
    """
    turn = 0.0 if target_yaw is None else wrap_axis(target_yaw - yaw)
    return np.array([*_move(position, target, speed), *_turn(np.array([0.0, 0.0, turn])), finger])


def steer_pose(
    position: np.ndarray,
    rotation: np.ndarray,
    target: np.ndarray,
    target_rotation: np.ndarray,
    finger: float,
    speed: float = 1.0,
    either_way: bool = True,
) -> np.ndarray:
    """One action (7,) towards a target and an orientation, tilted ones included.

    rotation, target_rotation: (3, 3), see `gripper_rotation`; the gripper turned by 180 degrees about its pointing
    direction is as good, so the nearer of the two is taken, unless either_way is False. The rest as `steer`.
    """
    turn = turn_between(rotation, target_rotation) if either_way else rotation_vector(target_rotation @ rotation.T)
    return np.array([*_move(position, target, speed), *_turn(turn), finger])


def turn_between(rotation: np.ndarray, target_rotation: np.ndarray) -> np.ndarray:
    """The smallest turn (3,), axis times radians, from one orientation (3, 3) to another or its mirror image."""
    turns = [rotation_vector(target_rotation * sign @ rotation.T) for sign in (np.ones(3), np.array([-1, -1, 1]))]
    return min(turns, key=np.linalg.norm)


def _move(position, target, speed):
    move = _GAIN * (target - position)
    return move * min(1.0, speed / max(np.abs(move).max(), 1e-9))


def _turn(turn):
    """The rotation part (3,) of an action that takes away an error of orientation."""
    if np.linalg.norm(turn) < _TURN_DEADBAND:
        return np.zeros(3)
    action = _TURN_GAIN * turn
    return action * min(1.0, _TURN_LIMIT / np.abs(action).max())


def hold(finger: float) -> np.ndarray:
    """The action (7,) that keeps the gripper where it is."""
    return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, finger])
