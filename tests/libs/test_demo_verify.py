"""libs.demo_hdf5.verify: every kind of problem is found and named with its demo."""

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import verify_demo_file
from tests.demo_files import write_synthetic_demo_file

T, SIDE = 5, 16


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_synthetic_demo_file(path, 3, T, SIDE, seed=0)
    return path


def changed(name, index, value):
    """Change values of an array of demo_1."""

    def change(file):
        file[f"data/demo_1/{name}"][index] = value

    return change


def retyped(name, values):
    def change(file):
        del file[f"data/demo_1/{name}"]
        file[f"data/demo_1/{name}"] = values

    return change


def attribute(place, name, value=None):
    """Set an attribute; None removes it."""

    def change(file):
        del file[place].attrs[name]
        if value is not None:
            file[place].attrs[name] = value

    return change


def listed(file):
    file["mask/train"] = [b"demo_1", b"demo_7"]


PROBLEMS = {
    "demo_1: states has NaN or infinity, first at step 0": changed("states", (0, 1), np.inf),
    "demo_1: robot_states has NaN or infinity, first at step 4": changed("robot_states", (4, 8), np.nan),
    "demo_1: obs/ee_pos has NaN or infinity, first at step 1": changed("obs/ee_pos", (1, 0), np.nan),
    "demo_1: actions reach 1.5, outside [-1, 1], first at step 3": changed("actions", (3, 0), -1.5),
    "demo_1: the gripper's action is 0.5 at step 1, neither -1 nor 1": changed("actions", (1, 6), 0.5),
    "demo_1: rewards is 0 at step 4 of 5: only the last should be 1": changed("rewards", 4, 0),
    "demo_1: dones is 1 at step 2 of 5: only the last should be 1": changed("dones", 2, 1),
    "demo_1: actions is float32, expected float64": retyped(
        "actions", np.tile(np.float32([0.25, 0, 0, 0, 0, 0, 1]), (T, 1))
    ),
    "demo_1: dones is int64, expected uint8": retyped("dones", [0, 0, 0, 0, 1]),
    "demo_1: robot_states has shape (5, 8), expected (5, 9)": retyped("robot_states", np.zeros((T, 8))),
    "demo_1: obs/joint_states is missing": lambda file: file.__delitem__("data/demo_1/obs/joint_states"),
    "demo_1: states is missing": lambda file: file.__delitem__("data/demo_1/states"),
    "demo_1: num_samples is 9, but there are 5 frames": attribute("data/demo_1", "num_samples", 9),
    "demo_1: attribute model_file is missing": attribute("data/demo_1", "model_file"),
    "demo_1: attribute init_state is missing": attribute("data/demo_1", "init_state"),
    "demo_1: init_state has shape (3,), a state (11,)": attribute("data/demo_1", "init_state", np.zeros(3)),
    "demo_1: obs/agentview_rgb: 2 of 5 pictures have one colour only, first frame 2": changed(
        "obs/agentview_rgb", slice(2, 4), 0
    ),
    "demo_1: obs/eye_in_hand_rgb has 8 x 8 pixels, but resolution is 16": retyped(
        "obs/eye_in_hand_rgb", np.random.default_rng(0).integers(0, 255, (T, 8, 8, 3), dtype=np.uint8)
    ),
    "data: num_demos is 4, but there are 3 demos": attribute("data", "num_demos", 4),
    "data: total is 14, but there are 15 frames": attribute("data", "total", 14),
    "data: attribute bddl_file_name is missing": attribute("data", "bddl_file_name"),
    "data: attribute env_args is missing": attribute("data", "env_args"),
    "data: attribute env_args is not JSON": attribute("data", "env_args", "{"),
    "data: attribute problem_info has no language_instruction": attribute("data", "problem_info", "{}"),
    "data: attribute macros_image_convention is missing": attribute("data", "macros_image_convention"),
    "mask/train: lists demos that do not exist: demo_7": listed,
}


def test_a_good_file_has_no_problems(path):
    assert verify_demo_file(path) == []


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_problem_is_found_alone(path, problem):
    with h5py.File(path, "r+") as file:
        PROBLEMS[problem](file)
    assert verify_demo_file(path) == [problem]


def test_a_file_without_the_second_view_says_so(path):
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            del demo["obs/eye_in_hand_rgb"]
    assert verify_demo_file(path) == [f"demo_{number}: obs/eye_in_hand_rgb is missing" for number in range(3)]


def test_a_damaged_picture_is_found(path):
    damage(path, "demo_1", frame=3)
    assert verify_demo_file(path) == [
        "demo_1: obs/agentview_rgb: 1 of 5 pictures cannot be read (damaged), first frame 3"
    ]


def test_files_from_elsewhere_may_have_a_continuous_gripper(path):
    with h5py.File(path, "r+") as file:
        del file["data"].attrs["render"]
        file["data/demo_1/actions"][1, 6] = 0.5
    assert verify_demo_file(path) == []


def test_a_file_that_cannot_be_used_raises(path):
    path.write_text("not HDF5")
    with pytest.raises(ValueError, match="cannot be opened"):
        verify_demo_file(path)


def damage(path, demo, frame):
    """Overwrite some bytes of a stored picture."""
    with h5py.File(path, "r") as file:
        offset = file[f"data/{demo}/obs/agentview_rgb"].id.get_chunk_info(frame).byte_offset
    with path.open("r+b") as raw:
        raw.seek(offset + 5)
        raw.write(b"\xff" * 40)
