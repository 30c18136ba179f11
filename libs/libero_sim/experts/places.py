"""Where on a support an object is set down, with room left for what else is to stand there."""

from typing import TYPE_CHECKING

import numpy as np

from libs.robosuite_sim.experts.geometry import middle
from libs.robosuite_sim.experts.grasp import GRASP_DEPTH, stretch

if TYPE_CHECKING:
    from libs.libero_sim.experts.scene import Scene


_GAP = 0.02  # metres between objects that are set down side by side
_MARGIN = 0.015  # metres from the border of a region to the origin of what stands in it


def place_on_support(scene: "Scene", obj: str, target: str) -> np.ndarray:
    """Where the bottom of `obj` comes to stand, under its origin, on `target`, an object or a region: (3,).

    That is the middle, in a region beyond comfortable reach a place nearer to the robot; where the task wants several
    objects in a region they stand side by side.
    """
    if not scene.is_region(target):
        return np.array([*scene.body_position(target)[:2], scene.points(target)[:, 2].min()])
    low, high = scene.region(target)
    sharing = scene.objects_of("on", target)
    if len(sharing) < 2:
        points = scene.points(obj)
        height = high[2] + max(0.0, np.ptp(points[:, 2]) - GRASP_DEPTH)
        size = 2 * np.abs(points - scene.body_position(obj)).max(axis=0)[:2]
        return np.array([*within_reach(low[:2], high[:2], size, height, scene.base), high[2]])
    size = np.max([np.ptp(scene.points(name)[:, :2], axis=0) for name in sharing], axis=0)
    places = side_by_side(low[:2], high[:2], size, len(sharing))
    there = [scene.body_position(name)[:2] for name in sharing if name != obj and scene.holds(("on", name, target))]
    return np.array([*emptiest(places, np.reshape(there, (-1, 2)), sharing.index(obj)), high[2]])


def within_reach(low: np.ndarray, high: np.ndarray, size: np.ndarray, height: float, base: np.ndarray) -> np.ndarray:
    """Where to put an object of a size (2,) in a region from `low` to `high` (2,): as near to its middle, (2,), as a
    robot at `base` (3,) reaches with ease with its gripper site at a `height` in metres.
    """
    centre = middle(np.stack([low, high]))
    room = np.maximum((high - low - size) / 2 - _MARGIN, 0.0)
    nearest = np.clip(base[:2], centre - room, centre + room)
    places = centre + np.linspace(0.0, 1.0, 21)[:, None] * (nearest - centre)
    return min(places, key=lambda place: round(stretch(np.array([*place, height]), base), 4))


def side_by_side(low: np.ndarray, high: np.ndarray, size: np.ndarray, count: int) -> np.ndarray:
    """Places (count, 2) for the origins of objects of a size (2,) in a region from `low` to `high` (2,), in a row.

    The row runs along the axis that has the most room for it, and keeps to the middle as closely as it can.
    """
    room = high - low - 2 * _MARGIN
    needed = (count - 1) * (size + _GAP)
    axis = np.argmax(room - needed)
    offsets = np.linspace(-0.5, 0.5, count) * min(needed[axis], room[axis])
    return middle(np.stack([low, high])) + offsets[:, None] * np.eye(2)[axis]


def emptiest(places: np.ndarray, there: np.ndarray, preferred: int) -> np.ndarray:
    """The one of `places` (N, 2) furthest from what stands `there` (M, 2); of equals the preferred one, a number."""
    distance = np.linalg.norm(places[:, None] - there, axis=-1).min(axis=1, initial=np.inf)
    return places[max(range(len(places)), key=lambda i: (distance[i], i == preferred))]
