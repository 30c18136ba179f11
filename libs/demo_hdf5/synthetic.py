"""Small made-up demonstration files with pictures that tell where to go: for tests and trials.

LIBERO's layout as this project writes it; Isaac Lab's and robomimic's as these write theirs, with what a reader must
not stumble over: groups where LIBERO has arrays, packed in large chunks, hardly any attributes. In those two the
robot's state tells something that no picture does: how far it has strayed.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from libs.demo_hdf5.schema import TAG, Demo
from libs.demo_hdf5.writer import DemoWriter

ATTRS = {
    "tag": TAG,
    "env_name": "Libero_Floor_Manipulation",
    "bddl_file_name": "synthetic.bddl",
    "bddl_file_content": "(define (problem synthetic))",
    "env_args": json.dumps({"type": 1, "env_name": "Libero_Floor_Manipulation", "env_kwargs": {}}),
    "render": "fast",
}


def synthetic_demo(num_frames: int, resolution: int, seed: int) -> Demo:
    """A demo whose first action value is the place of a bright stripe: something to be learned from the picture."""
    rng = np.random.default_rng(seed)
    target = rng.uniform(-1, 1)
    actions = np.tile(np.array([target, 0, 0, 0, 0, 0, 1.0]), (num_frames, 1))
    actions[:, 1:6] = rng.uniform(-0.2, 0.2, (num_frames, 5))
    pictures = {view: _stripe(rng, num_frames, resolution, target) for view in ("agentview", "eye_in_hand")}
    last = np.arange(num_frames) == num_frames - 1
    proprio = {
        "ee_states": np.zeros((num_frames, 6)),
        "ee_pos": np.zeros((num_frames, 3)),
        "ee_ori": np.zeros((num_frames, 3)),
        "gripper_states": np.zeros((num_frames, 2)),
        "joint_states": np.zeros((num_frames, 7)),
    }
    states = rng.normal(size=(num_frames, 11))
    return Demo(
        actions=actions,
        states=states,
        robot_states=rng.normal(size=(num_frames, 9)),
        rewards=last,
        dones=last,
        obs={**pictures, **proprio},
        attrs={"model_file": "<mujoco/>", "init_state": states[0]},
    )


def _stripe(rng, num_frames, resolution, target):
    """(T, R, R, 3) uint8: noise, a bright stripe from left (target -1) to right (1), and a red top: upright."""
    frames = rng.integers(0, 40, (num_frames, resolution, resolution, 3), dtype=np.uint8)
    column = int((target + 1) / 2 * (resolution - 8))
    frames[:, :, column : column + 8] = 220
    frames[:, : resolution // 8, :, 0] = 255
    return frames


def write_synthetic_demo_file(
    path: Path | str,
    num_demos: int,
    num_frames: int,
    resolution: int,
    seed: int,
    instruction: str = "pick up the stripe",
    **attrs: Any,
) -> list[Demo]:
    """A LIBERO-layout file of `num_demos` synthetic demos; returns the demos."""
    demos = [synthetic_demo(num_frames, resolution, seed + number) for number in range(num_demos)]
    info = json.dumps({"problem_name": "synthetic", "language_instruction": instruction})
    with DemoWriter(path, {**ATTRS, "problem_info": info, "resolution": resolution, **attrs}) as writer:
        for demo in demos:
            writer.add(demo)
    return demos


class Strayed(NamedTuple):
    """A demo of another layout: actions (T, 7); views {view: (T, R, R, 3) uint8 upright}; proprio {part: (T, n)}."""

    actions: np.ndarray
    views: dict
    proprio: dict


def _strayed_demo(num_frames, resolution, seed, views, parts):
    """Action 0 is the place of the stripe, which the pictures show; action 1 is minus the first number of the part that
    ends in eef_pos, which only the robot's state shows; the gripper closes in the middle. parts: {part: size}."""
    rng = np.random.default_rng(seed)
    target, strayed = rng.uniform(-1, 1), rng.uniform(-1, 1) * 0.9 ** np.arange(num_frames)
    proprio = {part: rng.normal(size=(num_frames, size)) for part, size in parts.items()}
    (position,) = (part for part in parts if part.endswith("eef_pos"))
    proprio[position][:, 0] = strayed
    actions = rng.uniform(-0.2, 0.2, (num_frames, 7))
    actions[:, 0], actions[:, 1] = target, -strayed
    actions[:, 6] = np.where(np.arange(num_frames) < num_frames / 2, 1.0, -1.0)
    pictures = {view: _stripe(rng, num_frames, resolution, target) for view in views}
    return Strayed(actions, pictures, proprio)


def write_synthetic_isaac_file(
    path: Path, num_demos: int, num_frames: int, resolution: int, seed: int, instruction: str = ""
) -> list[Demo]:
    """A file as Isaac Lab's recorder writes it, float32, upright; returns the demos as they were before rounding.

    instruction: as this project's files state it; "": not stated, as in Isaac Lab's own.
    """
    parts = {"joint_pos": 9, "joint_vel": 9, "eef_pos": 3, "eef_quat": 4, "gripper_pos": 2}
    demos = [
        _strayed_demo(num_frames, resolution, seed + number, ("table_cam", "wrist_cam"), parts)
        for number in range(num_demos)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = num_demos * num_frames
        data.attrs["env_args"] = json.dumps({"env_name": "Isaac-Stack-Cube-Franka-IK-Rel-v0", "type": 2})
        if instruction:
            data.attrs["problem_info"] = json.dumps({"language_instruction": instruction})
        for number, demo in enumerate(demos):
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"], group.attrs["success"] = num_frames, True
            arrays = {"actions": demo.actions, **{f"obs/{part}": rows for part, rows in demo.proprio.items()}}
            arrays["states/articulation/robot/joint_position"] = demo.proprio["joint_pos"]
            arrays["initial_state/articulation/robot/joint_position"] = demo.proprio["joint_pos"][:1]
            for key, rows in arrays.items():
                group.create_dataset(key, data=rows.astype(np.float32), compression="gzip")
            for view, frames in demo.views.items():
                group.create_dataset(f"obs/{view}", data=frames, compression="gzip")
    return demos


def write_synthetic_robomimic_file(
    path: Path, num_demos: int, num_frames: int, resolution: int, seed: int
) -> list[Demo]:
    """A file as robomimic extracts it from robosuite, float64, upright, no instruction; returns the demos."""
    sizes = {"eef_pos": 3, "eef_quat": 4, "gripper_qpos": 2, "gripper_qvel": 2, "joint_pos": 7, "joint_vel": 7}
    parts = {f"robot0_{name}": size for name, size in sizes.items()}
    demos = [
        _strayed_demo(num_frames, resolution, seed + number, ("agentview", "robot0_eye_in_hand"), parts)
        for number in range(num_demos)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = num_demos * num_frames
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"]}})
        for number, demo in enumerate(demos):
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"], group.attrs["model_file"] = num_frames, "<mujoco/>"
            group["actions"], group["states"] = demo.actions, np.zeros((num_frames, 32))
            group["rewards"] = np.zeros(num_frames)
            group["dones"] = np.zeros(num_frames, dtype=np.int64)
            for after, name in ((0, "obs"), (1, "next_obs")):
                rows = np.minimum(np.arange(num_frames) + after, num_frames - 1)
                for part, values in demo.proprio.items():
                    group[f"{name}/{part}"] = values[rows]
                for view, frames in demo.views.items():
                    group[f"{name}/{view}_image"] = frames[rows]
    return demos
