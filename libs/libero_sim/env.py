"""One LIBERO task as an environment: seeded, upright, and rendering only the pictures that are asked for."""

from collections.abc import Sequence

import numpy as np

from libs.libero_sim.base import (
    ACTION_DIM,
    SETTLE_ACTION,
    RobosuiteEnv,
    check_views,
    checked_action,
    numpy_seed,
    retry_placement,
)
from libs.libero_sim.gl import import_libero_envs
from libs.libero_sim.rendering import apply_render_setting, get_render_setting
from libs.libero_sim.suites import LiberoTask

VIEWS = ("agentview", "eye_in_hand")
MAX_OVERLAP = 0.002  # metres that objects may stand in each other after a random placement
CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}  # view -> camera name in the model

__all__ = ["ACTION_DIM", "SETTLE_ACTION", "VIEWS", "LiberoEnv"]


class LiberoEnv(RobosuiteEnv):
    """A LIBERO task in the simulator. Making one takes 6-16 s and about 1.5 GB; a process should hold one.

    task: from `get_task`. resolution: pixels on each side of the square pictures. render: a key of
    RENDER_SETTINGS; anything but "standard" changes the pictures and must match between data and evaluation.
    Raises SimulatorMissing where OpenGL or the simulator is missing, BadInput for an unknown setting.

    An observation is {"views": {name: (R, R, 3) uint8, upright}, "instruction": str, "proprio": the
    robot's state by parts, see `proprio_dict`}.
    """

    def __init__(self, task: LiberoTask, resolution: int = 256, render: str = "standard"):
        setting = get_render_setting(render)
        super().__init__(task, resolution, render)
        envs = import_libero_envs()
        with numpy_seed(0):  # placements are drawn once already while the model is built
            self._env = retry_placement(
                lambda: envs.OffScreenRenderEnv(
                    bddl_file_name=task.bddl_file,
                    camera_heights=resolution,
                    camera_widths=resolution,
                    hard_reset=False,  # same states and pictures as a hard reset, 10 times faster, no leak
                    ignore_done=True,  # the step limit is the caller's
                )
            )
        self.robosuite_env = self._env.env
        apply_render_setting(self.robosuite_env.sim, setting)

    def reset(self, seed: int, init_state: np.ndarray | None = None) -> dict:
        """Start an episode and return its first observation.

        seed: of the fixtures and, without `init_state`, of the random placement of the objects.
        init_state: (1 + nq + nv,) one of `init_states(task)`; BadInput if its size does not fit.
        A placement in which objects stand in each other (they would be flung apart) is drawn again; RuntimeError if
        none without overlaps is found.
        """
        self._enable(VIEWS)  # with its cameras off, a reset would shift the moment pictures are taken
        with numpy_seed(seed):
            raw = retry_placement(lambda: self._place(check=init_state is None))
        self._gripper.current_action = np.zeros(self._gripper.dof)  # a soft reset forgets this one
        if init_state is not None:
            raw = self._env.set_init_state(self._checked_state(init_state))
        return self._observation(raw, VIEWS)

    def settle(self, num_settle_steps: int = 10, views: Sequence[str] = VIEWS) -> dict:
        """Let the objects come to rest, gripper open; returns the last observation, with `views`."""
        observation = None
        for i in range(num_settle_steps):
            last = i == num_settle_steps - 1
            observation, _ = self.step(SETTLE_ACTION, views if last else ())
        return observation

    def step(self, action: Sequence[float], views: Sequence[str] = ()) -> tuple[dict, bool]:
        """Apply one action (7,): 3 position, 3 rotation, gripper -1 open / +1 close, each in [-1, 1].

        views: the pictures to render after this step; only those stand in the observation. Returns
        (observation, success). BadInput for a wrong shape, a number that is not finite or an unknown view.
        """
        action = checked_action(action)
        self._enable(views)
        raw, _, done, _ = self.robosuite_env.step(action)
        return self._observation(raw, views), bool(done)

    def check_success(self) -> bool:
        """Whether the task's goal holds in the present state."""
        return bool(self.robosuite_env._check_success())

    def set_sim_state(self, state: np.ndarray, gripper_action: float = -1.0) -> None:
        """As RobosuiteEnv's. Fixture poses are not in a state: reset(seed) with the seed of the recording first."""
        super().set_sim_state(state, gripper_action)
        self.robosuite_env._check_success()  # objects remember things outside the state (a stove's flame)
        self.robosuite_env._post_process()

    def render(self, views: Sequence[str] = VIEWS) -> dict[str, np.ndarray]:
        """Upright pictures {view: (R, R, 3) uint8} of the present state; use it after `set_sim_state`.

        During an episode ask `step` for pictures instead: LIBERO takes its own a few milliseconds before the
        end of a step.
        """
        check_views(views, VIEWS)
        sim, size = self.robosuite_env.sim, self.resolution
        return {view: _upright(sim.render(camera_name=CAMERAS[view], width=size, height=size)) for view in views}

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
        seen = (self._raw[f"robot0_{name}"] for name in ("gripper_qpos", "joint_pos", "eef_pos", "eef_quat"))
        return _named_proprio(*seen)

    def close(self) -> None:
        """Free the renderer; the env cannot be used afterwards. Closing twice does nothing."""
        if self._env is not None:
            self._env.close()
            self._env = self.robosuite_env = None

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
        check_views(views, VIEWS)
        for view, camera in CAMERAS.items():
            self.robosuite_env._observables[f"{camera}_image"]._enabled = view in views

    def _observation(self, raw: dict, views: Sequence[str]) -> dict:
        self._raw = raw
        return {
            "views": {view: _upright(raw[f"{CAMERAS[view]}_image"]) for view in views},
            "instruction": self.task.instruction,
            "proprio": self.observed_proprio(),
        }


def _named_proprio(gripper, joints, position, quaternion) -> dict[str, np.ndarray]:
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


def _upright(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[::-1, ::-1])
