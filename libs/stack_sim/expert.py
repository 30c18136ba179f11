"""A scripted expert for cube stacking: it sees exact poses and so provides demonstrations.

Over the red cube, down, close, up, over the green cube, down, open, away. Which part comes next follows from
the state alone, so the expert may be started, or started anew, anywhere.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from libs.robosuite_sim.experts.geometry import axis_angle_of, body_points, in_axes, wrap_axis
from libs.robosuite_sim.experts.grasp import FINGER_BELOW, Grasp, count_hits
from libs.robosuite_sim.experts.motion import CLOSE, OPEN, Funnel, hold, steer
from libs.robosuite_sim.experts.scene import HandScene

if TYPE_CHECKING:
    from libs.stack_sim.env import StackEnv


_CLEARANCE = 0.02  # metres between what moves and what it passes over
_TURNS_OFF = np.deg2rad([0.0, 12.0, -12.0, 24.0, -24.0])  # of the fingers off the cube's faces, where those are blocked
_GRASP_ABOVE = 0.008  # metres of the gripper site over the cube's middle: the palm then passes over the green cube
_NO_FURTHER = 1.7  # radians from the usual start that the hand may be turned; the last joint ends at 2.1
_GRASP_TOLERANCE = np.array([0.006, 0.008, 0.008])  # metres along the finger axis, across it, upwards
_SLOW_ZONE, _SLOW_SPEED = 0.03, 0.6  # metres over the goal; fraction of full speed
_CLOSE_STEPS = 12  # at most; normally both pads touch after 4 to 8
_SQUEEZE_STEPS = 1  # after the pads touch
_MOVED = 0.01  # metres the cube may be pushed before the grasp is planned anew
_LOST_STEPS = 4  # consecutive steps without touch before the cube counts as lost
_DROP = 0.002  # metres over the green cube at which the red one is let go
_RELEASE_TOLERANCE = np.array([0.005, 0.005, 0.002])
_OPEN_STEPS = 12
_OPEN_FINGERS = 0.037  # metres of one finger from closed: then the hand may rise
_RETREAT = 0.06  # metres
_RETREAT_STEPS = 25  # limits; normal motions take a half or a third of it
_REACH_STEPS, _CARRY_STEPS = 100, 100


class StackScene(HandScene):
    """The present privileged state of a StackEnv; every call reads it anew. World metres and radians."""

    def __init__(self, env: "StackEnv") -> None:
        self.stack_env = env
        super().__init__(env)

    def points(self, cube: str) -> np.ndarray:
        """Surface points of "red" or "green", (N, 3)."""
        sim = self._env.sim
        return body_points(sim.model, sim.data, self._body(cube))

    def centre(self, cube: str) -> np.ndarray:
        return np.array(self._env.sim.data.body_xpos[self._body(cube)])

    def face_angle(self, cube: str) -> float:
        """The angle of one of the cube's horizontal edges; the others lie a right angle apart."""
        matrix = np.array(self._env.sim.data.body_xmat[self._body(cube)]).reshape(3, 3)
        flattest = np.argmin(np.abs(matrix[2]))
        return axis_angle_of(matrix[:2, flattest])

    def turned(self) -> float:
        """How far the hand is turned from the arm's usual start, in radians, (-pi, pi]."""
        matrix = np.array(self._env.sim.data.site_xmat[self._robot.eef_site_id]).reshape(3, 3)
        return np.arctan2(-matrix[0, 0], matrix[1, 0])  # the fingers' axis points along world y there

    def holds_red(self) -> bool:
        """Whether both finger pads touch the red cube."""
        return bool(self._env._check_grasp(gripper=self._robot.gripper, object_geoms=self._env.cubeA))

    def finger_opening(self) -> float:
        """Of the finger that is less open, metres from closed."""
        return self.stack_env.proprio_dict()["joint_pos"][-2:].min()

    def _body(self, cube):
        return {"red": self._env.cubeA_body_id, "green": self._env.cubeB_body_id}[cube]


