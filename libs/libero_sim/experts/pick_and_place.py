"""Pick up an object and put it into a container or onto a support.

Above the object, straight down, close, up, over the place, down, open. Which part comes next follows from the
state alone (is the object between the fingers? where is the gripper?), so a skill may be started, or started
anew, anywhere. `pick_up`, `carry` and `release` are the parts for other skills.
"""

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np

from libs.libero_sim.experts.places import place_on_support
from libs.robosuite_sim.experts.geometry import free_place, gripper_rotation, highest_near, in_axes, middle, way_out
from libs.robosuite_sim.experts.grasp import FINGER_BELOW, Grasp, lowest_height, plan_grasp
from libs.robosuite_sim.experts.motion import CLOSE, OPEN, Funnel, hold, steer, steer_pose, turn_between

if TYPE_CHECKING:
    from libs.libero_sim.experts.goals import Goal
    from libs.libero_sim.experts.scene import Scene


_CLEARANCE = 0.02  # metres between what moves and what it passes over
_HAND_HEIGHT = 0.12  # metres over the gripper site that the hand needs, too
_HAND_RADIUS = 0.13  # metres around the gripper site that must be free on the way
_GRASP_TOLERANCE = np.array([0.006, 0.011, 0.012])  # metres along the finger axis, across it, upwards
_OVERLAP_TOLERANCE = 0.3  # of how far the fingertips reach below the top of an object: flat ones want more care
_TURN_TOLERANCE = 0.12  # radians
_WAIT_ABOVE, _WAIT_PER_TURN = 0.06, 0.3  # metres over the grasp, at most and per radian still to turn
_SLOW_ZONE, _SLOW_SPEED = 0.03, 0.6  # metres over the grasp; fraction of full speed
_DIPPED = 0.003  # metres below the funnel at which fingers beside the place of the grasp first go up
_CLOSE_STEPS = 16  # at most; normally both fingers touch after 4 to 7, at a thin rim after 11
_SQUEEZE_STEPS = 1  # after the pads touch
_MOVED = 0.01  # metres an object may be pushed before the grasp is planned anew
_LOST_STEPS = 4  # consecutive steps without touch before the object counts as lost
_PLACE_TOLERANCE, _HEIGHT_TOLERANCE = 0.015, 0.01  # metres, seen from above and in height
_DROP = 0.02  # metres over the floor of a container where an object is let go, if the hand can go so low
_SPREAD = 0.012  # metres by which the fingers open between the walls of a container; the rest on their way out
_DEEP_TOLERANCE = 0.003  # metres in height: each more is a longer fall
_LOWERING_SPEED = 0.35  # fraction of full speed close to the support
_FINGERS_RADIUS = 0.07  # metres around the gripper site: the open fingers
_OPEN_STEPS = 15  # opening takes 8, falling about 5
_OPENED, _LEAVING_SPEED = 0.07, 0.7  # metres between the pads of an open hand; fraction of full speed upwards
_HANGING_STEPS, _HANGING_SPEED = 25, 0.4  # steps and fraction of full speed to go down with what did not fall
_REACH_STEPS, _CARRY_STEPS = 100, 160  # limits; normal motions take a third of it


