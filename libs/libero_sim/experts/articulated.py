"""Open drawers, close drawers and doors, turn knobs: pulls and pushes along the joint's own axis.

Which part comes next follows from the state alone (how far is the joint? what touches what? where is the gripper?),
so each skill may be started, or started anew, anywhere.
"""

from dataclasses import dataclass

import numpy as np

from libs.libero_sim.experts.geometry import distance_from_segment, turned_upright
from libs.libero_sim.experts.grasp import FINGER_BELOW
from libs.libero_sim.experts.joints import outermost, plan_pull, plan_push, plan_turn
from libs.libero_sim.experts.motion import CLOSE, OPEN, Funnel, hold, steer, steer_pose, turn_between

_CLEARANCE = 0.03  # metres between the hand and what it passes over
_HAND_AROUND = 0.12  # metres around the gripper site, seen from above
_HAND_BELOW = 0.105  # metres from the gripper site to the lower edge of the hand when it points sideways
_STANDOFF = 0.04  # metres before a contact from where the gripper goes straight on
_CORRIDOR = 0.03  # metres beside that line within which it does
_STRAIGHT, _UPRIGHT = 0.006, 0.08  # metres beside the line and radians of turn that are good enough for going on
_BACK_OFF, _BACK_OFF_TURN = 3.0, 0.3  # metres back per metre beside the line, and per radian
_TURN_FIRST = 0.3  # radians of turn that are made over everything
_TILT_WITHIN, _TILT_OVER = 0.04, 0.2  # metres from its beginning: within all of the tilt, over it none
_AHEAD = 0.06  # metres by which the goal of a pull or push leads
_REACH_STEPS, _CLOSE_STEPS, _LOST_STEPS, _OPEN_STEPS = 150, 12, 4, 15
_AT_CONTACT = 0.007  # metres from the place of a grasp
_TOUCHING = 0.02  # metres before or beyond a contact within which it is pushed
_PULL_SPEED = 0.7  # fraction of full speed
_TWIST = 0.25  # radians by which the goal of a twist leads
_BEYOND = 0.15  # radians or metres by which a state is passed, at most half of its range
_OPPOSITE = {"open": "close", "close": "open", "turnon": "turnoff"}


@dataclass(frozen=True)
class Approach:
    """The way to a place that is reached along a line: over everything to its beginning, down, straight on.

    goal: (3,) and rotation: (3, 3) of the gripper site; way: unit vector (3,) of the line; travel_z: height of the
    gripper site over everything, metres.
    """

    goal: np.ndarray
    rotation: np.ndarray
    way: np.ndarray
    travel_z: float

    @classmethod
    def to(cls, scene, contact):
        """The way to a Contact from the present place of the gripper.

        The upright fingers pass over everything on the way, the tilted hand over what is around the line's beginning.
        What lies beyond the contact, such as the furniture itself, does not count for a gripper on this side.
        """
        position, goal, way = scene.position, contact.position, contact.way
        points = scene.other_points()
        if (position - goal) @ way < 0.0:
            points = points[(points - goal) @ way < 0.0]
        start = goal - _STANDOFF * way
        below = FINGER_BELOW + (_HAND_BELOW - FINGER_BELOW) * np.linalg.norm(contact.rotation[:2, 2])
        passed = points[distance_from_segment(points[:, :2], position[:2], start[:2]) < _HAND_AROUND]
        around = points[np.linalg.norm(points[:, :2] - start[:2], axis=1) < _HAND_AROUND]
        over = passed[:, 2].max(initial=goal[2]) + FINGER_BELOW, around[:, 2].max(initial=goal[2]) + below
        return cls(goal, contact.rotation, way, max(over) + _CLEARANCE)

    def offsets(self, position):
        """How far a place (3,) is before the goal on the line, and beside the line, in metres."""
        before = (self.goal - position) @ self.way
        return before, np.linalg.norm(self.goal - position - before * self.way)

    def pose(self, position, rotation):
        """Where to steer from `position` (3,) and `rotation` (3, 3): a position and a rotation.

        The hand travels upright and is tilted only near the beginning of the line, still over everything.
        """
        before, beside = self.offsets(position)
        turn = np.linalg.norm(turn_between(rotation, self.rotation))
        if beside < _CORRIDOR and before < _STANDOFF + _CORRIDOR:
            back = _BACK_OFF * max(0.0, beside - _STRAIGHT) + _BACK_OFF_TURN * max(0.0, turn - _UPRIGHT)
            return self.goal - min(back, _STANDOFF) * self.way, self.rotation
        if -_CORRIDOR < before < _STANDOFF - 0.01 and beside < 3 * _CORRIDOR:  # beside the contact: back out first
            return position - _AHEAD * self.way, self.rotation
        start = self.goal - _STANDOFF * self.way
        far = np.clip((np.linalg.norm(start[:2] - position[:2]) - _TILT_WITHIN) / _TILT_OVER, 0.0, 1.0)
        start[2] += max(0.0, self.travel_z - start[2]) * np.clip(turn / _TURN_FIRST - 1.0, 0.0, 1.0)
        target = Funnel(start, None, self.travel_z, radius=0.02, slope=3.0).target(position)
        return target, turned_upright(self.rotation, far)


