"""Where to grasp an object from above with a parallel gripper.

Planning looks for the grasp that turns the gripper least. A grasp is usable when the object fits between the
open fingers and neither the fingers nor the hand would hit a neighbour on the way down.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from libs.robosuite_sim.experts.geometry import (
    extent_along,
    horizontal_axis,
    in_axes,
    long_axis,
    middle,
    outline,
    principal_angle,
    strip_along,
    wrap_axis,
)

FINGER_OPENING = 0.076  # metres between the pads of the open Panda gripper
FINGER_BELOW = 0.0095  # how far the fingertips reach below the gripper site
PALM_ABOVE = 0.031  # height of the palm above the gripper site
GRASP_DEPTH = 0.03  # how far the site goes below the top of an object
KNOB_DEPTH = 0.006  # how far it goes below the top of what is grasped by a knob on it
RIM_DEPTHS = (0.02, 0.014)  # how far it goes below a rim, better ones first
_RIM_BAND = 0.006  # metres below the top that count as the rim
_HOLLOW = 0.6  # a rim has nothing within this fraction of its radius
_RIM_COST = 5.0  # as much as an object that is 5 mm too wide for the fingers
_LEAN_COST = 40.0  # per metre over its lowest place: lifted there, a leaning bowl rights itself and does not jam
_RIM_SKEWS = np.deg2rad([0.0, 15.0, -15.0, 30.0, -30.0, 37.5, -37.5])  # of the fingers from straight across a rim
_RIM_SKEW_COST = 8.0  # per radian
_KNOB_COST = 3.0
_DROP_COST = 20.0  # per metre that the object will fall because the hand cannot go lower, in radians of turning
_FALL, _FALL_COST = 0.05, 200.0  # metres after which it falls faster than 1 m/s, and what each beyond them costs
_SKEW_COST = 30.0  # per metre wider than the object is at its narrowest, in radians of turning
_REACH_COST, _STRETCH_COST = 2.0, 200.0  # per metre from the robot's base and beyond comfort, in radians of turning
_WRIST_ABOVE, _WRIST_BEFORE = 0.204, 0.088  # metres over a gripper site that points down, and nearer to the base
_SHOULDER, _COMFORTABLE = 0.333, 0.655  # metres: height over the base, and from there to the wrist; 0.72 is all

# Half sizes of what moves down with the gripper site, in metres: along the finger axis and across it.
_HAND = (0.104, 0.032)
_FINGER_INNER, _FINGER_OUTER, _FINGER_ACROSS = 0.036, 0.066, 0.011
_FINGER_THICK = 0.027  # metres of a finger along the finger axis
_CLEARANCE = 0.008  # kept free around hand and fingers
_SLIPS = (0.0, 0.01, 0.02)  # metres by which an object shifts or leans between the fingers


@dataclass(frozen=True)
class Grasp:
    """position: (3,) of the gripper site, metres; yaw: of the finger axis from world x, radians."""

    position: np.ndarray
    yaw: float


def grasp_height(points: np.ndarray, depth: float = GRASP_DEPTH) -> float:
    """Height of the gripper site for grasping an object with surface points (N, 3), `depth` metres below its top."""
    low, high = points[:, 2].min(), points[:, 2].max()
    return max(high - depth, low + FINGER_BELOW + 0.001)


def count_hits(neighbours: np.ndarray, position: np.ndarray, yaw: float) -> int:
    """How many neighbour points (N, 3) the open gripper would touch when it stands at a grasp.

    The gripper comes from above, so everything over the fingertips (palm: over the palm) counts.
    """
    along, across, up = in_axes(neighbours - position, yaw).T
    along, across = np.abs(along), np.abs(across)
    in_hand = (along < _HAND[0] + _CLEARANCE) & (across < _HAND[1] + _CLEARANCE) & (up > PALM_ABOVE - _CLEARANCE)
    in_finger = (
        (along > _FINGER_INNER - _CLEARANCE)
        & (along < _FINGER_OUTER + _CLEARANCE)
        & (across < _FINGER_ACROSS + _CLEARANCE)
        & (up > -FINGER_BELOW - _CLEARANCE)
    )
    between = (along < _FINGER_INNER) & (across < _FINGER_ACROSS) & (up > -FINGER_BELOW)  # would be gripped as well
    return int((in_hand | in_finger | between).sum())


def lowest_height(
    points: np.ndarray, position: np.ndarray, yaw: float, opening: float, opened: float = np.inf, slip: float = 0.0
) -> float:
    """How low the gripper site may stand over a place without hand or opening fingers touching points (N, 3).

    position: (3,) or (2,) of the site; yaw: of the finger axis; opening: metres between the pads now, what is
    between them does not count; opened: metres between them when they leave, at most all; slip: metres by which the
    place may still differ. -inf where nothing is in the way.
    """
    outer, clearance = min(_FINGER_OUTER, opened / 2 + _FINGER_THICK), _CLEARANCE + slip
    along, across, _ = np.abs(in_axes(points - np.array([*position[:2], 0.0]), yaw)).T
    hand = (along < _HAND[0] + clearance) & (across < _HAND[1] + clearance)
    finger = (along > opening / 2) & (along < outer + clearance) & (across < _FINGER_ACROSS + clearance)
    over_hand = points[hand, 2].max(initial=-np.inf) - PALM_ABOVE
    return max(over_hand, points[finger, 2].max(initial=-np.inf) + FINGER_BELOW) + _CLEARANCE / 2


def plan_grasp(
    points: np.ndarray,
    neighbours: np.ndarray,
    yaw: float,
    up: ArrayLike = (0.0, 0.0, 1.0),
    base: np.ndarray | None = None,
    way: np.ndarray | None = None,
) -> Grasp:
    """Choose a grasp from above: around the object or, where it is too wide, around its knob or on its rim.

    points: (N, 3) surface of the object; neighbours: (M, 3) surfaces of everything else, in world metres;
    yaw: the present angle of the finger axis; up: (3,) the object's own upwards, along which a rim lies open;
    base: (3,) of the robot, to which the hand should be near; way: (3,) that the object is to go, at whose end the
    hand should be near and low, too. Returns the usable Grasp that turns the gripper least (then: closest to the
    middle of the object); where none is free of neighbours, the one that touches them least.
    """
    best, lowest = None, np.inf
    grasps = [*_grasps_around(points, yaw), *_grasps_on_knob(points, yaw)]
    grasps += _grasps_on_rim(points, yaw, np.asarray(up, float))
    for grasp, cost in sorted(grasps, key=lambda pair: pair[1]):
        if cost >= lowest:
            break
        cost += _cost_around(grasp, neighbours, base, way)
        if cost < lowest:
            best, lowest = grasp, cost
    assert best is not None, "on its rim something can always be grasped"
    return best


def _cost_around(grasp, neighbours, base, way):
    """What the neighbours, the arm's reach and the place where the object goes make of a grasp; see plan_grasp."""
    hits = count_hits(neighbours, grasp.position, grasp.yaw)
    cost = 0.05 * hits + (1.0 if hits else 0.0)
    ends = [grasp.position] if way is None else [grasp.position, grasp.position + way]
    if base is not None:
        cost += sum(_reach_cost(end, base) for end in ends)
    if way is not None:
        drops = [lowest_height(neighbours, ends[1], grasp.yaw, 0.0, slip=slip) - ends[1][2] for slip in _SLIPS]
        cost += np.mean([_DROP_COST * max(0.0, drop) + _FALL_COST * max(0.0, drop - _FALL) for drop in drops])
    return cost


