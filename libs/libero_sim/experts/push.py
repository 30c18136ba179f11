"""Push a flat object over the table into a region, with the open fingers behind it.

The hand leans over the object and holds it between two fingers as a hoe does, so that it neither turns away nor
tips. The way leads around what stands on the table; it is planned anew from every state.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from libs.errors import BadInput
from libs.libero_sim.experts.approach import CORRIDOR, Approach, Contact
from libs.robosuite_sim.experts.geometry import distance_from_segment, gripper_rotation, horizontal_axis
from libs.robosuite_sim.experts.motion import OPEN, steer_pose

if TYPE_CHECKING:
    from libs.libero_sim.experts.scene import Scene


_LEAN = np.deg2rad(30)  # of the hand over the object
_TIP_BELOW, _TIP_AHEAD = 0.0155, 0.0125  # metres from the gripper site of the leaning hand to the table and the object
_FINGERS = (0.0386, 0.053)  # metres beside the gripper site: the open fingers
_STANDOFF = 0.015  # metres: there is little room between a plate and a cabinet's handles
_BEHIND, _BESIDE, _TURN = 0.015, 0.008, 0.15  # metres and radians within which the fingers are behind the object
_AHEAD, _SPEED = 0.06, 0.5  # metres by which the goal of a push leads; fraction of full speed
_FACING = np.deg2rad(30)  # largest angle between the direction of the push and that in which the hand faces
_MARGIN = 0.008  # metres inside the border of the region
_FREE = 0.008  # metres kept between the object and others
_ROUND = 0.01  # metres to which the places of obstacles are rounded
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.5)  # of the radius that is kept free, as much as possible
_STRAIGHT = 0.9  # of that, where it goes straight on: no detours for a hair's breadth
_ENDS = 3  # how many of the nearest ends are looked at
_GRID, _REACH = 0.04, 0.3  # metres: spacing of the places a way may lead over, and how far they may be


def push_onto(scene: "Scene", obj: str, region: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that push `obj` until its origin is inside `region`, both by their BDDL names."""
    while not scene.holds(("on", obj, region)):
        position, rotation = scene.position, scene.rotation
        way, facing = _ways(scene, obj, region)
        contact = plan_hoe(scene.points(obj), scene.body_position(obj), facing)
        approach = Approach.to(scene, contact, _STANDOFF)
        before, beside, turn = approach.offsets(position, rotation)
        if abs(before) < _BEHIND and beside < _BESIDE and turn < _TURN:
            target, turned = contact.position + _AHEAD * way, contact.rotation
        else:
            target, turned = approach.pose(position, rotation)
        near = abs(before) < CORRIDOR and beside < CORRIDOR
        yield steer_pose(position, rotation, target, turned, OPEN, _SPEED if near else 1.0)


def _ways(scene, obj, region):
    """Unit vectors (3,): in which direction to push, and in which the hand faces: more towards the end of the way, as
    this is where it has to push in the end, but not so far that a finger loses the object."""
    points, centre = scene.points(obj), scene.body_position(obj)
    others = scene.other_points(obj)
    others = others[others[:, 2] < points[:, 2].max() + _FREE]
    low, high = scene.region(region)
    radius = np.linalg.norm(points[:, :2] - centre[:2], axis=1).max()
    places = next_place(centre[:2], low[:2] + _MARGIN, high[:2] - _MARGIN, others[:, :2], radius + _FREE)
    way, facing = (np.arctan2(*(place - centre[:2])[::-1]) for place in places)
    facing = way + np.clip((facing - way + np.pi) % (2 * np.pi) - np.pi, -_FACING, _FACING)
    return [np.array([*horizontal_axis(angle), 0.0]) for angle in (way, facing)]


def plan_hoe(points: np.ndarray, centre: np.ndarray, way: np.ndarray) -> Contact:
    """The Contact of open fingers that push a flat object with surface points (N, 3) and origin (3,) along `way` (3,).

    BadInput for an object that is narrower than the open fingers.
    """
    offsets = points - centre
    beside = np.abs(offsets @ np.array([-way[1], way[0], 0.0]))
    touched = offsets[(beside > _FINGERS[0]) & (beside < _FINGERS[1])]
    if not len(touched):
        raise BadInput("the open fingers are wider than the object")
    place = centre + ((touched @ way).min() - _TIP_AHEAD) * way
    place[2] = points[:, 2].min() + _TIP_BELOW
    return Contact(place, gripper_rotation(np.arctan2(way[1], way[0]) - np.pi / 2, -_LEAN), way)


def next_place(
    start: np.ndarray, low: np.ndarray, high: np.ndarray, obstacles: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where to push a disc next and in the end, (2,) each: into the box from `low` to `high`, over at most one place.

    start: (2,) centre of the disc; obstacles: (N, 2) points that stay further than `radius` from its centre, or as
    far as they are. The shortest of all such ways; where none is free, one that passes the obstacles more closely.
    """
    near = obstacles[np.linalg.norm(obstacles - start, axis=1) < _REACH + radius]
    cells = np.unique(np.round(near / _ROUND) @ [1.0, 1.0j])  # complex numbers sort faster than rows
    obstacles = np.stack([cells.real, cells.imag], axis=1) * _ROUND
    far = np.linalg.norm(obstacles - start, axis=1)
    ends = np.stack(np.meshgrid(*np.linspace(low, high, 5).T), axis=-1).reshape(-1, 2)
    ends = ends[np.argsort(np.linalg.norm(ends - start, axis=1))]
    vias = np.stack(
        np.meshgrid(*(np.arange(-_REACH, _REACH, _GRID) + _GRID * np.round(start / _GRID)[:, None])), axis=-1
    )
    for share in _SHARES:
        keep = np.minimum(share * radius, far - _ROUND)

        def is_free(places, others, keep=keep):
            return np.all(distance_from_segment(obstacles, places[:, None], others[:, None]) >= keep, axis=1)

        free_ends = ends[is_free(ends, ends)]
        direct = free_ends[is_free(start[None], free_ends, _STRAIGHT * keep)]
        if len(direct):
            return direct[0], direct[0]
        free_vias = vias.reshape(-1, 2)[is_free(start[None], vias.reshape(-1, 2))]
        pairs = [(via, end) for end in free_ends[:_ENDS] for via in free_vias[is_free(free_vias, end[None])]]
        if pairs:
            return min(pairs, key=lambda pair: np.linalg.norm(pair[0] - start) + np.linalg.norm(pair[1] - pair[0]))
    return (low + high) / 2, (low + high) / 2