def open_part(scene, name):
    """Yield actions (7,) that pull a drawer open by its handle, let go and back away from the handle."""
    while not _is_past(scene, name, "open"):
        yield from _grasp(scene, _pull_contact(scene, name), _handle(scene, name))
        yield from _pull(scene, name)
    yield from _let_go(scene, name)


def close_part(scene, name):
    """Yield actions (7,) that push a drawer or a door shut with the closed fingers."""
    while not scene.holds(("close", name)):
        position, rotation = scene.position, scene.rotation
        contact = plan_push(scene.joint(name), _sign(scene, name, "close"), scene.part(name), scene.yaw)
        approach = Approach.to(scene, contact)
        before, beside = approach.offsets(position)
        if abs(before) < _TOUCHING and beside < _CORRIDOR:
            target, turned = contact.position + _AHEAD * contact.way, contact.rotation
        else:
            target, turned = approach.pose(position, rotation)
        yield steer_pose(position, rotation, target, turned, CLOSE, _PULL_SPEED)


def turn_on(scene, name):
    """Yield actions (7,) that grasp the ridge of a knob from above and twist it."""
    while not _is_past(scene, name, "turnon"):
        yield from _grasp(scene, plan_turn(scene.part(name)), scene.part(name))
        yield from _twist(scene, name)


def part_points(scene, name):
    """Where these skills go first: the surface (N, 3) of the part that moves."""
    return np.concatenate(list(scene.part(name).values()))


def _sign(scene, name, state):
    """+1 if the joint's position grows from the opposite state to this one, else -1."""
    ranges = scene.joint_range(name, state), scene.joint_range(name, _OPPOSITE[state])
    return np.sign(np.mean(ranges[0]) - np.mean(ranges[1]))


def _is_past(scene, name, state):
    """Whether a state is reached by some margin, so that letting go does not lose it."""
    sign = _sign(scene, name, state)
    near, far = sorted(sign * edge for edge in scene.joint_range(name, state))
    return sign * scene.joint(name).position > near + min(_BEYOND, (far - near) / 2)


def _pull_contact(scene, name):
    return plan_pull(scene.joint(name), _sign(scene, name, "open"), scene.part(name))


def _handle(scene, name):
    """Names of the geoms of a drawer's handle."""
    return [outermost(scene.part(name), -_pull_contact(scene, name).way)]


def _grasp(scene, contact, geoms):
    """Bring the open fingers to a Contact and close them until they hold one of the geoms."""
    if scene.is_held(geoms):
        return
    approach = Approach.to(scene, contact)
    for _ in range(_REACH_STEPS):
        position, rotation = scene.position, scene.rotation
        turn = np.linalg.norm(turn_between(rotation, contact.rotation))
        if np.linalg.norm(contact.position - position) < _AT_CONTACT and turn < 2 * _UPRIGHT:
            break
        yield steer_pose(position, rotation, *approach.pose(position, rotation), OPEN)
    for _ in range(_CLOSE_STEPS):
        if scene.is_held(geoms):
            return
        yield steer_pose(scene.position, scene.rotation, contact.position, contact.rotation, CLOSE)


def _pull(scene, name):
    """Pull at the handle as long as the fingers hold it."""
    lost = 0
    while lost < _LOST_STEPS and not _is_past(scene, name, "open"):
        lost = 0 if scene.is_held(_handle(scene, name)) else lost + 1
        contact = _pull_contact(scene, name)
        target = contact.position - _AHEAD * contact.way
        yield steer_pose(scene.position, scene.rotation, target, contact.rotation, CLOSE, _PULL_SPEED)


def _twist(scene, name):
    """Turn the hand about the knob's axis as long as the fingers hold it."""
    sign = _sign(scene, name, "turnon") * np.sign(scene.joint(name).axis[2])
    lost = 0
    while lost < _LOST_STEPS and not _is_past(scene, name, "turnon"):
        lost = 0 if scene.is_held(scene.part(name)) else lost + 1
        ridge = plan_turn(scene.part(name)).position
        yield steer(scene.position, scene.yaw, ridge, scene.yaw + sign * _TWIST, CLOSE)


def _let_go(scene, name):
    """Open the fingers and back away from the handle they are around."""
    for _ in range(_OPEN_STEPS):
        yield hold(OPEN)
    for _ in range(_REACH_STEPS):
        position, way = scene.position, _pull_contact(scene, name).way
        if Approach.to(scene, _pull_contact(scene, name)).offsets(position)[0] > _STANDOFF:
            return
        yield steer_pose(position, scene.rotation, position - _AHEAD * way, scene.rotation, OPEN)
