"""Forms that files of others have: an episode per file, encoded frames, an instruction per demo or none at all."""

import dataclasses
import json

import cv2
import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import LIBERO, DemoFile, KeyMap, verify_demo_file
from libs.demo_hdf5.key_map import DemoText
from libs.demo_hdf5.layout import find_key_map, key_problems
from tests.demo_files import write_aloha_file, write_synthetic_demo_file

ALOHA = KeyMap.find("aloha")


@pytest.mark.parametrize("form", ["plain", "rows", "ragged"])
def test_an_episode_per_file_with_frames_in_every_form(tmp_path, form):
    path = tmp_path / "episode_0.hdf5"
    actions, pictures = write_aloha_file(path, 5, seed=0, form=form)
    assert find_key_map(path) == ALOHA
    file = DemoFile(path, ALOHA, "fold it")
    assert file.demos == ["demo_0"] and file.views == ["cam_high", "cam_left_wrist"] and file.num_frames("demo_0") == 5
    np.testing.assert_array_equal(file.actions("demo_0"), actions)
    for view, frames in pictures.items():
        assert file.picture_size("demo_0", view) == (48, 64)
        for t, frame in enumerate(frames):
            np.testing.assert_array_equal(file.frame("demo_0", t, view), frame)
    assert file.proprio("demo_0", ["qpos"]).shape == (5, 14) and file.attrs["sim"] == 0
    lines = key_problems(path, ALOHA)
    assert {line.split()[0] for line in lines} == {
        "observations/images/cam_low",
        "observations/images/cam_right_wrist",
        "observations/qvel",
        "observations/effort",
    }
    assert not any("cannot be read" in line or "colour" in line for line in verify_demo_file(path, ALOHA))
    with pytest.raises(ValueError, match="no instruction in data's attributes"):
        _ = DemoFile(path, ALOHA).instruction


def test_colours_are_those_of_who_wrote_them(tmp_path):
    """A red frame: OpenCV given RGB for BGR swaps it in the file; every other encoder does not."""
    red = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    for order, channels in (("bgr", red), ("rgb", red[..., ::-1])):
        path = tmp_path / f"{order}.hdf5"
        with h5py.File(path, "w") as file:
            file["action"] = np.zeros((2, 14))
            files = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 100])[1] for frame in channels]
            file["observations/images/cam_high"] = np.stack(files)
        frame = DemoFile(path, dataclasses.replace(ALOHA, encoded=order), "go").frame("demo_0", 1, "cam_high")
        assert frame[..., 0].min() > 240 and frame[..., 1:].max() < 15


def test_encoded_frames_below_demos_and_of_fixed_bytes(tmp_path):
    path = tmp_path / "demo.hdf5"
    demos = write_synthetic_demo_file(path, 2, 3, 16, seed=0)
    with h5py.File(path, "r+") as file:
        for number, demo in enumerate(demos):
            for view, key in LIBERO.views.items():
                files = [cv2.imencode(".png", frame[::-1, ::-1, ::-1])[1].tobytes() for frame in demo.obs[view]]
                del file[f"data/demo_{number}/{key}"]
                kind = f"V{max(map(len, files))}" if number else h5py.string_dtype("ascii", max(map(len, files)))
                file[f"data/demo_{number}/{key}"] = np.array(files, dtype=kind)
    file = DemoFile(path)
    for number, demo in enumerate(demos):
        for view in LIBERO.views:
            np.testing.assert_array_equal(file.frame(f"demo_{number}", 2, view), demo.obs[view][2])


def test_a_damaged_frame_is_named(tmp_path):
    path = tmp_path / "episode_0.hdf5"
    write_aloha_file(path, 4, seed=0, form="rows")
    with h5py.File(path, "r+") as file:
        file["observations/images/cam_high"][2] = 0
    with pytest.raises(ValueError, match=r"episode_0\.hdf5: observations/images/cam_high at frame 2 is no picture"):
        DemoFile(path, ALOHA, "go").frame("demo_0", 2, "cam_high")
    assert any("1 of 4 pictures cannot be read" in line for line in verify_demo_file(path, ALOHA))
    with h5py.File(path, "r+") as file:
        file["observations/images/cam_high"][0] = 0
    with pytest.raises(ValueError, match=r"demo_0: observations/images/cam_high at frame 0 is no picture"):
        DemoFile(path, ALOHA, "go")


