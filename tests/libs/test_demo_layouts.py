"""Demonstration files of other layouts than LIBERO's: read by key maps, recognised, and what is wrong is named."""

import dataclasses
import pickle

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import LIBERO, DemoFile, KeyMap, verify_demo_file
from libs.demo_hdf5.key_map import InstructionPlace
from libs.demo_hdf5.layout import find_key_map, key_problems
from tests.demo_files import write_synthetic_demo_file, write_synthetic_isaac_file, write_synthetic_robomimic_file

T, SIDE = 6, 32
WRITERS = {"isaac_cosmos": write_synthetic_isaac_file, "robomimic": write_synthetic_robomimic_file}
ISAAC = KeyMap.find("isaac_cosmos")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "demo.hdf5"


def changed(path, demo, key, values=None):
    """Put `values` in the place of an array; None removes it."""
    with h5py.File(path, "r+") as file:
        del file[f"data/{demo}/{key}"]
        if values is not None:
            file[f"data/{demo}/{key}"] = values


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_is_read_upright_and_in_order(path, name):
    demos, key_map = WRITERS[name](path, 11, T, SIDE, seed=0), KeyMap.find(name)
    file = pickle.loads(pickle.dumps(DemoFile(path, key_map)))
    assert file.demos[2] == "demo_2" and len(file.demos) == 11 and file.views == list(key_map.views)
    assert (file.num_frames("demo_10"), file.render, file.picture_size("demo_0")) == (T, "standard", (SIDE, SIDE))
    np.testing.assert_allclose(file.actions("demo_10"), demos[10].actions, atol=1e-6)
    for view in key_map.views:
        np.testing.assert_array_equal(file.frame("demo_10", 3, view), demos[10].views[view][3])
    parts = list(key_map.proprio)[3:0:-1]
    rows = file.proprio("demo_10", parts)
    assert rows.dtype == np.float32 and rows.shape == (T, key_map.dim(parts))
    expected = np.concatenate([demos[10].proprio[part] for part in parts], axis=1)
    np.testing.assert_array_equal(rows, expected.astype(np.float32))
    assert file.proprio("demo_10", []).shape == (T, 0)


def test_liberos_parts_have_their_names(path):
    demo = write_synthetic_demo_file(path, 1, T, SIDE, seed=0)[0]
    rows = DemoFile(path).proprio("demo_0", ["ee_pos", "robot_states"])
    np.testing.assert_array_equal(rows[:, 3:], demo.robot_states.astype(np.float32))


def test_the_instruction_is_the_given_one_then_the_files_then_the_maps(path):
    write_synthetic_isaac_file(path, 1, T, SIDE, seed=0)
    assert DemoFile(path, ISAAC).instruction == ISAAC.instruction.text != ""
    write_synthetic_isaac_file(path, 1, T, SIDE, seed=0, instruction="stack two")
    assert DemoFile(path, ISAAC).instruction == "stack two"
    assert DemoFile(path, ISAAC, "wave").instruction == "wave"
    write_synthetic_robomimic_file(path, 1, T, SIDE, seed=0)
    with pytest.raises(ValueError, match="no language_instruction in data's problem_info"):
        _ = DemoFile(path, KeyMap.find("robomimic")).instruction
    assert DemoFile(path, KeyMap.find("robomimic"), "lift").instruction == "lift"


def test_an_instruction_may_be_an_attribute_of_its_own(path):
    write_synthetic_robomimic_file(path, 1, T, SIDE, seed=0)
    place = InstructionPlace(attribute="language", json_key="", text="")
    key_map = dataclasses.replace(KeyMap.find("robomimic"), instruction=place)
    with pytest.raises(ValueError, match="no instruction in data's language"):
        _ = DemoFile(path, key_map).instruction
    with h5py.File(path, "r+") as file:
        file["data"].attrs["language"] = "lift the cube"
    assert DemoFile(path, key_map).instruction == "lift the cube"
    with h5py.File(path, "r+") as file:
        file["data"].attrs["language"] = ["lift", "the", "cube"]
    assert DemoFile(path, key_map).instruction == "lift the cube"


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("eef_quat", None, "demo_1: no obs/eef_quat"),
        ("eef_quat", np.zeros((T, 3), "f4"), r"demo_1: obs/eef_quat has shape \(6, 3\) and type float32, .*\(6, 4\)"),
        ("eef_quat", np.zeros((T - 1, 4)), r"demo_1: obs/eef_quat has shape \(5, 4\) .*\(6, 4\)"),
        (
            "joint_pos",
            np.full((T, 9), b"x"),
            r"demo_1: obs/joint_pos has shape \(6, 9\) and type \|S1, ",
        ),
        ("joint_pos", np.full((T, 9), np.nan), "demo_1: obs/joint_pos holds a number that is not finite"),
    ],
)
def test_a_bad_part_is_named_when_it_is_asked_for(path, part, values, message):
    write_synthetic_isaac_file(path, 2, T, SIDE, seed=0)
    changed(path, "demo_1", f"obs/{part}", values)
    file = DemoFile(path, ISAAC)  # pictures and actions are all that a text policy needs
    assert file.proprio("demo_0", [part]).shape[0] == file.proprio("demo_1", ["eef_pos"]).shape[0] == T
    with pytest.raises(ValueError, match=rf"demo\.hdf5, {message}"):
        file.proprio("demo_1", [part])


