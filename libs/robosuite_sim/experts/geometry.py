"""Points on bodies and simple measures of them: all the geometry that the scripted experts plan with.

Everything here works on plain arrays; only `body_points` reads a MuJoCo model, through attributes, so this
module imports neither mujoco nor libero.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# MuJoCo's geom types (mjtGeom), spelled out so that the module needs no mujoco.
_SPHERE, _CAPSULE, _ELLIPSOID, _CYLINDER, _BOX, _MESH = 2, 3, 4, 5, 6, 7


def box_surface(half_size: ArrayLike, per_edge: int = 7) -> np.ndarray:
    """Points on the surface of an axis-aligned box, edges and corners included.

    half_size: (3,) metres; per_edge: points along every edge. Returns (N, 3).
    """
    return _unit_box(per_edge) * np.asarray(half_size, float)


@functools.cache
def _unit_box(per_edge):
    line = np.linspace(-1.0, 1.0, per_edge)
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid[np.abs(grid).max(axis=1) == 1.0]


def cylinder_surface(radius: float, half_height: float, around: int = 24, rings: int = 5) -> np.ndarray:
    """Points on the mantle of an upright cylinder, (around * rings, 3)."""
    angle = np.linspace(0.0, 2 * np.pi, around, endpoint=False)
    circle = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    heights = np.linspace(-half_height, half_height, rings)
    return np.concatenate([np.c_[circle, np.full(around, z)] for z in heights])


def geom_points(geom_type: int, size: np.ndarray, vertices: ArrayLike | None = None) -> np.ndarray:
    """Surface points of one geom in its own frame, (N, 3).

    geom_type: MuJoCo's number; size: (3,) MuJoCo's size; vertices: (N, 3) of a mesh. Planes and other types
    that a movable object never has give no points.
    """
    if geom_type == _MESH:
        return np.asarray(vertices, float)
    if geom_type == _BOX:
        return box_surface(size)
    if geom_type == _CYLINDER:
        return cylinder_surface(size[0], size[1])
    if geom_type == _CAPSULE:
        return cylinder_surface(size[0], size[1] + size[0])
    if geom_type == _SPHERE:
        return box_surface(np.full(3, size[0] / np.sqrt(3.0)), per_edge=3)
    if geom_type == _ELLIPSOID:
        return box_surface(np.asarray(size) / np.sqrt(3.0), per_edge=3)
    return np.zeros((0, 3))


def body_points(model: Any, data: Any, body_id: int) -> np.ndarray:
    """World positions of points on the collision geoms of a body and everything attached to it, (N, 3).

    A body without collision geoms gives no points.
    """
    return np.concatenate([np.zeros((0, 3)), *part_points(model, data, body_id).values()])


def part_points(model: Any, data: Any, body_id: int) -> dict[int, np.ndarray]:
    """As `body_points`, but {geom number: points (N, 3)}."""
    parts = {}
    collides = (np.asarray(model.geom_contype) != 0) | (np.asarray(model.geom_conaffinity) != 0)
    for geom in np.flatnonzero(collides & _below(model, body_id)[model.geom_bodyid]):
        vertices = None
        if model.geom_type[geom] == _MESH:
            mesh = model.geom_dataid[geom]
            start = model.mesh_vertadr[mesh]
            vertices = model.mesh_vert[start : start + model.mesh_vertnum[mesh]]
        local = geom_points(model.geom_type[geom], model.geom_size[geom], vertices)
        parts[geom] = local @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
    return parts


def _below(model, ancestor):
    """Which bodies are `ancestor` or hang on it, (number of bodies,) bool."""
    below = np.zeros(model.nbody, bool)
    for body, parent in enumerate(model.body_parentid):  # parents come first
        below[body] = body == ancestor or (body != 0 and below[parent])
    return below


def horizontal_axis(angle: ArrayLike) -> np.ndarray:
    """Unit vector (2,) in the horizontal plane at `angle` radians from world x."""
    return np.array([np.cos(angle), np.sin(angle)])


def in_axes(vectors: np.ndarray, angle: float) -> np.ndarray:
    """Vectors (..., 3) of the world as (along, across, up) components for a horizontal axis."""
    axis = horizontal_axis(angle)
    along = vectors[..., :2] @ axis
    across = vectors[..., :2] @ np.array([-axis[1], axis[0]])
    return np.stack([along, across, vectors[..., 2]], axis=-1)


def axis_angle_of(vector: np.ndarray) -> float:
    """Angle of a horizontal axis in radians; an axis has no sign, so the result is in (-pi/2, pi/2]."""
    return wrap_axis(np.arctan2(vector[1], vector[0]))


def wrap_axis(angle: float) -> float:
    """The same axis with an angle in (-pi/2, pi/2]: fingers turned by 180 degrees grasp the same."""
    return -((-angle + np.pi / 2) % np.pi - np.pi / 2)


def middle(points: np.ndarray) -> np.ndarray:
    """Centre of the bounding box of points (N, D) -> (D,)."""
    return (points.min(axis=0) + points.max(axis=0)) / 2


def extent_along(points: np.ndarray, angle: float) -> tuple[float, float]:
    """Lowest and highest coordinate of points (N, >=2) along a horizontal axis, in metres."""
    along = points[:, :2] @ horizontal_axis(angle)
    return along.min(), along.max()


def outline(points: np.ndarray, count: int = 72) -> np.ndarray:
    """Corners (count, 2) of what points (N, >=2) cover from above, all around; without its hollows."""
    directions = horizontal_axis(np.linspace(0.0, 2 * np.pi, count, endpoint=False))
    return points[np.argmax(points[:, :2] @ directions, axis=0), :2]


def strip_along(corners: np.ndarray, angle: float, half: float) -> tuple[float, float]:
    """Lowest and highest coordinate along a horizontal axis, metres, of what of an outline (N, 2) is at most `half`
    metres beside that axis, which passes through the origin. Zeros where nothing is."""
    along, beside = in_axes(np.c_[corners, np.zeros(len(corners))], angle)[:, :2].T
    inside = [along[np.abs(beside) <= half]]
    for border in (-half, half):
        step = np.roll(beside, -1) - beside
        share = (border - beside) / np.where(step == 0.0, np.inf, step)
        crossed = (share > 0.0) & (share < 1.0)
        inside.append((along + share * (np.roll(along, -1) - along))[crossed])
    inside = np.concatenate(inside)
    return (inside.min(), inside.max()) if len(inside) else (0.0, 0.0)


def highest_near(points: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> float:
    """Height of the highest of points (N, 3) within `radius`, seen from above, of the way from start to end (3,).

    -inf where nothing stands.
    """
    distance = distance_from_segment(points[:, :2], start[:2], end[:2])
    return points[distance < radius, 2].max(initial=-np.inf)


def free_place(
    points: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    others: np.ndarray,
    margin: float = 0.015,
    floor: float = 0.015,
) -> np.ndarray:
    """Where on the floor of a region (low (3,), high (3,)) an object (N, 3) has most room: a place (3,).

    others: (M, 3) of what it should not touch; `floor`: what is lower than that over `low` is the floor itself. What
    is higher than the standing object counts more than what is beside it: it would be hit high up, where letting go is
    a long fall. Room beyond `margin` does not count; of equal places the one closest to the middle of the region is
    taken.
    """
    centre = middle(points[:, :2])
    radius = np.linalg.norm(points[:, :2] - centre, axis=1).max()
    others = others[others[:, 2] > low[2] + floor]
    higher = others[:, 2] > low[2] + np.ptp(points[:, 2])
    best, least = None, np.inf
    for x in np.arange(low[0] + 0.01, high[0], 0.01):
        for y in np.arange(low[1] + 0.01, high[1], 0.01):
            distance = np.linalg.norm(others[:, :2] - (x, y), axis=1) - radius
            beside, above = distance[~higher].min(initial=margin), distance[higher].min(initial=margin)
            off = np.hypot(*(middle(np.stack([low, high]))[:2] - (x, y)))
            cost = 30.0 * max(0.0, margin / 3 - beside) + 40.0 * max(0.0, margin / 3 - above)
            cost += 5.0 * max(0.0, margin - above) + off
            if cost < least:
                best, least = np.array([x, y, low[2]]), cost
    assert best is not None, "a region is wider than a step"
    return best


def way_out(points: np.ndarray, others: np.ndarray, margin: float = 0.015, furthest: float = 0.2) -> np.ndarray:
    """The shortest way (3,) from under what hangs over an object, so that it can be lifted; zeros where nothing does.

    points: (N, 3) surface of the object; others: (M, 3) of what it may meet. Sideways by at most `furthest` metres
    and up or down to twice the `margin` below what is over it. Zeros, too, where no way leads out.
    """
    centre, top = middle(points[:, :2]), points[:, 2].max()
    radius = np.linalg.norm(points[:, :2] - centre, axis=1).max()
    above = others[others[:, 2] > top]
    hanging = above[np.linalg.norm(above[:, :2] - centre, axis=1) < radius]
    if not len(hanging):
        return np.zeros(3)
    near = above[np.linalg.norm(above[:, :2] - centre, axis=1) < radius + margin + furthest]
    up = np.clip(hanging[:, 2].min() - top - 2 * margin, -margin, margin)
    for distance in np.arange(0.01, furthest, 0.01):
        for angle in np.linspace(0.0, 2 * np.pi, 16, endpoint=False):
            place = centre + distance * horizontal_axis(angle)
            if np.all(np.linalg.norm(near[:, :2] - place, axis=1) > radius + margin):
                return np.array([*(distance * horizontal_axis(angle)), up])
    return np.zeros(3)


def long_axis(points: np.ndarray) -> tuple[float, float]:
    """(angle, length) in radians and metres of the direction in which points (N, >=2) spread furthest."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 37)[1:]
    lengths = [np.diff(extent_along(points, angle))[0] for angle in angles]
    best = int(np.argmax(lengths))
    return angles[best], lengths[best]


