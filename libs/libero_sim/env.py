"""One LIBERO task as an environment: seeded, upright, and rendering only the pictures that are asked for."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from libs.libero_sim.suites import LiberoTask
from libs.robosuite_sim.env import RobosuiteEnv, checked_action
from libs.robosuite_sim.gl import import_simulator
from libs.robosuite_sim.remote import SimProcess

CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}  # view -> camera name in the model
VIEWS = tuple(CAMERAS)
CONTROL_FREQ = 20  # actions per second
# What is told of the robot, by robosuite's names; nobody looks at its other observables, half of a step's calls.
OBSERVED = ("gripper_qpos", "joint_pos", "eef_pos", "eef_quat")
MAX_OVERLAP = 0.002  # metres that objects may stand in each other after a random placement


class LiberoEnv(RobosuiteEnv):
    """A LIBERO task in the simulator, see RobosuiteEnv. Making one takes 6-16 s and about 1.5 GB.

    task: from `get_task`. Any render setting but "standard" changes the pictures: no LIBERO result.
    """

    CAMERAS = CAMERAS
    MIRRORED = True
    _wrapped: Any = None  # LIBERO's own object around robosuite's environment

    def __init__(self, task: LiberoTask, resolution: int = 256, render: str = "standard") -> None:
        super().__init__(task, resolution, render)
        for name, observable in self.robosuite_env._observables.items():
            observable._enabled = name.removeprefix("robot0_") in OBSERVED
        self._enable(VIEWS)

    def _maker(self) -> Callable:
        envs = import_simulator("libero.libero.envs")

        def make():
            self._wrapped = envs.OffScreenRenderEnv(
                bddl_file_name=self.task.bddl_file,
                camera_heights=self.resolution,
                camera_widths=self.resolution,
                control_freq=CONTROL_FREQ,
                hard_reset=False,  # same states and pictures as a hard reset, 10 times faster, no leak
                ignore_done=True,  # the step limit is the caller's
            )
            return self._wrapped.env

        return make

    def reset(self, seed: int, init_state: np.ndarray | None = None, views: Sequence[str] = ()) -> dict:
        """Start an episode and return its first observation.

        seed: of the fixtures and, without `init_state`, of the random placement of the objects.
        init_state: (1 + nq + nv,) one of `init_states(task)`; BadInput if its size does not fit.
        views: the pictures to render, as for `step`.
        A placement in which objects stand in each other (they would be flung apart) is drawn again; RuntimeError if
        none without overlaps is found.
        """
        self._enable(VIEWS)  # with its cameras off, a reset would shift the moment pictures are taken
        with self._drawing_only(views):
            raw = self._reset_seeded(seed, lambda: self._place(check=init_state is None))
            if init_state is not None:
                raw = self._wrapped.set_init_state(self._checked_state(init_state))
        return self._observation(raw, views)

    def step(self, action: np.ndarray | Sequence[float], views: Sequence[str] = ()) -> tuple[dict, bool]:
        """As RobosuiteEnv's."""
        action = checked_action(action)
        self._enable(views)
        raw, _, done, _ = self.robosuite_env.step(action)
        return self._observation(raw, views), bool(done)

    def set_sim_state(self, state: np.ndarray, gripper_action: float = -1.0) -> None:
        """As RobosuiteEnv's. Fixture poses are not in a state: reset(seed) with the seed of the recording first."""
        super().set_sim_state(state, gripper_action)
        self.robosuite_env._check_success()  # objects remember things outside the state (a stove's flame)
        self.robosuite_env._post_process()

    def render(self, views: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """As RobosuiteEnv's; use it after `set_sim_state`.

        During an episode ask `step` for pictures instead: LIBERO takes its own a few milliseconds before the
        end of a step.
        """
        return super().render(views)

    def proprio_dict(self) -> dict[str, np.ndarray]:
        """The robot's present state under LIBERO's names, all float64.

        gripper_states 2, joint_states 7, ee_pos 3, ee_ori 3 (axis-angle), ee_states 6 (the last two),
        robot_states 9 (gripper 2, position 3, quaternion xyzw 4).
        """
        from robosuite.utils.transform_utils import convert_quat

        sim, robot = self.robosuite_env.sim, self.robosuite_env.robots[0]
        return _named_proprio(
            gripper=sim.data.qpos[robot._ref_gripper_joint_pos_indexes],
            joints=sim.data.qpos[robot._ref_joint_pos_indexes],
            position=sim.data.site_xpos[robot.eef_site_id],
            quaternion=convert_quat(sim.data.get_body_xquat(robot.robot_model.eef_name), to="xyzw"),
        )

    def observed_proprio(self) -> dict[str, np.ndarray]:
        """The robot as the last observation (of reset, settle or step) saw it; names as in `proprio_dict`."""
        seen = (self._raw[f"robot0_{name}"] for name in OBSERVED)
        return _named_proprio(*seen)

    def close(self) -> None:
        """As RobosuiteEnv's."""
        super().close()
        self._wrapped = None

    def _place(self, check: bool) -> dict:
        """robosuite's reset; with `check`, RandomizationError if movable objects stand deep in each other."""
        from robosuite.utils.errors import RandomizationError

        self._put_fixtures_back()
        raw = self.robosuite_env.reset()
        if check and (depth := self._overlap()) > MAX_OVERLAP:
            raise RandomizationError(f"two objects stand {depth:.4f} m in each other")
        return raw

    def _overlap(self) -> float:
        """How deep (metres) the deepest contact of two movable objects is."""
        env = self.robosuite_env
        model, data = env.sim.model, env.sim.data
        owner = {geom: name for name in env.objects_dict for geom in env.get_object(name).contact_geoms}
        depth = 0.0
        for contact in data.contact[: data.ncon]:
            pair = [owner.get(model.geom_id2name(geom)) for geom in (contact.geom1, contact.geom2)]
            if None not in pair and pair[0] != pair[1]:
                depth = max(depth, -float(contact.dist))
        return depth

    def _put_fixtures_back(self) -> None:
        """Fixtures to where the model was built with them: LIBERO places what stands on or in one (a bowl in a
        drawer) relative to where its regions are at the beginning of a reset, as if that were always so."""
        model = self.robosuite_env.sim.model
        for fixture in self.robosuite_env.fixtures_dict.values():
            if fixture.root_body in model.body_names:
                body = model.body_name2id(fixture.root_body)
                model.body_pos[body], model.body_quat[body] = (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)

    def _enable(self, views: Sequence[str]) -> None:
        """Switch cameras on or off for the next step, without Observable.set_enabled, which would restart the
        sampling phase and so take pictures at another moment."""
        self._check_views(views)
        for view, camera in self.CAMERAS.items():
            self.robosuite_env._observables[f"{camera}_image"]._enabled = view in views

    @contextlib.contextmanager
    def _drawing_only(self, views: Sequence[str]) -> Iterator[None]:
        """The pictures of all other cameras are black, though they are on."""
        self._check_views(views)
        sim = self.robosuite_env.sim
        draw, drawn = sim.render, [self.CAMERAS[view] for view in views]

        def render(camera_name, width, height, **more):
            if camera_name in drawn:
                return draw(camera_name=camera_name, width=width, height=height, **more)
            return np.zeros((height, width, 3), np.uint8)

        sim.render = render
        try:
            yield
        finally:
            sim.render = draw

    def _observation(self, raw: dict, views: Sequence[str]) -> dict:
        self._raw = raw
        return {
            "views": {view: self._upright(raw[f"{self.CAMERAS[view]}_image"]) for view in views},
            "instruction": self.task.instruction,
            "proprio": self.observed_proprio(),
        }


def _named_proprio(
    gripper: ArrayLike, joints: ArrayLike, position: ArrayLike, quaternion: ArrayLike
) -> dict[str, np.ndarray]:
    """The robot's state under the names of a demo file, in arrays of their own; quaternion: xyzw."""
    from robosuite.utils.transform_utils import quat2axisangle

    orientation = quat2axisangle(np.array(quaternion))  # it may change its argument
    return {
        "gripper_states": np.array(gripper),
        "joint_states": np.array(joints),
        "ee_pos": np.array(position),
        "ee_ori": orientation,
        "ee_states": np.concatenate([position, orientation]),
        "robot_states": np.concatenate([gripper, position, quaternion]),
    }


class LiberoProcess(SimProcess):
    """The calls of a LiberoEnv, run in a child process."""

    FACTORY = "libs.libero_sim.env:LiberoEnv"
