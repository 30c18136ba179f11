"""Lay a bottle on the slanted shelf of a rack.

LIBERO's region of such a shelf is slanted as well: its first axis runs along the shelf, its third up the slope, and
the bottom of what lies there is within 10 cm along the third.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from libs.libero_sim.experts.insert import bring, turn_along
from libs.libero_sim.experts.pick_and_place import pick_up, release
from libs.robosuite_sim.experts.geometry import axis_angle_of
from libs.robosuite_sim.experts.grasp import plan_grasp

if TYPE_CHECKING:
    from libs.libero_sim.experts.scene import Scene


_UP_THE_SLOPE = 0.05  # metres from the region to the bottom of the object: the middle of what LIBERO accepts
_OVER_SLOPE = 0.06  # metres over the slope from where the object comes straight down
_STICKS_OUT = 0.012  # metres over the slope at which something is in the way
_ROOM = 0.02  # metres kept beside the object
_NEAR_COST = 0.3  # per metre from the robot, as much as metres from the middle of the shelf


def lay_on(scene: "Scene", obj: str, region: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that lay `obj` on the slanted `region` of a rack, its up axis along the region's third.

    It comes down at right angles to the slope, with the fingers at its sides and the hand beyond its top.
    """
    centre, axes, half = scene.frame(region)
    normal = axes[:, 1] * np.sign(axes[2, 1])
    goal = slope_place(centre, axes, half[0], scene.points(obj), scene.other_points(obj), scene.base)

    def offset():
        origin = scene.body_position(obj)
        up = lengthwise(scene.axes(obj), scene.points(obj) - origin)
        return goal - origin, turn_along(up, axes[:, 2], scene.rotation[:, 0], axes[:, 0])

    yaw = axis_angle_of(axes[:2, 0])
    grasp = plan_grasp(scene.points(obj), scene.other_points(obj), yaw, scene.up(obj), scene.base)
    if not (yield from pick_up(scene, obj, grasp)):
        return
    if (yield from bring(scene, obj, offset, -normal, _OVER_SLOPE)):
        yield from release(scene, ("on", obj, region))


def slope_place(
    centre: np.ndarray, axes: np.ndarray, reach: float, points: np.ndarray, others: np.ndarray, base: np.ndarray
) -> np.ndarray:
    """Where the origin of an object comes to lie on a slope, (3,), clear of what sticks out of it.

    centre (3,), axes (3, 3): of the slope's frame, see above; reach: how far from the centre along the first axis;
    points (N, 3) of the standing object; others (M, 3) of what is there, the rack included; base (3,) of the robot: of
    free places the one nearest to it and to the middle is taken.
    """
    radius, length = np.ptp(points[:, :2], axis=0).max() / 2, np.ptp(points[:, 2])
    along, out, up = ((others - centre) @ axes).T
    out = out * np.sign(axes[2, 1])
    beside = (out > _STICKS_OUT) & (out < 2 * radius) & (up > 0.0) & (up < _UP_THE_SLOPE + length)
    start = centre + _UP_THE_SLOPE * axes[:, 2]
    best, least = start, np.inf
    for shift in np.arange(-reach + radius, reach - radius, 0.01):
        place = start + shift * axes[:, 0]
        room = np.abs(along[beside] - shift).min(initial=np.inf) - radius
        cost = 10.0 * max(0.0, _ROOM - room) + abs(shift) + _NEAR_COST * np.linalg.norm(place[:2] - base[:2])
        if cost < least:
            best, least = place, cost
    return best


def lengthwise(axes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The one of a body's axes (3, 3), or its opposite, along which points (N, 3) reach furthest from its origin."""
    both = np.concatenate([axes, -axes], axis=1)
    return both[:, np.argmax((points @ both).max(axis=0))]