def principal_angle(points: np.ndarray) -> float:
    """Angle from world x, in radians, of the horizontal axis along which points (N, >=2) are spread most."""
    spread = np.cov(points[:, :2].T)
    return axis_angle_of(np.linalg.eigh(spread)[1][:, -1])


def gripper_rotation(yaw: float, tilt: float = 0.0) -> np.ndarray:
    """Rotation matrix (3, 3) of the gripper site: its columns are finger axis, third axis and pointing direction.

    yaw: of the finger axis from world x; tilt: radians by which the pointing direction, downwards at 0, is turned
    about the finger axis; +pi/2 points along yaw + 90 degrees.
    """
    finger = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    pointing = np.array([-np.sin(tilt) * np.sin(yaw), np.sin(tilt) * np.cos(yaw), -np.cos(tilt)])
    return np.stack([finger, np.cross(pointing, finger), pointing], axis=1)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Axis times angle (3,), in radians, of a rotation matrix (3, 3)."""
    twist = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]) / 2
    sine, cosine = np.linalg.norm(twist), (np.trace(matrix) - 1) / 2
    if sine < 1e-6 and cosine < 0:  # half a turn: the axis is the column that does not vanish
        axis = (matrix + np.eye(3))[:, np.argmax(np.diag(matrix))]
        return np.pi * axis / np.linalg.norm(axis)
    return twist * (np.arctan2(sine, cosine) / max(sine, 1e-9))


def distance_from_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distances (N,) of points (N, D) from the straight line between two points (D,).

    start and end may be arrays (..., 1, D) of many lines; the distances are (..., N) then.
    """
    way = end - start
    share = ((points - start) * way).sum(-1) / np.maximum((way * way).sum(-1), 1e-12)
    return np.linalg.norm(points - start - np.clip(share, 0.0, 1.0)[..., None] * way, axis=-1)


def turned_upright(rotation: np.ndarray, share: float) -> np.ndarray:
    """An orientation (3, 3) of the gripper site, turned by a share (0 to 1) of what lets it point straight down."""
    pointing = rotation[:, 2]
    axis = np.cross(pointing, [0.0, 0.0, -1.0])
    angle = np.arctan2(np.linalg.norm(axis), -pointing[2])
    return axis_rotation(axis / max(np.linalg.norm(axis), 1e-9), share * angle) @ rotation


def axis_rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix (3, 3) about a unit vector (3,) by `angle` radians."""
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
