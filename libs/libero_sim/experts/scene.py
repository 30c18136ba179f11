"""What an expert may see and a policy may not: exact poses of the gripper and of every object."""

import numpy as np

from libs.libero_sim.experts.geometry import axis_angle_of, body_points


class Scene:
    """The present privileged state of a LiberoEnv; every call reads it anew. World metres and radians."""

    def __init__(self, env):
        self._env = env.robosuite_env

    @property
    def position(self):
        """Gripper site, (3,)."""
        return np.array(self._env.sim.data.site_xpos[self._robot.eef_site_id])

    @property
    def yaw(self):
        """Angle of the axis along which the fingers move, from world x, in (-pi/2, pi/2]."""
        matrix = np.array(self._env.sim.data.site_xmat[self._robot.eef_site_id]).reshape(3, 3)
        return axis_angle_of(matrix[:2, 0])

    def body_position(self, name):
        """Origin of an object's body, (3,): what LIBERO's goals are about."""
        return np.array(self._env.sim.data.body_xpos[self._env.obj_body_id[name]])

    def points(self, name):
        """Surface points of an object's collision geoms, (N, 3)."""
        sim = self._env.sim
        return body_points(sim.model, sim.data, self._env.obj_body_id[name])

    def other_points(self, *names):
        """Surface points of all objects and fixtures except those named, (N, 3)."""
        others = [self.points(name) for name in self._env.obj_body_id if name not in names]
        return np.concatenate([np.zeros((0, 3)), *others])

    def region(self, name):
        """Corners (low (3,), high (3,)) of the axis-aligned region a body's origin is tested against."""
        site = self._env.object_sites_dict[name]
        centre = np.array(self._env.sim.data.get_site_xpos(name))
        half = np.abs(np.array(self._env.sim.data.get_site_xmat(name)) @ site.size)
        return centre - half, centre + half

    def is_grasped(self, name):
        """Whether both finger pads touch the object."""
        return bool(self._env._check_grasp(gripper=self._robot.gripper, object_geoms=self._env.get_object(name)))

    @property
    def _robot(self):
        return self._env.robots[0]
