"""Drawers, doors and knobs: how their joints move them, and where a gripper holds or pushes them.

Everything here works on plain arrays. A part is {name of a geom: its surface points (N, 3)} in world metres.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from libs.libero_sim.experts.approach import Contact
from libs.robosuite_sim.experts.geometry import gripper_rotation, horizontal_axis, middle, principal_angle

_HOLD_TILT = np.deg2rad(75)  # from straight down: there is little room behind a bar, and over the table
_HOLD_BACK = 0.002  # metres before the middle of a bar: the pads lie a little above the gripper site
_PUSH_TILT = np.deg2rad(34)  # hand and wrist stay behind the place pushed at, and over the table
_PUSH_TIP = 0.014  # metres that the tilted closed fingertips reach ahead of the gripper site
_TOP_GRIP = 0.023  # metres below the top edge of a door at which the palm is still above it
_FINGERTIP = 0.018  # metres from the gripper site to the furthest corner of the closed fingers, seen from above
_RIDGE_HEIGHT = 0.021  # metres of the ridge on a knob that the fingers pass
_DOOR_REACH = 0.65  # where a door is pushed, from the hinge to its end


@dataclass(frozen=True)
class Joint:
    """hinge: whether it turns (or slides); anchor, axis: (3,) in the world; position: radians or metres."""

    hinge: bool
    anchor: np.ndarray
    axis: np.ndarray
    position: float

    def motion(self, point: np.ndarray) -> np.ndarray:
        """Velocity (3,) of a point (3,) of the part, per unit of the joint's velocity."""
        return np.cross(self.axis, point - self.anchor) if self.hinge else self.axis


def outermost(part: Mapping[str, np.ndarray], way: np.ndarray) -> str:
    """Name of the geom that reaches furthest along `way` (3,): of a drawer that opens that way its handle."""
    return max(part, key=lambda name: (part[name] @ way).max())


def plan_pull(joint: Joint, sign: float, part: Mapping[str, np.ndarray]) -> Contact:
    """The Contact at which fingers above and below a drawer's handle pull it; sign: +1 if its position grows."""
    way = sign * joint.axis
    pointing = np.array([*(-np.sin(_HOLD_TILT) * way[:2]), -np.cos(_HOLD_TILT)])
    finger = np.array([*(-np.cos(_HOLD_TILT) * way[:2]), np.sin(_HOLD_TILT)])
    rotation = np.stack([finger, np.cross(pointing, finger), pointing], axis=1)
    return Contact(middle(part[outermost(part, way)]) - _HOLD_BACK * pointing, rotation, -way)


def plan_push(joint: Joint, sign: float, part: Mapping[str, np.ndarray], yaw: float) -> Contact:
    """The Contact at which closed fingertips push a part shut.

    sign: +1 if its position grows; yaw: of the finger axis, for doors.
    Drawers are pushed on the outermost bar, with the hand leaning back; doors from outside at their top edge, with the
    palm above it.
    """
    if not joint.hinge:
        way = sign * joint.axis
        bar = part[outermost(part, -way)]
        face = middle(bar) + way * ((bar @ way).min() - middle(bar) @ way)
        rotation = gripper_rotation(np.arctan2(way[1], way[0]) - np.pi / 2, _PUSH_TILT)
        return Contact(face - _PUSH_TIP * way, rotation, way)
    panel = max(part.values(), key=lambda points: np.prod(np.ptp(points, axis=0)))
    along = horizontal_axis(principal_angle(panel))
    reach = (panel[:, :2] - joint.anchor[:2]) @ along
    if abs(reach.min()) > reach.max():
        along, reach = -along, -reach
    place = joint.anchor + _DOOR_REACH * reach.max() * np.array([*along, 0.0])
    way = sign * joint.motion(place)
    way /= np.linalg.norm(way)
    place += ((panel - joint.anchor) @ way).min() * way - _FINGERTIP * way
    place[2] = panel[:, 2].max() - _TOP_GRIP
    return Contact(place, gripper_rotation(yaw), way)


def plan_turn(part: Mapping[str, np.ndarray]) -> Contact:
    """The Contact at which the fingers are around the ridge on top of a knob."""
    points = np.concatenate(list(part.values()))
    top = points[:, 2].max()
    ridge = points[points[:, 2] > top - _RIDGE_HEIGHT]
    across = principal_angle(ridge) + np.pi / 2
    place = np.array([*middle(ridge[:, :2]), top - _RIDGE_HEIGHT])
    return Contact(place, gripper_rotation(across), np.array([0.0, 0.0, -1.0]))