def stack_actions(env: "StackEnv") -> Iterator[np.ndarray]:
    """Yield actions (7,) float64 that stack the red cube on the green one, from the env's present state.

    Tries again when the cube slips or is missed; ends once it rests there and the hand has gone up. Step limits
    are the caller's.
    """
    scene = StackScene(env)
    while not env.check_success():
        if not scene.holds_red():
            yield from _grasp(scene)
        if scene.holds_red() and (yield from _carry(scene)):
            yield from _release(scene)
    yield from _retreat(scene)


def plan_grasp(scene: StackScene) -> Grasp:
    """The grasp of the red cube from above by two of its faces that turns the hand least.

    Where the green cube is in the way of both, fingers a little off the faces, which will turn the cube.
    """
    position = scene.centre("red") + np.array([0.0, 0.0, _GRASP_ABOVE])
    green, turned = scene.points("green"), scene.turned()
    sides = scene.face_angle("red") + np.array([0.0, np.pi / 2])

    def cost(yaw, off):
        turn = wrap_axis(yaw - scene.yaw)
        too_far = abs(turned + turn) > _NO_FURTHER
        return too_far, count_hits(green, position, yaw), 4 * abs(off) + abs(turn)

    candidates = [(cost(side + off, off), side + off) for side in sides for off in _TURNS_OFF]
    return Grasp(position, min(candidates)[1])


def _grasp(scene):
    """Reach for the red cube and close the fingers on it."""
    grasp, start = plan_grasp(scene), scene.centre("red")
    highest = max(scene.points(cube)[:, 2].max() for cube in ("red", "green"))
    funnel = Funnel(grasp.position, grasp.yaw, highest + FINGER_BELOW + _CLEARANCE, radius=0.01, slope=3.0)
    for _ in range(_REACH_STEPS):
        position = scene.position
        if np.all(np.abs(in_axes(grasp.position - position, grasp.yaw)) < _GRASP_TOLERANCE):
            break
        if np.linalg.norm(scene.centre("red") - start) > _MOVED:
            return  # the caller plans anew
        slow = position[2] < grasp.position[2] + _SLOW_ZONE
        yield steer(position, scene.yaw, funnel.target(position), grasp.yaw, OPEN, _SLOW_SPEED if slow else 1.0)
    touched = 0
    for _ in range(_CLOSE_STEPS):
        if touched > _SQUEEZE_STEPS:
            return
        yield steer(scene.position, scene.yaw, grasp.position, None, CLOSE)
        touched += scene.holds_red()


def _carry(scene):
    """Lift the red cube and lower it onto the green one; False if it was lost on the way."""
    red, green = scene.points("red"), scene.points("green")
    below = scene.position[2] - red[:, 2].min()  # how far the cube hangs below the gripper site
    top = green[:, 2].max()
    lost = 0
    for _ in range(_CARRY_STEPS):
        position = scene.position
        aside = scene.centre("red")[:2] - position[:2]
        goal = np.array([*(scene.centre("green")[:2] - aside), top + below + _DROP])
        if np.all(np.abs(goal - position) < _RELEASE_TOLERANCE):
            return True
        lost = 0 if scene.holds_red() else lost + 1
        if lost > _LOST_STEPS:
            return False
        funnel = Funnel(goal, None, top + below + _CLEARANCE, radius=0.006, slope=2.0)
        slow = np.linalg.norm(goal - position) < _SLOW_ZONE
        target = funnel.target(position)
        yield steer(position, scene.yaw, target, None, CLOSE, _SLOW_SPEED if slow else 1.0)
    return False


def _release(scene):
    """Open the fingers until the cube rests on the other one."""
    for _ in range(_OPEN_STEPS):
        if scene.stack_env.check_success():
            return
        yield hold(OPEN)


def _retreat(scene):
    """Open the fingers all the way and go straight up."""
    goal = scene.centre("red") + np.array([0.0, 0.0, _RETREAT])
    for _ in range(_RETREAT_STEPS):
        position = scene.position
        if position[2] > goal[2]:
            return
        if scene.finger_opening() < _OPEN_FINGERS:
            yield hold(OPEN)
        else:
            yield steer(position, scene.yaw, np.array([*position[:2], goal[2] + 0.02]), None, OPEN)
