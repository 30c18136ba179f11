"""Small demonstration files for tests."""

from libs.demo_hdf5.synthetic import (
    ATTRS,
    synthetic_demo,
    write_synthetic_demo_file,
    write_synthetic_isaac_file,
    write_synthetic_robomimic_file,
)

__all__ = [
    "ATTRS",
    "synthetic_demo",
    "write_synthetic_demo_file",
    "write_synthetic_isaac_file",
    "write_synthetic_robomimic_file",
]