def _reach_cost(position, base):
    """How bad it is to have the gripper site far away, and the wrist further than is comfortable."""
    return _REACH_COST * np.linalg.norm(position[:2] - base[:2]) + _STRETCH_COST * stretch(position, base)


def stretch(position: np.ndarray, base: np.ndarray) -> float:
    """Metres by which the wrist is further from the shoulder than is comfortable when the gripper site points down."""
    away = np.linalg.norm(position[:2] - base[:2])
    wrist = np.hypot(away - _WRIST_BEFORE, position[2] + _WRIST_ABOVE - base[2] - _SHOULDER)
    return max(0.0, wrist - _COMFORTABLE)


def _grasps_around(points, yaw, depth=GRASP_DEPTH):
    """(Grasp, cost) of grasps with the whole object between the fingers, `depth` metres below its top."""
    height = grasp_height(points, depth)
    gripped = points[points[:, 2] > height - FINGER_BELOW]  # what passes between the fingers on the way down
    centre = middle(gripped[:, :2])
    axis_angle = principal_angle(gripped)
    length = np.ptp(extent_along(gripped, axis_angle))
    shifts = (0.0, 0.012, -0.012, 0.024, -0.024) if length > 0.07 else (0.0,)
    turns = np.deg2rad(np.arange(-90.0, 90.0, 7.5))
    widths = np.array([np.ptp(extent_along(gripped, yaw + turn)) for turn in turns])
    corners = outline(gripped)
    for turn, width in zip(turns, widths, strict=True):
        skew = _SKEW_COST * (width - widths.min())  # a box between its corners turns in the fingers
        for shift in shifts:
            point = centre + shift * horizontal_axis(axis_angle)
            off_centre = abs(shift * np.cos(axis_angle - yaw - turn))  # fingers would push the object aside
            between = np.abs(strip_along(corners - point, yaw + turn, _FINGER_ACROSS + 0.003)).max()
            too_wide = max(0.0, 2 * between - (FINGER_OPENING - 0.008))
            cost = 1000.0 * too_wide + skew + abs(turn) + 20.0 * abs(shift) + 100.0 * off_centre
            yield Grasp(np.array([*point, height]), yaw + wrap_axis(turn)), cost


