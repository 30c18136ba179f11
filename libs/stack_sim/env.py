"""robosuite's Stack as an environment: seeded, upright, and rendering only the pictures that are asked for."""

from collections.abc import Callable, Sequence

import numpy as np

from libs.robosuite_sim.env import RobosuiteEnv, checked_action
from libs.robosuite_sim.gl import import_simulator
from libs.robosuite_sim.remote import SimProcess
from libs.stack_sim.task import StackTask

CAMERAS = {"table_cam": "agentview", "wrist_cam": "robot0_eye_in_hand"}  # view -> camera name in the model
VIEWS = tuple(CAMERAS)
PROPRIO_DIMS = {"joint_pos": 9, "joint_vel": 9, "eef_pos": 3, "eef_quat": 4, "gripper_pos": 2}
CONTROL_FREQ = 20  # actions per second
# robosuite's agentview looks past the gripper and shows the cubes small; so it is put to the robot's left, close.
_TABLE_CAM_POSITION, _TABLE_CAM_TARGET = np.array([0.5, -0.3, 1.15]), np.array([-0.04, 0.0, 0.905])  # metres
_TABLE_CAM_FOVY = 37.0  # degrees
_CENTRE_TOLERANCE = 0.025  # metres from axis to axis: the upper cube's middle is over the lower cube's top
_HEIGHT_TOLERANCE = 0.005  # metres


class StackEnv(RobosuiteEnv):
    """Cube stacking in the simulator, see RobosuiteEnv. All of an observation is of the state after the step."""

    CAMERAS = CAMERAS
    MIRRORED = False

    def __init__(self, task: StackTask, resolution: int = 200, render: str = "standard") -> None:
        super().__init__(task, resolution, render)
        self._place_table_camera()

    def _maker(self) -> Callable:
        stack = import_simulator("robosuite.environments.manipulation.stack")
        controllers = import_simulator("robosuite.controllers")
        return lambda: stack.Stack(
            robots="Panda",
            controller_configs=controllers.load_controller_config(default_controller="OSC_POSE"),
            control_freq=CONTROL_FREQ,
            use_camera_obs=False,  # pictures are rendered when they are asked for
            use_object_obs=False,
            hard_reset=False,  # the model is the same for every placement
            ignore_done=True,  # the step limit is the caller's
        )

    def reset(self, seed: int, views: Sequence[str] = ()) -> dict:
        """Start an episode; its observation, before the cubes have fallen the last centimetre (see `settle`).

        seed: of the cubes' placement and of the arm's small random offset, which depend on nothing else.
        """
        self._reset_seeded(seed, self.robosuite_env.reset)
        return self._observation(views)

    def step(self, action: np.ndarray | Sequence[float], views: Sequence[str] = ()) -> tuple[dict, bool]:
        """As RobosuiteEnv's."""
        self.robosuite_env.step(checked_action(action))
        # robosuite leaves poses from 2 ms before its state; with this a picture is a function of the state alone.
        self.robosuite_env.sim.forward()
        return self._observation(views), self.check_success()

    def check_success(self) -> bool:
        """Whether the red cube rests on the green one, let go.

        robosuite's criterion (touching it, off the table, not between both fingers), and flat on it with its
        middle over it: robosuite alone also counts a cube that touches the other while it falls past it.
        """
        red, green = self.cube_positions().reshape(2, 3)
        apart = red - green - np.array([0.0, 0.0, 0.045])  # half of 4 cm and half of 5 cm
        flat = np.linalg.norm(apart[:2]) < _CENTRE_TOLERANCE and abs(apart[2]) < _HEIGHT_TOLERANCE
        return bool(flat and super().check_success())

    def proprio_dict(self) -> dict[str, np.ndarray]:
        """The robot's present state under the names of Isaac Lab's stacking task, all float64.

        joint_pos 9: 7 arm joints (radians), 2 fingers (metres from closed, both positive); joint_vel 9, the same
        per second; eef_pos 3: point between the fingertips, world metres; eef_quat 4: of the hand, w x y z;
        gripper_pos 2: the fingers once more, the second one's sign turned round, as Isaac Lab has it.
        """
        data, robot = self.robosuite_env.sim.data, self.robosuite_env.robots[0]
        fingers = np.array(data.qpos[robot._ref_gripper_joint_pos_indexes])
        finger_speeds = np.array(data.qvel[robot._ref_gripper_joint_vel_indexes])
        both_positive = np.array([1.0, -1.0])
        return {
            "joint_pos": np.concatenate([data.qpos[robot._ref_joint_pos_indexes], fingers * both_positive]),
            "joint_vel": np.concatenate([data.qvel[robot._ref_joint_vel_indexes], finger_speeds * both_positive]),
            "eef_pos": np.array(data.site_xpos[robot.eef_site_id]),
            "eef_quat": np.array(data.get_body_xquat(robot.robot_model.eef_name)),
            "gripper_pos": fingers,
        }

    def cube_positions(self) -> np.ndarray:
        """(6,) world metres: red x y z, green x y z."""
        return np.concatenate([self.robosuite_env.sim.data.body_xpos[body] for body in self._cube_bodies])

    def cube_orientations(self) -> np.ndarray:
        """(8,): quaternions w x y z of the red and of the green cube."""
        return np.concatenate([self.robosuite_env.sim.data.body_xquat[body] for body in self._cube_bodies])

    @property
    def _cube_bodies(self) -> tuple[int, int]:
        return self.robosuite_env.cubeA_body_id, self.robosuite_env.cubeB_body_id

    def _observation(self, views: Sequence[str]) -> dict:
        return {"views": self.render(views), "instruction": self.task.instruction, "proprio": self.proprio_dict()}

    def _place_table_camera(self) -> None:
        from robosuite.utils.transform_utils import convert_quat, mat2quat

        back = _TABLE_CAM_POSITION - _TABLE_CAM_TARGET
        back /= np.linalg.norm(back)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(back, right), back], axis=1)  # a camera looks along its -z
        model = self.robosuite_env.sim.model
        camera = model.camera_name2id(self.CAMERAS["table_cam"])
        model.cam_pos[camera] = _TABLE_CAM_POSITION
        model.cam_quat[camera] = convert_quat(mat2quat(axes), to="wxyz")
        model.cam_fovy[camera] = _TABLE_CAM_FOVY


class StackProcess(SimProcess):
    """The calls of a StackEnv, run in a child process."""

    FACTORY = "libs.stack_sim.env:StackEnv"
