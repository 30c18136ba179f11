"""Small demonstration files for tests."""

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
