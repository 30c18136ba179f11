"""Pick up an object and drop it into an open container.

Above the object, straight down, close, up, over the container, a little down, open. Which part comes next
follows from the state alone (is the object between the fingers? where is the gripper?), so the expert may be
started, or started anew, anywhere.
"""

import numpy as np

from libs.libero_sim.experts.geometry import in_axes, middle
from libs.libero_sim.experts.grasp import FINGER_BELOW, plan_grasp
from libs.libero_sim.experts.motion import CLOSE, OPEN, Funnel, hold, steer

_CLEARANCE = 0.02  # metres between what moves and what it passes over
_GRASP_TOLERANCE = np.array([0.006, 0.011, 0.012])  # metres along the finger axis, across it, upwards
_SLOW_ZONE, _SLOW_SPEED = 0.03, 0.6  # metres over the grasp; fraction of full speed
_CLOSE_STEPS = 10  # at most; normally both pads touch after 4 to 7
_SQUEEZE_STEPS = 1  # after the pads touch
_MOVED = 0.01  # metres an object may be pushed before the grasp is planned anew
_LOST_STEPS = 4  # consecutive steps without touch before the object counts as lost
_RELEASE_TOLERANCE = np.array([0.015, 0.015, 0.02])
_OPEN_STEPS = 15  # opening takes 8, falling about 5
_HANGING_STEPS, _HANGING_SPEED = 25, 0.4  # steps and fraction of full speed to go down with what did not fall
_REACH_STEPS, _CARRY_STEPS = 100, 120  # limits; normal motions take a third of it


def place_in(scene, obj, region):
    """Yield actions (7,) that bring `obj` into `region`, a container's region by its BDDL name.

    Tries again when the object slips or is missed, and ends only when the object is let go in the region:
    step limits are the caller's.
    """
    while not _inside(scene, obj, region):
        if not scene.is_grasped(obj):
            yield from _grasp(scene, obj)
        if scene.is_grasped(obj) and (yield from _carry(scene, obj, region)):
            yield from _release(scene, obj, region)


def _inside(scene, obj, region):
    low, high = scene.region(region)
    position = scene.body_position(obj)
    return bool(np.all(position > low) and np.all(position < high)) and not scene.is_grasped(obj)


def _grasp(scene, obj):
    """Reach for the object and close the fingers on it."""
    neighbours = scene.other_points(obj)
    grasp = plan_grasp(scene.points(obj), neighbours, scene.yaw)
    start = scene.body_position(obj)
    highest = max(neighbours[:, 2].max(), scene.points(obj)[:, 2].max())
    funnel = Funnel(grasp.position, grasp.yaw, highest + FINGER_BELOW + _CLEARANCE, radius=0.01, slope=3.0)
    for _ in range(_REACH_STEPS):
        position = scene.position
        if np.all(np.abs(in_axes(grasp.position - position, grasp.yaw)) < _GRASP_TOLERANCE):
            break
        if np.linalg.norm(scene.body_position(obj) - start) > _MOVED:
            return  # the caller plans anew
        slow = position[2] < grasp.position[2] + _SLOW_ZONE
        yield steer(position, scene.yaw, funnel.target(position), grasp.yaw, OPEN, _SLOW_SPEED if slow else 1.0)
    touched = 0
    for _ in range(_CLOSE_STEPS):
        if touched > _SQUEEZE_STEPS:
            return
        yield steer(scene.position, scene.yaw, grasp.position, grasp.yaw, CLOSE)
        touched += scene.is_grasped(obj)


def _carry(scene, obj, region):
    """Lift the object and bring it over the region; False if it was lost on the way."""
    low, high = scene.region(region)
    points = scene.points(obj)
    below = scene.position[2] - points[:, 2].min()  # how far the object hangs below the gripper site
    centre = middle(points[:, :2]) - scene.position[:2]
    origin_below = scene.position[2] - scene.body_position(obj)[2]
    over = scene.other_points(obj)[:, 2].max() + below + _CLEARANCE
    # Let go just above the height at which LIBERO would call it success in the closed hand.
    release_z = high[2] + origin_below + 0.01
    goal = np.array([*(middle(np.stack([low, high]))[:2] - centre), release_z])
    funnel = Funnel(goal, None, over, radius=0.02, slope=1.0)
    lost = 0
    for _ in range(_CARRY_STEPS):
        position = scene.position
        if np.all(np.abs(goal - position) < _RELEASE_TOLERANCE):
            return True
        lost = 0 if scene.is_grasped(obj) else lost + 1
        if lost > _LOST_STEPS:
            return False
        yield steer(position, scene.yaw, funnel.target(position), None, CLOSE)
    return False


def _release(scene, obj, region):
    """Open the fingers and wait until the object has fallen into the region.

    A carton's thin rim sometimes hangs on a finger pad: then go down until the floor takes it off.
    """
    for step in range(_OPEN_STEPS + _HANGING_STEPS):
        if _inside(scene, obj, region):
            return
        if step < _OPEN_STEPS:
            yield hold(OPEN)
        else:
            position = scene.position
            yield steer(position, scene.yaw, position - np.array([0, 0, 0.1]), None, OPEN, _HANGING_SPEED)
