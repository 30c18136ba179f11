"""Small demonstration files for tests."""

import cv2
import h5py
import numpy as np

from libs.demo_hdf5 import LIBERO
from libs.demo_hdf5.synthetic import (
    ATTRS,
    synthetic_demo,
    write_synthetic_demo_file,
    write_synthetic_isaac_file,
    write_synthetic_robomimic_file,
)

__all__ = [
    "ATTRS",
    "pack_by_filter",
    "reshape_pictures",
    "synthetic_demo",
    "write_aloha_file",
    "write_synthetic_demo_file",
    "write_synthetic_isaac_file",
    "write_synthetic_robomimic_file",
]


def reshape_pictures(path, sizes):
    """Give every demo of a LIBERO-layout file pictures of other sizes: {view: (height, width)}, random."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            for view, size in sizes.items():
                shape = (len(demo["actions"]), *size, 3)
                del demo[LIBERO.views[view]]
                demo[LIBERO.views[view]] = rng.integers(0, 256, shape, dtype=np.uint8)
    return path


def write_aloha_file(path, num_frames, seed, form="plain", sizes=None):
    """An episode as ACT's recorder writes it; returns (actions, {camera: (T, H, W, 3) uint8 RGB}).

    form: plain: arrays of colours; rows: JPEG files padded to the longest, as ACT's compressed ones, PNG here so that
    nothing is lost; ragged: of their own lengths.
    """
    rng = np.random.default_rng(seed)
    sizes = sizes or {"cam_high": (48, 64), "cam_left_wrist": (48, 64)}
    actions = rng.uniform(-1, 1, (num_frames, 14))
    pictures = {name: rng.integers(0, 256, (num_frames, *size, 3), dtype=np.uint8) for name, size in sizes.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file["action"] = actions
        file["observations/qpos"] = rng.normal(size=(num_frames, 14))
        for name, frames in pictures.items():
            key = f"observations/images/{name}"
            if form == "plain":
                file[key] = frames
                continue
            files = [cv2.imencode(".png", frame)[1] for frame in frames]  # RGB given for BGR, as there
            if form == "rows":
                file[key] = np.stack([np.pad(one, (0, max(map(len, files)) - len(one))) for one in files])
            else:
                data = file.create_dataset(key, (num_frames,), h5py.vlen_dtype(np.uint8))
                for t, one in enumerate(files):
                    data[t] = one
    return actions, pictures


def pack_by_filter(path, key, number):
    """Put a dataset in the place of another that is packed by a filter that is not installed."""
    with h5py.File(path, "r+") as file:
        shape, kind = file[key].shape, h5py.h5t.py_create(file[key].dtype)
        del file[key]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((1, *shape[1:]))
        made.set_filter(number, h5py.h5z.FLAG_OPTIONAL)  # only so will HDF5 make it without having the filter
        packed = h5py.h5d.create(file.id, key.encode(), kind, h5py.h5s.create_simple(shape), made)
        for t in range(shape[0]):
            packed.write_direct_chunk((t, *(0 for _ in shape[1:])), b"packed")