def test_a_file_that_is_no_episode_is_refused(tmp_path):
    write_synthetic_demo_file(tmp_path / "libero.hdf5", 1, 3, 16, seed=0)
    with pytest.raises(ValueError, match="has no action: not a file of demonstrations"):
        DemoFile(tmp_path / "libero.hdf5", ALOHA)
    assert find_key_map(tmp_path / "libero.hdf5") == LIBERO


# ------------------------------------------------------------------------------------------------ instructions


def map_with(**demo):
    place = LIBERO.instruction._replace(demo=DemoText(**{"key": "", "attribute": "", "json_key": "", **demo}))
    return dataclasses.replace(LIBERO, instruction=place)


def state(group, form, text):
    if form == "attribute":
        group.attrs["language"] = text
    elif form == "of obs":
        group["obs"].attrs["language"] = np.array([text.encode()])
    elif form == "json":
        group.attrs["ep_meta"] = json.dumps({"lang": text})
    elif form == "bytes":
        group["language"] = np.frombuffer(text.encode() + b"\0\0", np.uint8)
    else:
        group["language"] = np.array([text.encode()]) if form == "strings" else text


PLACES = {
    "attribute": {"attribute": "language"},
    "of obs": {"key": "obs", "attribute": "language"},
    "json": {"attribute": "ep_meta", "json_key": "lang"},
    "bytes": {"key": "language"},
    "strings": {"key": "language"},
    "scalar": {"key": "language"},
}


@pytest.mark.parametrize("form", PLACES)
def test_a_demo_may_state_an_instruction_of_its_own(tmp_path, form):
    path = tmp_path / "turn_on_the_stove_demo.hdf5"  # LIBERO's name says less than a demo itself
    write_synthetic_demo_file(path, 3, 3, 16, seed=0)
    with h5py.File(path, "r+") as file:
        for number in range(2):
            state(file[f"data/demo_{number}"], form, f"lift number {number}")
    file = DemoFile(path, map_with(**PLACES[form]))
    assert [file.instruction_of(demo) for demo in file.demos] == ["lift number 0", "lift number 1", "turn on the stove"]
    assert file.instructions == ["lift number 0", "lift number 1", "turn on the stove"] and file.demos_state
    given = DemoFile(path, map_with(**PLACES[form]), "given")
    assert given.instructions == ["given"] and not given.demos_state
    assert DemoFile(path).instructions == ["turn on the stove"]  # its map says nothing of demos


def test_what_is_no_text_is_named(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_synthetic_demo_file(path, 2, 3, 16, seed=0)
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs["language"] = 3.5
    with pytest.raises(ValueError, match=r"demo\.hdf5, demo_1: language is no text"):
        DemoFile(path, map_with(attribute="language"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("KITCHEN_SCENE2_open_the_top_drawer_of_the_cabinet_demo", "open the top drawer of the cabinet"),
        ("wipe_the_table_clean_demo", "wipe the table clean"),
        ("session_3_demo", ""),  # two words are no sentence
        ("wipe_the_table_clean", ""),
    ],
)
def test_without_any_attribute_the_name_says_the_task(tmp_path, name, text):
    """As OpenVLA's regeneration writes them."""
    path = tmp_path / f"{name}.hdf5"
    write_synthetic_demo_file(path, 1, 3, 16, seed=0)
    with h5py.File(path, "r+") as file:
        for holder in (file["data"], file["data/demo_0"]):
            for attribute in list(holder.attrs):
                del holder.attrs[attribute]
    file = DemoFile(path)
    if text:
        assert file.instruction == text == file.instruction_of("demo_0")
    else:
        with pytest.raises(ValueError, match="no language_instruction in data's problem_info"):
            _ = file.instruction