def test_a_part_that_is_a_group_or_unknown_is_named(path):
    write_synthetic_isaac_file(path, 1, T, SIDE, seed=0)
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/obs/eef_pos"]
        file.create_group("data/demo_0/obs/eef_pos")
    with pytest.raises(ValueError, match=r"demo\.hdf5, demo_0: no obs/eef_pos"):
        DemoFile(path, ISAAC).proprio("demo_0", ["eef_pos"])
    with pytest.raises(ValueError, match="key map isaac_cosmos has no proprio part 'ee_pos'; it has joint_pos"):
        DemoFile(path, ISAAC).proprio("demo_0", ["ee_pos"])


def test_actions_and_pictures_are_checked_by_the_map(path):
    write_synthetic_isaac_file(path, 1, T, SIDE, seed=0)
    with pytest.raises(ValueError, match="demo_0: no obs/agentview_image; render the pictures first"):
        DemoFile(path, KeyMap.find("robomimic"))
    changed(path, "demo_0", "actions", np.zeros((T, 8)))
    with pytest.raises(ValueError, match=r"actions have shape \(6, 8\) and type float64, expected .*\(T, 7\)"):
        DemoFile(path, ISAAC)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_recognised_even_where_it_lacks_something(path, name):
    WRITERS[name](path, 2, T, SIDE, seed=0)
    assert find_key_map(path).name == name
    assert key_problems(path, KeyMap.find(name)) == [] and verify_demo_file(path, KeyMap.find(name)) == []
    changed(path, "demo_0", KeyMap.find(name).views[KeyMap.find(name).main_view])
    assert find_key_map(path).name == name


def test_liberos_files_are_recognised(path):
    write_synthetic_demo_file(path, 2, T, SIDE, seed=0)
    assert find_key_map(path) == LIBERO and key_problems(path, LIBERO) == []


def test_a_file_that_no_map_fits_is_answered_with_what_it_has(path):
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = np.zeros((4, 7))
        file["data/demo_0/observations/front"] = np.zeros((4, 8, 8, 3), "u1")
    with pytest.raises(ValueError, match=r"fits none .*libero.*: its demo_0 .*observations/front uint8 \(4, 8, 8, 3\)"):
        find_key_map(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"not HDF5", "cannot be opened"), ("empty", "no group 'data'")],
)
def test_files_that_cannot_be_read_are_named(path, content, message):
    if content == "empty":
        h5py.File(path, "w").close()
    elif content:
        path.write_bytes(content)
    for read in (find_key_map, lambda path: key_problems(path, ISAAC), lambda path: DemoFile(path, ISAAC)):
        with pytest.raises(ValueError, match=rf"demo\.hdf5.* {message}"):
            read(path)


def test_every_key_is_reported_with_what_is_found_wanted_and_where(path):
    write_synthetic_isaac_file(path, 4, T, SIDE, seed=0)
    for demo in ("demo_1", "demo_3"):
        changed(path, demo, "obs/wrist_cam")
    changed(path, "demo_2", "obs/wrist_cam", np.zeros((T, SIDE, SIDE, 4), "u1"))
    for number in range(4):
        changed(path, f"demo_{number}", "obs/eef_quat", np.zeros((T, 3)))
    changed(path, "demo_0", "actions")
    changed(path, "demo_3", "obs/joint_pos", np.zeros((T + 1, 9)))
    assert key_problems(path, ISAAC) == [
        "actions (actions): missing in demo_0",
        "obs/eef_quat (proprio eef_quat): float64 (6, 3), wanted numbers (T, 4), in all 4 demos",
        "obs/wrist_cam (view wrist_cam): missing in demo_1 and 1 more",
        "obs/wrist_cam (view wrist_cam): uint8 (6, 32, 32, 4), wanted uint8 (6, H, W, 3), in demo_2",
        "obs/joint_pos (proprio joint_pos): float64 (7, 9), wanted numbers (6, 9), in demo_3",
    ]


def test_values_are_verified_in_every_layout(path):
    write_synthetic_isaac_file(path, 3, T, SIDE, seed=0)
    with h5py.File(path, "r+") as file:
        file["data/demo_0/obs/eef_pos"][2, 1] = np.inf
        file["data/demo_1/obs/table_cam"][4] = 7
        file["data/demo_2"].attrs["num_samples"] = 5
        file["data"].attrs["total"] = 17
        file["mask/train"] = [b"demo_9"]
    assert verify_demo_file(path, ISAAC) == [
        "data: total is 17, but there are 18 frames",
        "mask/train: lists demos that do not exist: demo_9",
        "demo_0: obs/eef_pos has NaN or infinity, first at step 2",
        "demo_1: obs/table_cam: 1 of 6 pictures have one colour only, first frame 4",
        "demo_2: num_samples is 5, but there are 6 frames",
    ]
