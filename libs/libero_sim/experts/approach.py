"""Bring the gripper, tilted or upright, to a place at furniture or behind an object that is reached along a line."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from libs.robosuite_sim.experts.geometry import highest_near, turned_upright
from libs.robosuite_sim.experts.grasp import FINGER_BELOW
from libs.robosuite_sim.experts.motion import OPEN, Funnel, steer_pose, turn_between

if TYPE_CHECKING:
    from libs.libero_sim.experts.scene import Scene


STANDOFF = 0.04  # metres before a contact from where the gripper goes straight on
CORRIDOR = 0.03  # metres beside that line within which it does
UPRIGHT = 0.08  # radians of turn that are good enough for going on
_STRAIGHT = 0.006  # metres beside the line that are
_BACK_OFF, _BACK_OFF_TURN = 3.0, 0.3  # metres back per metre beside the line, and per radian
_BACK_BEYOND = 0.01  # metres that this may reach beyond the beginning of the line
_BACK_STEP = 0.06  # metres by which the goal leads when the gripper backs out
_TURN_FIRST = 0.3  # radians of turn that are made over everything
_TILT_WITHIN, _TILT_OVER = 0.04, 0.2  # metres from its beginning: within all of the tilt, over it none
_CLEARANCE = 0.03  # metres between the hand and what it passes over
_HAND_AROUND = 0.12  # metres around the gripper site, seen from above
_UPRIGHT_POINTING = 0.9  # how far down a hand points that can simply rise
_FINGERS = np.array([0.07, 0.02, 0.045])  # metres: half of the space around the fingers, along the site's axes
_HAND_BELOW = 0.105  # metres from the gripper site to the lower edge of the hand when it points sideways


@dataclass(frozen=True)
class Contact:
    """A place for the gripper: position (3,) and rotation (3, 3) of its site, and the way (3,), a unit vector, on which
    it comes there."""

    position: np.ndarray
    rotation: np.ndarray
    way: np.ndarray


@dataclass(frozen=True)
class Approach:
    """The way to a Contact: over everything to the beginning of its line, down, straight on.

    travel_z: height of the gripper site over everything; standoff: length of the line; both in metres.
    """

    contact: Contact
    travel_z: float
    standoff: float = STANDOFF

    @classmethod
    def to(cls, scene: "Scene", contact: Contact, standoff: float = STANDOFF) -> "Approach":
        """The way to a Contact from the present place of the gripper.

        The upright fingers pass over everything on the way, the tilted hand over what is around the line's beginning.
        What lies beyond the contact, such as the furniture itself, does not count for a gripper on this side.
        """
        position, goal, way = scene.position, contact.position, contact.way
        points = scene.other_points()
        if (position - goal) @ way < 0.0:
            points = points[(points - goal) @ way < 0.0]
        start = goal - standoff * way
        below = FINGER_BELOW + (_HAND_BELOW - FINGER_BELOW) * np.linalg.norm(contact.rotation[:2, 2])
        passed = highest_near(points, position, start, _HAND_AROUND) + FINGER_BELOW
        around = highest_near(points, start, start, _HAND_AROUND) + below
        return cls(contact, max(passed, around, goal[2]) + _CLEARANCE, standoff)

    def offsets(self, position: np.ndarray, rotation: np.ndarray) -> tuple[float, float, float]:
        """How far a pose is before the contact on its line and beside the line, metres, and turned from it, radians."""
        before = (self.contact.position - position) @ self.contact.way
        beside = float(np.linalg.norm(self.contact.position - position - before * self.contact.way))
        return before, beside, float(np.linalg.norm(turn_between(rotation, self.contact.rotation)))

    def pose(self, position: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where to steer from `position` (3,) and `rotation` (3, 3): a position and a rotation.

        The hand travels upright and is tilted only near the beginning of the line, still over everything.
        """
        goal, way = self.contact.position, self.contact.way
        before, beside, turn = self.offsets(position, rotation)
        if beside < CORRIDOR and before < self.standoff + CORRIDOR:
            back = _BACK_OFF * max(0.0, beside - _STRAIGHT) + _BACK_OFF_TURN * max(0.0, turn - UPRIGHT)
            return goal - min(back, self.standoff + _BACK_BEYOND) * way, self.contact.rotation
        if -CORRIDOR < before < self.standoff - 0.01 and beside < 3 * CORRIDOR:  # beside the contact: back out first
            return position - _BACK_STEP * way, self.contact.rotation
        start = goal - self.standoff * way
        far = np.clip((np.linalg.norm(start[:2] - position[:2]) - _TILT_WITHIN) / _TILT_OVER, 0.0, 1.0)
        start[2] += max(0.0, self.travel_z - start[2]) * np.clip(turn / _TURN_FIRST - 1.0, 0.0, 1.0)
        target = Funnel(start, None, self.travel_z, radius=0.02, slope=3.0).target(position)
        return target, turned_upright(self.contact.rotation, far)


def withdraw(scene: "Scene", *names: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that open the fingers of a tilted hand and back it out of what they are around.

    names: of objects that do not count.
    """
    while -scene.rotation[2, 2] < _UPRIGHT_POINTING:
        position, rotation = scene.position, scene.rotation
        offsets = np.abs((scene.other_points(*names) - position) @ rotation)
        if not np.any(np.all(offsets < _FINGERS, axis=1)):
            return
        yield steer_pose(position, rotation, position - _BACK_STEP * rotation[:, 2], rotation, OPEN)