def place_in(scene: "Scene", obj: str, region: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that drop `obj` into `region`, an open container's region by its BDDL name."""
    low, high = scene.region(region)
    x, y, _ = middle(np.stack([low, high]))
    goal = ("in", obj, region)
    if scene.holds(goal) and not scene.is_grasped(obj):
        yield from _let_fall(scene, goal)
        return
    if not (yield from pick_up(scene, obj, place=np.array([x, y, high[2]]))):
        return
    if scene.is_last(goal):
        # Let go just above the height at which LIBERO would call it success in the closed hand.
        arrived = yield from carry(scene, obj, np.array([x, y, high[2] + 0.01]), scene.body_position)
    else:

        def point_of(name):  # in the middle between object and hand: both need room between the walls
            bottom = scene.bottom(name)
            return np.array([*(bottom + scene.position)[:2] / 2, bottom[2]])

        arrived = yield from carry(scene, obj, np.array([x, y, low[2] + _DROP]), point_of, deep=True)
    if arrived:
        yield from _let_fall(scene, goal)


def place_on(scene: "Scene", obj: str, target: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that set `obj` down on `target`, an object or a region, by its BDDL name.

    `place_on_support` says where; it goes down until something carries it.
    """
    return _set_down(scene, ("on", obj, target), place_on_support(scene, obj, target), scene.bottom)


def place_inside(scene: "Scene", obj: str, region: str) -> Iterator[np.ndarray]:
    """Yield actions (7,) that set `obj` down on the floor of `region`, an open drawer's, by its BDDL name."""
    low, high = scene.region(region)
    place = free_place(scene.points(obj), low, high, scene.other_points(obj))
    return _set_down(scene, ("in", obj, region), place, scene.foot)


def _set_down(scene, goal, place, point_of):
    obj = goal[1]
    if scene.holds(goal) and not scene.is_grasped(obj):
        yield from release(scene, goal)
        return
    if not (yield from pick_up(scene, obj, place=place)):
        return
    if (yield from carry(scene, obj, place, point_of)):
        yield from release(scene, goal)


def pick_up(
    scene: "Scene", obj: str, grasp: Grasp | None = None, place: np.ndarray | None = None
) -> Generator[np.ndarray, None, bool]:
    """Reach for the object and close the fingers on it; returns whether they hold it.

    Gives up after a while, or when the object has moved: then plan anew. grasp: a Grasp from above; without one it
    is planned from the object's geometry and where it is to go, `place` (3,).
    """
    if scene.is_grasped(obj):
        return True
    neighbours = scene.other_points(obj)
    if grasp is None:
        way = None if place is None else place - scene.bottom(obj)
        grasp = plan_grasp(scene.points(obj), neighbours, scene.yaw, scene.up(obj), scene.base, way)
    rotation = gripper_rotation(grasp.yaw)
    top = scene.points(obj)[:, 2].max()
    overlap = top - (grasp.position[2] - FINGER_BELOW)
    tolerance = np.minimum(_GRASP_TOLERANCE, [np.inf, np.inf, _OVERLAP_TOLERANCE * overlap])
    start = scene.body_position(obj)
    around = np.concatenate([neighbours, scene.points(obj)])
    for _ in range(_REACH_STEPS):
        position = scene.position
        off = np.abs(in_axes(grasp.position - position, grasp.yaw))
        if np.all(off < tolerance):
            break
        if np.linalg.norm(scene.body_position(obj) - start) > _MOVED:
            return False
        travel_z = highest_near(around, position, grasp.position, _HAND_RADIUS) + FINGER_BELOW + _CLEARANCE
        turn = float(np.linalg.norm(turn_between(scene.rotation, rotation)))
        wait = np.array([0.0, 0.0, min(_WAIT_ABOVE, _WAIT_PER_TURN * max(0.0, turn - _TURN_TOLERANCE))])
        funnel = Funnel(grasp.position + wait, grasp.yaw, travel_z, radius=0.01, slope=3.0)
        target = funnel.target(position)
        if position[2] < min(funnel.height(position) - _DIPPED, top + FINGER_BELOW):
            target[:2] = position[:2]  # the fingertips would push the object
        slow = position[2] < grasp.position[2] + _SLOW_ZONE
        speed = _SLOW_SPEED if slow else 1.0
        yield steer_pose(position, scene.rotation, target, rotation, OPEN, speed)
    touched = 0
    for _ in range(_CLOSE_STEPS):
        if touched > _SQUEEZE_STEPS:
            break
        yield steer_pose(scene.position, scene.rotation, grasp.position, rotation, CLOSE)
        touched += scene.is_grasped(obj)
    return scene.is_grasped(obj)


def carry(
    scene: "Scene", obj: str, place: np.ndarray, point_of: Callable[[str], np.ndarray], deep: bool = False
) -> Generator[np.ndarray, None, bool]:
    """Lift the held object and bring `point_of(obj)`, (3,), to `place` (3,); False if it was lost on the way.

    Returns True there, or over it: where something under it carries the object, or the hand would touch something.
    deep: go down between walls that leave no room to open the fingers all the way.
    """
    others = scene.other_points(obj)
    tolerance = _DEEP_TOLERANCE if deep else _HEIGHT_TOLERANCE
    lost = 0
    for _ in range(_CARRY_STEPS):
        position, points = scene.position, scene.points(obj)
        goal = position + place - point_of(obj)
        opened = scene.opening + _SPREAD if deep else np.inf
        goal[2] = max(goal[2], lowest_height(others, goal, scene.yaw, scene.opening, opened))
        near = np.linalg.norm(goal[:2] - position[:2]) < _PLACE_TOLERANCE
        if near and (abs(goal[2] - position[2]) < tolerance or scene.is_carried(obj)):
            return True
        lost = 0 if scene.is_grasped(obj) else lost + 1
        if lost > _LOST_STEPS:
            return False
        travel_z = travel_height(position, points, others, goal)
        funnel = Funnel(goal, None, travel_z, radius=0.008, slope=3.0)
        target = funnel.target(position)
        out = way_out(points, others[others[:, 2] < travel_z + _HAND_HEIGHT])
        if np.any(out):
            target = position + out
        slow = (near and position[2] < goal[2] + _SLOW_ZONE) or (not near and scene.is_supported(obj))
        yield steer(position, scene.yaw, target, None, CLOSE, _LOWERING_SPEED if slow else 1.0)
    return False


def travel_height(position: np.ndarray, points: np.ndarray, others: np.ndarray, goal: np.ndarray) -> float:
    """Height of the gripper site, now at `position` (3,), at which what it holds passes over all on the way to `goal`.

    points: (N, 3) surface of the held object; others: (M, 3) of everything else.
    """
    below = position[2] - points[:, 2].min()  # how far the object hangs below the gripper site
    radius = max(_HAND_RADIUS, np.linalg.norm(points[:, :2] - position[:2], axis=1).max() + _CLEARANCE)
    return highest_near(others, position, goal, radius) + below + _CLEARANCE


def _let_fall(scene, goal):
    """As `release`; fingers that are between walls open just so far that the object falls, and the rest on their way
    out."""
    others = scene.other_points(goal[1])
    for _ in range(_OPEN_STEPS):
        position = scene.position
        if position[2] - FINGER_BELOW > highest_near(others, position, position, _FINGERS_RADIUS):
            break
        up = np.array([0.0, 0.0, 0.0 if scene.is_grasped(goal[1]) else 0.1])
        yield steer(position, scene.yaw, position + up, None, OPEN)
    yield from release(scene, goal)


def release(scene: "Scene", goal: "Goal") -> Iterator[np.ndarray]:
    """Open the fingers, wait until the goal (predicate, object, target) holds, and take the hand off the object.

    A carton's thin rim sometimes hangs on a finger pad: then go down until something takes it off.
    """
    for step in range(_OPEN_STEPS + _HANGING_STEPS):
        holds, position = scene.holds(goal), scene.position
        if holds and not scene.is_in_hand(goal[1]):
            return
        if step < _OPEN_STEPS and not (holds and scene.opening > _OPENED):
            yield hold(OPEN)
        elif holds:
            yield steer(position, scene.yaw, position + np.array([0, 0, 0.1]), None, OPEN, _LEAVING_SPEED)
        elif scene.is_touched(goal[1]):
            yield steer(position, scene.yaw, position - np.array([0, 0, 0.1]), None, OPEN, _HANGING_SPEED)
