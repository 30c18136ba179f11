"""One demonstration: a random reset, a varied start, the expert's actions, pictures of the states passed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libs.demo_hdf5 import Demo, DemoWriter
from libs.demo_hdf5.schema import TAG
from libs.libero_sim.env import VIEWS, LiberoEnv
from libs.libero_sim.experts import expert_actions, first_reach
from libs.libero_sim.experts.scene import Scene
from libs.robosuite_sim.experts.geometry import middle
from libs.robosuite_sim.experts.grasp import FINGER_BELOW
from libs.robosuite_sim.experts.motion import OPEN, Funnel, steer
from libs.robosuite_sim.recording import Recording, Start, look_at_states, record_run, start_late

_START_YAW = 0.25  # radians: largest turn of a varied start
_CLEARANCE = 0.03  # metres kept between the fingertips and everything below them
_NEAR_SIDEWAYS, _NEAR_ABOVE = 0.03, 0.10  # metres around and above the object for starts near it
_MOVE_STEPS = 80
_LATE_FRACTION = 0.27  # of a task's step limit a late start lets pass: 75 of libero_object's 280; a run has about 80


@dataclass(frozen=True)
class StartVariation:
    """How starts differ.

    noise: half side (metres) of the box around the usual start from which the gripper starts; near: fraction
    of demos that start right above the object to be grasped instead; late: fraction that start in the middle
    of a run which was pushed aside now and then (so they show how to recover, after a missed grasp too).
    """

    noise: float = 0.0
    near: float = 0.0
    late: float = 0.0


def record_expert(
    env: LiberoEnv, seed: int, rng: np.random.Generator, start: StartVariation, begin: Start | None = None
) -> Recording | None:
    """Let the expert solve env.task after reset(seed), see `record_run`; None if it fails within the task's step limit.

    The objects stand where the env's own random placement puts them, never at an evaluation init state. begin: takes
    the place of `start`.
    """

    def vary() -> float | None:
        if rng.random() < start.late:
            return start_late(env, expert_actions(env, rng), rng, round(_LATE_FRACTION * env.task.max_steps))
        _vary_start(env, rng, start)
        return OPEN

    return record_run(env, seed, lambda: expert_actions(env, rng), begin or vary)


def observe_states(env: LiberoEnv, states: np.ndarray, views: Sequence[str] = VIEWS) -> dict[str, np.ndarray]:
    """What a policy sees in each of `states` (T, D).

    {view: (T, R, R, 3) uint8 upright} and, float64 under LIBERO's names, "robot_states" (T, 9), "ee_states"
    (T, 6), "ee_pos", "ee_ori" (T, 3), "gripper_states" (T, 2), "joint_states" (T, 7).
    """
    return look_at_states(env, states, lambda: env.render(views) | env.proprio_dict())


def file_attrs(env: LiberoEnv) -> dict:
    """Attributes of `data` in a file of demos that were recorded in `env`."""
    name, bddl = type(env.robosuite_env).__name__, Path(env.task.bddl_file)
    camera = {"camera_heights": env.resolution, "camera_widths": env.resolution}
    robot = {"robots": ["Panda"], "control_freq": env.robosuite_env.control_freq}
    info = {"problem_name": name.lower(), "language_instruction": env.task.instruction}
    env_args = {"type": 1, "env_name": name, "bddl_file": bddl.name, "env_kwargs": {**robot, **camera}}
    return {
        "tag": TAG,
        "env_name": name,
        "problem_info": json.dumps(info),
        "bddl_file_name": f"bddl_files/{bddl.parent.name}/{bddl.name}",
        "bddl_file_content": bddl.read_text(),
        "env_args": json.dumps(env_args),
        "render": env.render_setting,
        "resolution": env.resolution,
    }


def write_demo(
    path: str | Path, data_attrs: dict, actions: np.ndarray, states: np.ndarray, obs: dict, attrs: dict
) -> None:
    """Write a demo file of one successful demo: actions (T, 7), states (T, D) before them, obs as of
    `observe_states`, attrs of the demo."""
    last = np.arange(len(actions)) == len(actions) - 1
    seen = {name: values for name, values in obs.items() if name != "robot_states"}
    with DemoWriter(path, data_attrs) as writer:
        writer.add(Demo(actions, states, obs["robot_states"], rewards=last, dones=last, obs=seen, attrs=attrs))


def _vary_start(env: LiberoEnv, rng: np.random.Generator, start: StartVariation) -> None:
    """Move the open gripper to a random place, over everything that stands on the table."""
    scene = Scene(env)
    near = rng.random() < start.near
    if not near and start.noise <= 0:
        return
    everything = scene.other_points()
    travel_z = everything[:, 2].max() + FINGER_BELOW + _CLEARANCE
    if near:
        goal = _above(first_reach(env), everything, rng)
    else:
        goal = scene.position + rng.uniform(-start.noise, start.noise, size=3)
        goal[2] = max(goal[2], travel_z)
    yaw = scene.yaw + rng.uniform(-_START_YAW, _START_YAW)
    funnel = Funnel(goal, yaw, travel_z, radius=0.01, slope=3.0)
    for _ in range(_MOVE_STEPS):
        if np.linalg.norm(goal - scene.position) < 0.01:
            return
        env.step(steer(scene.position, scene.yaw, funnel.target(scene.position), yaw, OPEN))


def _above(points: np.ndarray, everything: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random place (3,) above some points (N, 3), clear of everything within the reach of the hand."""
    sideways = rng.uniform(-_NEAR_SIDEWAYS, _NEAR_SIDEWAYS, size=2)
    place = middle(points[:, :2]) + sideways
    below = everything[np.linalg.norm(everything[:, :2] - place, axis=1) < 0.13]
    floor = max(points[:, 2].max(), below[:, 2].max(initial=-np.inf))
    return np.array([*place, floor + FINGER_BELOW + _CLEARANCE + rng.uniform(0.0, _NEAR_ABOVE)])
