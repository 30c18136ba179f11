"""What an expert may see and a policy may not, of the hand: its exact pose, and what it holds."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from libs.robosuite_sim.env import RobosuiteEnv
from libs.robosuite_sim.experts.geometry import axis_angle_of


class HandScene:
    """The present state of a RobosuiteEnv's arm; every call reads it anew. World metres and radians."""

    def __init__(self, env: RobosuiteEnv) -> None:
        self._env: Any = env.robosuite_env

    @property
    def position(self) -> np.ndarray:
        """Gripper site, (3,)."""
        return np.array(self._env.sim.data.site_xpos[self._robot.eef_site_id])

    @property
    def yaw(self) -> float:
        """Angle of the axis along which the fingers move, from world x, in (-pi/2, pi/2]."""
        return axis_angle_of(self.rotation[:2, 0])

    @property
    def rotation(self) -> np.ndarray:
        """Orientation of the gripper site, (3, 3): its columns are finger axis, third axis, pointing direction."""
        return np.array(self._env.sim.data.site_xmat[self._robot.eef_site_id]).reshape(3, 3)

    @property
    def opening(self) -> float:
        """Metres between the finger pads."""
        left, right = self._env.sim.data.qpos[self._robot._ref_gripper_joint_pos_indexes]
        return float(left - right)

    @property
    def base(self) -> np.ndarray:
        """Where the robot stands, (3,)."""
        return np.array(self._env.sim.data.get_body_xpos(self._robot.robot_model.root_body))

    def is_held(self, geoms: Iterable[str]) -> bool:
        """Whether both fingers, not only their pads, touch some of these geoms (their names)."""
        names = self._robot.gripper.important_geoms
        fingers = [names[f"{side}_finger"] + names[f"{side}_fingerpad"] for side in ("left", "right")]
        return bool(self._env._check_grasp(gripper=fingers, object_geoms=list(geoms)))

    @property
    def _robot(self):
        return self._env.robots[0]
