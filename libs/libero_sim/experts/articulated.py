"""Open drawers, close drawers and doors, turn knobs: pulls and pushes along the joint's own axis.

Which part comes next follows from the state alone (how far is the joint? what touches what? where is the gripper?),
so each skill may be started, or started anew, anywhere.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from libs.libero_sim.experts.approach import CORRIDOR, UPRIGHT, Approach, withdraw
from libs.libero_sim.experts.joints import outermost, plan_pull, plan_push, plan_turn
from libs.robosuite_sim.experts.motion import CLOSE, OPEN, hold, steer, steer_pose

if TYPE_CHECKING:
    from libs.libero_sim.experts.scene import Scene


_AHEAD = 0.06  # metres by which the goal of a pull or push leads
_TOUCHING = 0.02  # metres before or beyond a contact within which it is pushed
_REACH_STEPS, _CLOSE_STEPS, _LOST_STEPS, _OPEN_STEPS = 150, 12, 4, 8
_AT_CONTACT = 0.007  # metres from the place of a grasp
_PULL_SPEED = 0.7  # fraction of full speed
_SLOW_WITHIN, _SLOW_SPEED = 0.03, 0.15  # metres before the end of a pull; fraction of full speed
_TWIST = 0.25  # radians by which the goal of a twist leads
_BEYOND = 0.07  # of the range of positions that count: what is opened far stands in the way
_OPPOSITE = {"open": "close", "close": "open", "turnon": "turnoff"}


def open_part(scene: "Scene", name: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that pull a drawer open by its handle, let go and back away from the handle."""
    while not _is_past(scene, name, "open"):
        yield from _grasp(scene, _pull_contact(scene, name), _handle(scene, name))
        yield from _pull(scene, name)
    for _ in range(_OPEN_STEPS):
        yield hold(OPEN)
    yield from withdraw(scene)


def close_part(scene: "Scene", name: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that push a drawer or a door shut with the closed fingers."""
    return _push(scene, name, "close", lambda: scene.holds(("close", name)))


def swing_open(scene: "Scene", name: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that push a door which stands open, but in the way, further open from inside."""
    sign, middle = _sign(scene, name, "open"), np.mean(scene.joint_range(name, "open"))
    return _push(scene, name, "open", lambda: sign * (scene.joint(name).position - middle) > 0.0)


def turn_on(scene: "Scene", name: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that grasp the ridge of a knob from above and twist it."""
    while not _is_past(scene, name, "turnon"):
        yield from _grasp(scene, plan_turn(scene.part(name)), scene.part(name))
        yield from _twist(scene, name)


def part_points(scene: "Scene", name: str) -> np.ndarray:
    """Where these skills go first: the surface (N, 3) of the part that moves."""
    return np.concatenate(list(scene.part(name).values()))


def handle_points(scene: "Scene", name: str) -> np.ndarray:
    """Where opening a drawer goes first: the surface (N, 3) of its handle."""
    return np.concatenate([scene.part(name)[geom] for geom in _handle(scene, name)])


def _push(scene, name, state, is_done):
    """Push a drawer or door towards a state until is_done()."""
    while not is_done():
        position, rotation = scene.position, scene.rotation
        contact = plan_push(scene.joint(name), _sign(scene, name, state), scene.part(name), scene.yaw)
        approach = Approach.to(scene, contact)
        before, beside, _ = approach.offsets(position, rotation)
        if abs(before) < _TOUCHING and beside < CORRIDOR:
            target, turned = contact.position + _AHEAD * contact.way, contact.rotation
        else:
            target, turned = approach.pose(position, rotation)
        yield steer_pose(position, rotation, target, turned, CLOSE, _PULL_SPEED)


def _sign(scene, name, state):
    """+1 if the joint's position grows from the opposite state to this one, else -1."""
    ranges = scene.joint_range(name, state), scene.joint_range(name, _OPPOSITE[state])
    return np.sign(np.mean(ranges[0]) - np.mean(ranges[1]))


def _is_past(scene, name, state):
    """Whether a state is reached by some margin, so that letting go does not lose it."""
    return _to_go(scene, name, state) < 0.0


def _to_go(scene, name, state):
    """How far the joint still has to move until that is so, in radians or metres."""
    sign = _sign(scene, name, state)
    near, far = sorted(sign * edge for edge in scene.joint_range(name, state))
    return near + _BEYOND * (far - near) - sign * scene.joint(name).position


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
        before, beside, turn = approach.offsets(position, rotation)
        if np.hypot(before, beside) < _AT_CONTACT and turn < 2 * UPRIGHT:
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
        speed = _PULL_SPEED if _to_go(scene, name, "open") > _SLOW_WITHIN else _SLOW_SPEED
        yield steer_pose(scene.position, scene.rotation, target, contact.rotation, CLOSE, speed)


def _twist(scene, name):
    """Turn the hand about the knob's axis as long as the fingers hold it."""
    sign = _sign(scene, name, "turnon") * np.sign(scene.joint(name).axis[2])
    lost = 0
    while lost < _LOST_STEPS and not _is_past(scene, name, "turnon"):
        lost = 0 if scene.is_held(scene.part(name)) else lost + 1
        ridge = plan_turn(scene.part(name)).position
        yield steer(scene.position, scene.yaw, ridge, scene.yaw + sign * _TWIST, CLOSE)