def _grasps_on_knob(points, yaw):
    """(Grasp, cost) of grasps around what stands on top of an object; none where that is not small all around."""
    knob = points[points[:, 2] > grasp_height(points, KNOB_DEPTH) - FINGER_BELOW]
    if long_axis(knob)[1] < FINGER_OPENING:  # a rim that leans is narrow one way only
        for grasp, cost in _grasps_around(points, yaw, KNOB_DEPTH):
            yield grasp, cost + _KNOB_COST


def _grasps_on_rim(points, yaw, up):
    """(Grasp, cost) of grasps with one finger inside and one outside a round hollow object; none for others."""
    height = points @ up
    rim = points[height > height.max() - _RIM_BAND]
    centre = middle(rim)
    centre += (height.max() - centre @ up) * up
    outwards = rim - centre
    distance = np.linalg.norm(outwards - np.outer(outwards @ up, up), axis=1)
    if distance.min() < _HOLLOW * distance.max():
        return
    radius = (distance.min() + distance.max()) / 2
    slope = radius * np.linalg.norm(up[:2])  # how far the lowest place of the rim is below its middle
    for angle in np.deg2rad(np.arange(0.0, 360.0, 7.5)):
        direction = np.array([*horizontal_axis(angle), 0.0])
        direction -= (direction @ up) * up
        top = centre + radius * direction / np.linalg.norm(direction)
        lean = _LEAN_COST * max(0.0, top[2] - centre[2] + slope)
        for skew in _RIM_SKEWS:
            turn = wrap_axis(angle + skew - yaw)
            cost = _RIM_COST + abs(turn) + _RIM_SKEW_COST * abs(skew) + lean
            for depth in RIM_DEPTHS:
                place = top - np.array([0.0, 0.0, depth])
                yield Grasp(place, yaw + turn), cost + 20.0 * (RIM_DEPTHS[0] - depth)
