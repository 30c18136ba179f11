"""Put an object into a narrow place: turned as the place asks, on a straight line.

As everywhere, what comes next follows from the state alone: where the object is, how it is turned, who holds it.
"""

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np

from libs.libero_sim.experts.pick_and_place import pick_up, release, travel_height
from libs.robosuite_sim.experts.geometry import (
    axis_rotation,
    middle,
    principal_angle,
    rotation_vector,
    turned_upright,
    wrap_axis,
)
from libs.robosuite_sim.experts.motion import CLOSE, Funnel, steer_pose

if TYPE_CHECKING:
    from libs.libero_sim.experts.scene import Scene


_STRAIGHT = 0.003  # metres beside the line, and
_TURNED = 0.06  # radians of turn, with which the object may go on to the end of the line
_BACK, _BACK_TURN = 20.0, 0.5  # metres back per metre beside the line, and per radian of turn, beyond these
_THERE = 0.006  # metres from the end
_LEAD = 0.025  # metres by which the goal leads on the line
_TILT_WITHIN, _TILT_OVER = 0.04, 0.2  # metres from the beginning of the line: within all of the tilt, over it none
_BRING_STEPS, _LOST_STEPS = 200, 4
_SLOW_SPEED = 0.35  # fraction of full speed on the line


def insert(scene: "Scene", obj: str, region: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that lower `obj` into `region`, a compartment hardly wider, narrow side to narrow side."""
    low, high = scene.region(region)

    def offset():
        points = scene.points(obj)
        narrow = int(np.argmin((high - low)[:2])) * np.pi / 2
        turn = wrap_axis(narrow + np.pi / 2 - principal_angle(points))
        shift = np.array([*(middle(np.stack([low, high])) - middle(points))[:2], low[2] - points[:, 2].min()])
        return shift, np.array([0.0, 0.0, turn])

    if not (yield from pick_up(scene, obj)):
        return
    if (yield from bring(scene, obj, offset, np.array([0.0, 0.0, -1.0]), 2 * (high - low)[2])):
        yield from release(scene, ("in", obj, region))


def bring(
    scene: "Scene",
    obj: str,
    offset: Callable[[], tuple[np.ndarray, np.ndarray]],
    way: np.ndarray,
    standoff: float,
    corridor: float = 0.03,
    upright: bool = True,
) -> Generator[np.ndarray, None, bool]:
    """Yield actions (7,) that bring the held object along a straight line to its end; False if it was lost.

    offset() -> (shift (3,), turn (3,) as axis times radians) by which the object now differs from how it is to be in
    the end; way: (3,) unit vector along the line; standoff: metres of it that are free: the object goes to their
    beginning, over everything unless it is within `corridor` metres of it; upright: whether the hand travels there
    upright. Returns True at the end, or where something carries the object on its way down.
    """
    others = scene.other_points(obj)
    lost = 0
    for _ in range(_BRING_STEPS):
        position, rotation = scene.position, scene.rotation
        shift, turn = offset()
        before, turned = shift @ way, float(np.linalg.norm(turn))
        beside = float(np.linalg.norm(shift - before * way))
        straight = beside < 3 * _STRAIGHT and turned < 2 * _TURNED
        if straight and (before < _THERE or (way[2] < 0.0 and before < standoff and scene.is_supported(obj))):
            return True
        lost = 0 if scene.is_grasped(obj) else lost + 1
        if lost > _LOST_STEPS:
            return False
        goal_rotation = axis_rotation(turn / max(turned, 1e-9), turned) @ rotation
        if on_line := beside < corridor and before < standoff + corridor:
            back = _BACK * max(0.0, beside - _STRAIGHT) + _BACK_TURN * max(0.0, turned - _TURNED)
            lead = _LEAD if before < standoff else 2 * _LEAD
            target = position + shift + (np.clip(before - min(back, standoff), -lead, lead) - before) * way
        else:
            start = position + shift - standoff * way
            away = np.linalg.norm(start[:2] - position[:2])
            if upright:
                far = np.clip((away - _TILT_WITHIN) / _TILT_OVER, 0.0, 1.0)
                goal_rotation = turned_upright(goal_rotation, far)
            travel_z = travel_height(position, scene.points(obj), others, start)
            target = Funnel(start, None, travel_z, radius=0.01, slope=3.0).target(position)
        slow = on_line and before < standoff
        yield steer_pose(position, rotation, target, goal_rotation, CLOSE, _SLOW_SPEED if slow else 1.0)
    return False


def turn_along(up: np.ndarray, goal_up: np.ndarray, finger: np.ndarray, goal_finger: np.ndarray) -> np.ndarray:
    """The turn (3,), axis times radians, after which an object's axis `up` lies along `goal_up` and the finger axis
    along `goal_finger` or against it; all unit vectors (3,), the goals at right angles."""
    axis = np.cross(up, goal_up)
    sine = np.linalg.norm(axis)
    tilt = axis_rotation(axis / max(sine, 1e-9), np.arctan2(sine, up @ goal_up))
    finger = tilt @ finger
    side = goal_finger * (1.0 if finger @ goal_finger >= 0.0 else -1.0)
    twist = np.arctan2(np.cross(finger, side) @ goal_up, finger @ side)
    return rotation_vector(axis_rotation(goal_up, twist) @ tilt)
