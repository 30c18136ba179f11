"""Small made-up demonstration files in LIBERO's layout, with pictures that tell where to go: for tests and trials."""

import json

import numpy as np

from libs.demo_hdf5.schema import Demo
from libs.demo_hdf5.writer import DemoWriter

ATTRS = {
    "env_name": "Libero_Floor_Manipulation",
    "bddl_file_name": "synthetic.bddl",
    "bddl_file_content": "(define (problem synthetic))",
    "env_args": json.dumps({"type": 1, "env_name": "Libero_Floor_Manipulation", "env_kwargs": {}}),
    "render": "fast",
}


def synthetic_demo(num_frames, resolution, seed):
    """A demo whose first action value is the place of a bright stripe: something to be learned from the picture."""
    rng = np.random.default_rng(seed)
    target = rng.uniform(-1, 1)
    actions = np.tile(np.array([target, 0, 0, 0, 0, 0, 1.0]), (num_frames, 1))
    actions[:, 1:6] = rng.uniform(-0.2, 0.2, (num_frames, 5))
    pictures = {}
    for view in ("agentview", "eye_in_hand"):
        frames = rng.integers(0, 40, (num_frames, resolution, resolution, 3), dtype=np.uint8)
        column = int((target + 1) / 2 * (resolution - 8))
        frames[:, :, column : column + 8] = 220
        frames[:, : resolution // 8, :, 0] = 255  # a red top: tells upright from upside down
        pictures[view] = frames
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


def write_synthetic_demo_file(path, num_demos, num_frames, resolution, seed, instruction="pick up the stripe", **attrs):
    """A LIBERO-layout file of `num_demos` synthetic demos; returns the demos."""
    demos = [synthetic_demo(num_frames, resolution, seed + number) for number in range(num_demos)]
    info = json.dumps({"problem_name": "synthetic", "language_instruction": instruction})
    with DemoWriter(path, {**ATTRS, "problem_info": info, "resolution": resolution, **attrs}) as writer:
        for demo in demos:
            writer.add(demo)
    return demos
