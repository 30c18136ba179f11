"""Put a mug into a box that is open at one side, a microwave: held by its handle, hand outside."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from libs.libero_sim.experts.approach import UPRIGHT, Approach, Contact, withdraw
from libs.libero_sim.experts.articulated import swing_open
from libs.libero_sim.experts.insert import bring, turn_along
from libs.robosuite_sim.experts.geometry import gripper_rotation, horizontal_axis, middle, rotation_vector
from libs.robosuite_sim.experts.motion import CLOSE, OPEN, hold, steer_pose

if TYPE_CHECKING:
    from libs.libero_sim.experts.scene import Scene


_TILTS = np.deg2rad([60.0, 50.0, 40.0])  # of the hand from straight down towards the box, better ones first
_HOLD_BACK = 0.002  # metres before the middle of a handle: the pads lie a little above the gripper site
_STANDOFF = 0.06  # metres before a handle from where the fingers go straight on
_AT_HANDLE = 0.007  # metres from the place of the grasp
_HAND = np.array([0.104, 0.032])  # metres from the gripper site to the sides of the hand along the site's first axes
_PALM_BEHIND, _WRIST_BEHIND = 0.031, 0.2  # metres from the gripper site back to the palm and to the wrist
_MARGIN, _ROOM = 0.01, 0.02  # metres kept before the box, and beside mug and hand
_HOVER = 0.01  # metres over the floor of the box where the mug is let go
_CORRIDOR = 0.12  # metres around the beginning of the way into the box where nothing stands
_BEFORE = 0.13  # metres before its end where the way into the box begins
_WAY = 0.3  # metres before the box that the hand passes on its way in
_REACH_STEPS, _CLOSE_STEPS, _OPEN_STEPS, _OPENED = 150, 16, 12, 0.07


def put_through_door(scene: "Scene", obj: str, region: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that set `obj`, which has a handle, into `region`, the inside of a box with an open side."""
    low, high = scene.region(region)
    owner = scene.owner(region)
    assert owner is not None, "the inside of something is its region"
    geoms, door = scene.geoms(owner), scene.part(owner)
    box = np.concatenate([points for name, points in geoms.items() if name not in door])
    inward = -open_side(box, low, high)
    if not scene.is_grasped(obj):
        yield from swing_open(scene, owner)
    if not (yield from _take_handle(scene, obj, inward)):
        return
    side = np.array([-inward[1], inward[0], 0.0])
    goal = _place(scene, obj, box, inward, side, low, high)

    def offset():
        turn = turn_along(scene.up(obj), np.array([0.0, 0.0, 1.0]), scene.rotation[:, 0], side)
        return goal - scene.body_position(obj), turn

    if (yield from bring(scene, obj, offset, inward, _BEFORE, _CORRIDOR, upright=False)):
        for _ in range(_OPEN_STEPS):
            if scene.opening > _OPENED:
                break
            yield hold(OPEN)
        yield from withdraw(scene)


def open_side(box: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Unit vector (3,) towards the open side of a box (N, 3) around a region from `low` to `high` (3,)."""
    offsets = box - middle(np.stack([low, high]))
    offsets = offsets[np.abs(offsets[:, 2]) < (high - low)[2] / 3]
    ways = [np.array([*horizontal_axis(angle), 0.0]) for angle in np.arange(4) * np.pi / 2]

    def walls(way):
        beside = np.abs(offsets @ np.array([-way[1], way[0], 0.0]))
        return np.sum((offsets @ way > 0.0) & (beside < 0.05))

    return np.round(min(ways, key=walls))


def plan_handle(parts: Mapping[str, np.ndarray], others: np.ndarray, inward: np.ndarray) -> Contact:
    """The Contact at which the fingers of a tilted hand are around a handle that stands out against `inward` (3,).

    parts: {name: surface points (N, 3)}; the handle is the part whose middle stands out furthest. others: (M, 3) of
    what the hand should not touch.
    """
    bar = min((middle(points) for points in parts.values()), key=lambda place: place @ inward)
    yaw = np.arctan2(inward[1], inward[0]) - np.pi / 2
    rotation = min((gripper_rotation(yaw, tilt) for tilt in _TILTS), key=lambda r: _hits(others - bar, r))
    return Contact(bar - _HOLD_BACK * rotation[:, 2], rotation, rotation[:, 2])


def _hits(points, rotation):
    """How many points (N, 3), from the gripper site, are in or close to the hand at a rotation (3, 3)."""
    along, across, behind = (points @ (rotation * [1.0, 1.0, -1.0])).T
    beside = (np.abs(along) < _HAND[0] + _MARGIN) & (np.abs(across) < _HAND[1] + _MARGIN)
    return np.sum(beside & (behind > _PALM_BEHIND - _MARGIN) & (behind < _WRIST_BEHIND))


def _take_handle(scene, obj, inward):
    """Bring the fingers around the handle and close them; returns whether they hold the object."""
    if scene.is_grasped(obj):
        return True
    contact = plan_handle(scene.geoms(obj), scene.other_points(obj), inward)
    approach = Approach.to(scene, contact, _STANDOFF)
    for _ in range(_REACH_STEPS):
        position, rotation = scene.position, scene.rotation
        before, beside, _ = approach.offsets(position, rotation)
        turned = np.linalg.norm(rotation_vector(contact.rotation @ rotation.T))
        if np.hypot(before, beside) < _AT_HANDLE and turned < 2 * UPRIGHT:
            break
        yield steer_pose(position, rotation, *approach.pose(position, rotation), OPEN, either_way=False)
    held = 0
    for _ in range(_CLOSE_STEPS):
        if held > 1:
            break
        yield steer_pose(scene.position, scene.rotation, contact.position, contact.rotation, CLOSE, either_way=False)
        held += scene.is_grasped(obj)
    return scene.is_grasped(obj)


def _place(scene, obj, box, inward, side, low, high):
    """Where the origin of the held object comes to stand, (3,): as far in as the hand may go, clear of both walls."""
    points, origin, position = scene.points(obj), scene.body_position(obj), scene.position
    centre = middle(np.stack([low, high]))
    under = np.all(np.abs(box - centre)[:, :2] < (high - low)[:2] / 4, axis=1) & (box[:, 2] < centre[2])
    floor = box[under, 2].max()
    front = (box @ inward).min()
    pointing, aside = scene.rotation[:, 2] @ inward, abs(scene.rotation[:, 1] @ inward)
    foremost = position @ inward - _PALM_BEHIND * pointing + _HAND[1] * aside  # of the palm
    depth = front - _MARGIN + origin @ inward - foremost
    bottom, top = floor + _HOVER, floor + np.ptp(points[:, 2])
    furthest = depth + ((points - origin) @ inward).max() + _MARGIN
    walls = box[(box[:, 2] > bottom) & (box[:, 2] < top) & (box @ inward < furthest)] @ side
    others = scene.other_points(obj)
    others = others[(others[:, 2] > bottom) & (others @ inward < front) & (others @ inward > front - _WAY)] @ side
    half = np.abs((points - origin) @ side).max()

    def cost(place):
        room = min(np.abs(walls - place).min() - half, np.abs(others - place).min(initial=np.inf) - _HAND[0])
        return 10.0 * max(0.0, _ROOM - room) + abs(place - origin @ side)

    first, last = np.sort([low @ side, high @ side])
    across = min(np.arange(first, last, 0.005), key=cost)
    return depth * inward + across * side + np.array([0.0, 0.0, floor + _HOVER + origin[2] - points[:, 2].min()])
