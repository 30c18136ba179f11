"""Demonstrations whose actions are goals, always as far ahead of the hand: as differences they are one action."""

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from tests.demo_files import write_synthetic_demo_file

AHEAD, TURN = np.array([0.1, 0.2, -0.1]), np.array([0.0, 0.0, 0.25])  # metres, radians
MOVED, TURNED = np.array([0.1, 0.0, 0.0]), np.array([0.0, 0.0, 0.25])  # by the hand, in a frame
# Keywords for `tiny_cfg`: such data, rotations as axis times angle.
DELTA = {
    "DATA__PROPRIO": ["ee_pos", "ee_ori"],
    "ACTION__MODE": "delta",
    "ACTION__DELTA": [0, 1, 2, 3, 4, 5],
    "ACTION__STATE": ["ee_pos", "ee_ori"],
    "ACTION__ROTATION__DIMS": [3],
}


def write_goals(path, num_demos, num_frames):
    """A LIBERO-layout file: every demo begins elsewhere, and its hand turns beyond half a turn."""
    write_synthetic_demo_file(path, num_demos, num_frames, 64, seed=0)
    rng = np.random.default_rng(0)
    with h5py.File(path, "r+") as file:
        for number in range(num_demos):
            demo, frames = file[f"data/demo_{number}"], np.arange(num_frames)[:, None]
            place = rng.uniform(-1, 1, 3) + frames * MOVED
            turned = Rotation.from_rotvec(frames * TURNED) * Rotation.from_rotvec([0.0, 0.0, 2.7])
            demo["obs/ee_pos"][:], demo["obs/ee_ori"][:] = place, turned.as_rotvec()
            goal = (Rotation.from_rotvec(TURN) * turned).as_rotvec()
            demo["actions"][:, :6] = np.concatenate([place + AHEAD, goal], axis=1)
            demo["actions"][:, 6] = 1.0
    return path
