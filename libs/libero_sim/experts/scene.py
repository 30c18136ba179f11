"""What an expert may see and a policy may not: exact poses of the gripper and of every object."""

from typing import TYPE_CHECKING

import numpy as np

from libs.libero_sim.experts.joints import Joint
from libs.robosuite_sim.experts.geometry import body_points, middle, part_points
from libs.robosuite_sim.experts.scene import HandScene

if TYPE_CHECKING:
    from libs.libero_sim.experts.goals import Goal


# The box of the open fingers around the gripper site: its middle and half sides along the axes of `rotation`, metres.
_FINGERS_MIDDLE, _FINGERS = np.array([0.0, 0.0, -0.01]), np.array([0.07, 0.015, 0.022])
_ROBOT = ("robot", "gripper", "mount")  # how the names of the robot's geoms begin
_CARRYING = 0.7  # vertical part of the unit normal of a contact that carries
_HINGE = 3  # mjtJoint of MuJoCo: a joint that turns


class Scene(HandScene):
    """The present privileged state of a LiberoEnv; every call reads it anew. World metres and radians."""

    def body_position(self, name: str) -> np.ndarray:
        """Origin of an object's body, (3,): what LIBERO's goals are about."""
        return np.array(self._env.sim.data.body_xpos[self._env.obj_body_id[name]])

    def axes(self, name: str) -> np.ndarray:
        """The axes of an object's body, (3, 3) in columns."""
        return np.array(self._env.sim.data.body_xmat[self._env.obj_body_id[name]]).reshape(3, 3)

    def up(self, name: str) -> np.ndarray:
        """The axis of an object's body that points upwards most, (3,)."""
        axes = self.axes(name)
        most = np.argmax(np.abs(axes[2]))
        return axes[:, most] * np.sign(axes[2, most])

    def points(self, name: str) -> np.ndarray:
        """Surface points of an object's collision geoms, (N, 3)."""
        sim = self._env.sim
        return body_points(sim.model, sim.data, self._env.obj_body_id[name])

    def height(self, name: str) -> float:
        """How high an object is as it stands or lies now, in metres, to the centimetre."""
        return round(float(np.ptp(self.points(name)[:, 2])), 2)

    def geoms(self, name: str) -> dict[str, np.ndarray]:
        """The same by parts: {name of a collision geom: its surface points (N, 3)}."""
        sim = self._env.sim
        parts = part_points(sim.model, sim.data, self._env.obj_body_id[name])
        return {sim.model.geom_id2name(geom): points for geom, points in parts.items()}

    def bottom(self, name: str) -> np.ndarray:
        """The lowest height of an object under its origin, (3,): what stands on a support."""
        return np.array([*self.body_position(name)[:2], self.points(name)[:, 2].min()])

    def foot(self, name: str) -> np.ndarray:
        """The lowest height of an object under the middle of what is seen of it from above, (3,)."""
        points = self.points(name)
        return np.array([*middle(points[:, :2]), points[:, 2].min()])

    def other_points(self, *names: str) -> np.ndarray:
        """Surface points of all objects and fixtures except those named, (N, 3)."""
        others = [self.points(name) for name in self._env.obj_body_id if name not in names]
        return np.concatenate([np.zeros((0, 3)), *others])

    def region(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Corners (low (3,), high (3,)) of the axis-aligned region a body's origin is tested against."""
        site = self._env.object_sites_dict[name]
        centre = np.array(self._env.sim.data.get_site_xpos(name))
        half = np.abs(np.array(self._env.sim.data.get_site_xmat(name)) @ site.size)
        return centre - half, centre + half

    def frame(self, region: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre (3,), axes (3, 3) in columns and half sizes (3,) of a region that may be slanted."""
        data = self._env.sim.data
        axes = np.array(data.get_site_xmat(region)).reshape(3, 3)
        return np.array(data.get_site_xpos(region)), axes, np.array(self._env.object_sites_dict[region].size)

    def is_region(self, name: str) -> bool:
        """Whether a name of a goal is a region (a site, see `region`) and not an object or fixture."""
        return name in self._env.object_sites_dict

    def owner(self, region: str) -> str | None:
        """Name of the object or fixture that a region belongs to; None for a region of the table or floor."""
        name = self._env.object_sites_dict[region].parent_name
        return name if name in self._env.obj_body_id else None

    def is_last(self, goal: "Goal") -> bool:
        """Whether all other goals of the task are true."""
        return all(other == goal or self.holds(other) for other in self._goals)

    def objects_of(self, predicate: str, target: str) -> list[str]:
        """Names of the objects for which the task asks that relation to a target, for example "on" a stove."""
        return [goal[1] for goal in self._goals if goal[0] == predicate and goal[-1] == target]

    def holds(self, goal: "Goal") -> bool:
        """Whether a goal is true by LIBERO's own predicates, for example ("open", "wooden_cabinet_1_top_region")."""
        return bool(self._env._eval_predicate(list(goal)))

    def is_supported(self, name: str) -> bool:
        """Whether an object touches anything that is not the robot."""
        return any(not other.startswith(_ROBOT) for other in self._touching(name))

    def is_carried(self, name: str) -> bool:
        """Whether an object stands or lies on anything that is not the robot; what is only beside it does not count."""
        return any(not other.startswith(_ROBOT) for other in self._touching(name, _CARRYING))

    def is_touched(self, name: str) -> bool:
        """Whether the robot touches an object anywhere."""
        return any(other.startswith(_ROBOT) for other in self._touching(name))

    def joint(self, name: str) -> Joint:
        """The Joint that moves a region (of a drawer) or a fixture that has one (a door, a knob)."""
        sim, number = self._env.sim, self._joint_number(name)
        model, data = sim.model, sim.data
        return Joint(
            hinge=model.jnt_type[number] == _HINGE,
            anchor=np.array(data.xanchor[number]),
            axis=np.array(data.xaxis[number]),
            position=float(data.qpos[model.jnt_qposadr[number]]),
        )

    def joint_range(self, name: str, state: str) -> tuple[float, float]:
        """Lowest and highest position of that joint in a state: "open", "close" or "turnon"."""
        return self._ranges(name)[f"default_{state}_ranges"]

    def joint_ranges(self, name: str) -> list[tuple[float, float]]:
        """[(lowest, highest), ...] of the states that joint has: open and closed, or on and off."""
        return [ends for ends in self._ranges(name).values() if ends]

    def part(self, name: str) -> dict[str, np.ndarray]:
        """What that joint moves: {name of a collision geom: its surface points (N, 3)}."""
        sim = self._env.sim
        body = sim.model.jnt_bodyid[self._joint_number(name)]
        points = part_points(sim.model, sim.data, body)
        return {sim.model.geom_id2name(geom): points[geom] for geom in points}

    def is_grasped(self, name: str) -> bool:
        """Whether both fingers touch the object."""
        return self.is_held(self._env.get_object(name).contact_geoms)

    def is_in_hand(self, name: str) -> bool:
        """Whether some of an object is between or right beside the fingers, held or not."""
        along, across, ahead = np.abs((self.points(name) - self.position) @ self.rotation - _FINGERS_MIDDLE).T
        return bool(np.any((along < _FINGERS[0]) & (across < _FINGERS[1]) & (ahead < _FINGERS[2])))

    def _touching(self, name, upright=0.0):
        """Names of the geoms that an object touches; upright: least vertical part of the contact's unit normal."""
        data, model = self._env.sim.data, self._env.sim.model
        own = set(self._env.get_object(name).contact_geoms)
        contacts = [contact for contact in data.contact[: data.ncon] if abs(contact.frame[2]) >= upright]
        pairs = [{model.geom_id2name(geom) or "" for geom in (contact.geom1, contact.geom2)} for contact in contacts]
        return set().union(*(pair - own for pair in pairs if pair & own))

    def _ranges(self, name):
        fixture = self._env.get_object(self.owner(name) if self.is_region(name) else name)
        return fixture.object_properties["articulation"]

    def _joint_number(self, name):
        owner = self._env.object_sites_dict[name] if self.is_region(name) else self._env.get_object(name)
        return self._env.sim.model.joint_name2id(owner.joints[0])

    @property
    def _goals(self):
        return [tuple(state) for state in self._env.parsed_problem["goal_state"]]
