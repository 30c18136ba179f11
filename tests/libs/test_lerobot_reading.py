"""LeRobot sets are read as LeRobot's own reader reads them."""

import json
import multiprocessing
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from libs.lerobot_data import LeRobotSet, dataset, is_set, read_layout
from libs.lerobot_data import writer as writing
from tests.lerobot_sets import (
    FOLDER,
    FRONT,
    SAMPLES,
    WRIST,
    copied,
    edit_column,
    edited_info,
    expected,
    expected_pictures,
    stripes,
    write_made_set,
)


def opened(name, cameras=None):
    """(a sample, what LeRobot says of it)"""
    said = expected(name)
    vectors = [said["state_key"], said["action_key"]]
    return LeRobotSet(FOLDER / name, vectors, said["camera_keys"] if cameras is None else cameras), said


@pytest.mark.parametrize("name", SAMPLES)
def test_every_frame_is_the_one_that_lerobot_returns(name):
    data, said = opened(name)
    pictures = expected_pictures(name)
    assert len(said["items"]) == said["num_frames"] == len(data.rows.frame)
    for item in said["items"]:
        episode, frame = item["episode_index"], item["frame_index"]
        assert data.rows.time[data.rows.spans[episode]][frame] == item["timestamp"]
        assert data.instruction(episode, frame) == item["task"]
        for key, name in (("state", said["state_key"]), ("action", said["action_key"])):
            np.testing.assert_array_equal(data.vector(episode, name)[frame], np.float32(item[key]))
        for camera in data.cameras:
            picture = data.picture(episode, frame, camera)
            assert picture.mean(axis=(0, 1)).round(3).tolist() == item["mean_rgb"][camera]
            if (item["index"], camera) in pictures:
                np.testing.assert_array_equal(picture, pictures.pop((item["index"], camera)))
    assert not pictures


@pytest.mark.parametrize("name", SAMPLES)
def test_what_a_set_says_of_itself(name):
    layout, said = read_layout(FOLDER / name), expected(name)
    assert (layout.fps, layout.robot) == (said["fps"], said["robot_type"])
    assert layout.tasks == {int(number): text for number, text in said["tasks"].items()}
    assert list(layout.cameras) == said["camera_keys"]
    assert {name for name, camera in layout.cameras.items() if camera.kind == "video"} == set(said["video_keys"])
    for camera in layout.cameras.values():
        assert [camera.height, camera.width, 3] == said["shapes"][camera.name]
    assert set(layout.vectors) == {said["state_key"], said["action_key"]}
    for vector in layout.vectors.values():
        assert [vector.dim] == said["shapes"][vector.name] and len(vector.names) == vector.dim
    episodes = [(episode["episode_index"], episode["length"], [episode["task"]]) for episode in said["episodes"]]
    assert [(episode.index, episode.length, list(episode.tasks)) for episode in layout.episodes] == episodes


def test_v20_is_v21_with_other_statistics(tmp_path):
    root = copied("v21/libero_pi_image", tmp_path)
    with edited_info(root) as info:
        info["codebase_version"] = "v2.0"
    (root / "meta/episodes_stats.jsonl").rename(root / "meta/stats.json")
    data, (same, said) = LeRobotSet(root, ["actions"], ["image"]), opened("v21/libero_pi_image")
    for item in said["items"][::7]:
        place = item["episode_index"], item["frame_index"]
        np.testing.assert_array_equal(data.picture(*place, "image"), same.picture(*place, "image"))


@pytest.mark.parametrize("name", ["v21/so_like", "v30/so_like_h264", "v30/libero_pi_image"])
def test_order_does_not_matter(name):
    data, _ = opened(name)
    camera = data.cameras[0]
    whole = {episode: list(data.pictures(episode, camera)) for episode in data.episodes}
    places = [(episode, frame) for episode, pictures in whole.items() for frame in range(len(pictures))]
    for number in np.random.default_rng(0).permutation(len(places)):
        episode, frame = places[number]
        np.testing.assert_array_equal(data.picture(episode, frame, camera), whole[episode][frame])


def _read_last(data, queue):
    queue.put([data.picture(4, 13, camera) for camera in data.cameras])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_the_same(start):
    """A decoder that is in use here must not be used by a process that is forked."""
    data, _ = opened("v30/so_like")
    here = [data.picture(4, 13, camera) for camera in data.cameras]
    context = multiprocessing.get_context(start)
    queue = context.SimpleQueue()
    process = context.Process(target=_read_last, args=(data, queue))
    process.start()
    for picture, other in zip(here, queue.get(), strict=True):
        np.testing.assert_array_equal(picture, other)
    process.join()
    assert len(pickle.dumps(data)) < 50_000


def test_few_videos_are_open_at_a_time_of_all_sets_together(monkeypatch):
    monkeypatch.setattr(dataset.OPEN_VIDEOS, "most", 2)
    sets = [LeRobotSet(FOLDER / name, [], [FRONT, WRIST]) for name in ("v21/so_like", "v30/so_like")]
    truth = [one.picture(0, 1, FRONT) for one in sets]
    for _ in range(2):
        for one, picture in zip(sets, truth, strict=True):
            for episode in list(one.episodes)[:3]:
                one.picture(episode, 0, WRIST)
            np.testing.assert_array_equal(one.picture(0, 1, FRONT), picture)
            now = [video for each in sets for video in each._videos.values() if video._container is not None]
            assert 1 <= len(now) <= 2


def test_a_task_may_hold_what_others_take_for_the_end_of_a_line(tmp_path):
    path = copied("v21/so_like", tmp_path) / "meta/tasks.jsonl"
    path.write_text('{"task_index": 0, "task": "pick\u2028it\u0085up"}\r\n\n{"task_index": 1, "task": "put it"}\n')
    assert read_layout(tmp_path / "set").tasks == {0: "pick\u2028it\u0085up", 1: "put it"}


def test_tasks_belong_to_frames_and_are_found_by_their_number(tmp_path):
    root = copied("v30/so_like", tmp_path)
    path = root / "data/chunk-000/file-000.parquet"
    edit_column(path, "task_index", lambda tasks: [1 if 5 <= row < 8 else task for row, task in enumerate(tasks)])
    table = pq.read_table(root / "meta/tasks.parquet")
    pq.write_table(table.take([1, 0]).rename_columns(["task_index", "task"]), root / "meta/tasks.parquet")
    data = LeRobotSet(root, ["action"])
    said = [data.instruction(0, frame) for frame in range(12)]
    assert said == ["pick up the red cube"] * 5 + ["put the pen in the cup"] * 3 + ["pick up the red cube"] * 4
    # A number that the table lacks: the episode's only task, where it has only one.
    edit_column(path, "task_index", lambda tasks: [9] * len(tasks))
    assert LeRobotSet(root).instruction(1, 0) == "put the pen in the cup"


def test_episodes_that_span_files_and_wrong_file_numbers(tmp_path):
    """LeRobot joins the sorted files and never looks at data/file_index, which its converter gets wrong."""
    root = copied("v30/libero_pi_image", tmp_path)
    first = root / "data/chunk-000/file-000.parquet"
    table, other = pq.read_table(first), root / "data/chunk-001/file-000.parquet"
    other.parent.mkdir()
    pq.write_table(table.slice(0, 17), first)  # episode 1 is rows 9 to 22
    pq.write_table(table.slice(17).append_column("language_extra", pa.array(["x"] * 33)), other)
    edit_column(
        root / "meta/episodes/chunk-000/file-000.parquet", "data/file_index", lambda numbers: [7] * len(numbers)
    )
    data, (same, _) = LeRobotSet(root, ["actions"], ["image"]), opened("v30/libero_pi_image")
    assert list(data.episodes) == [0, 1, 2, 3]
    np.testing.assert_array_equal(data.vector(1, "actions"), same.vector(1, "actions"))
    for ours, theirs in zip(data.pictures(1, "image"), same.pictures(1, "image"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_cameras_may_lie_in_other_files_than_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "VIDEO_MB", 0.003)
    root = write_made_set(tmp_path / "set", lengths=(6, 6, 6, 6), pictures="h264")
    assert len(list(root.glob("data/*/*"))) == 1 and len(list(root.glob("videos/a/*/*"))) > 1
    data = LeRobotSet(root, ["action"], ["a"])
    for episode in data.episodes:
        for picture, meant in zip(data.pictures(episode, "a"), stripes(episode, (16, 24), 6), strict=True):
            assert np.abs(picture.astype(int) - meant).mean() < 12
    with edited_info(root) as info:
        info["video_path"] = "videos/{video_key}/{nothing}.mp4"
    with pytest.raises(ValueError, match=r"video_path .*cannot be filled in"):
        read_layout(root)


def test_names_and_shapes_as_people_declare_them(tmp_path):
    root = copied("v30/libero_pi_image", tmp_path)
    with edited_info(root) as info:
        features = info["features"]
        features["image"] |= {"shape": [3, 256, 128], "names": ["channels", "height", "width"]}
        features["wrist_image"] |= {"shape": [3, 64, 256], "names": None}
        features["state"]["names"] = {"motors": [f"m{n}" for n in range(8)]}
        features["actions"]["names"] = [["dx", "dy"], ["dz", "r", "p", "y", "grip"]]
        features["note"] = {"dtype": "string", "shape": [1], "names": None}
    layout = read_layout(root)
    assert [(camera.height, camera.width) for camera in layout.cameras.values()] == [(256, 128), (64, 256)]
    assert layout.vectors["state"].names[7] == "m7" and layout.vectors["actions"].names[6] == "grip"
    assert set(layout.vectors) == {"state", "actions"}
    with edited_info(root) as info:
        info["features"]["actions"]["names"] = ["actions"]  # as physical-intelligence/libero has it
    assert read_layout(root).vectors["actions"].names[:2] == ("actions.0", "actions.1")


def test_the_fingerprint_knows_the_recording_not_the_place(tmp_path):
    here, there = LeRobotSet(FOLDER / "v30/so_like"), copied("v30/so_like", tmp_path)
    assert here.fingerprint() == LeRobotSet(there).fingerprint()
    assert here.fingerprint() != LeRobotSet(FOLDER / "v30/so_like_h264").fingerprint()
    video = there / f"videos/{WRIST}/chunk-000/file-000.mp4"
    video.write_bytes(video.read_bytes() + b"\0")
    assert here.fingerprint() != LeRobotSet(there).fingerprint()


def test_a_folder_that_looks_like_a_set(tmp_path):
    assert is_set(FOLDER / "v21/so_like") and not is_set(FOLDER) and not is_set(tmp_path / "nothing")
    (tmp_path / "meta_data").mkdir()
    (tmp_path / "meta_data/info.json").write_text(json.dumps({}))
    assert is_set(tmp_path)  # of version 1.x: opening it says so


def test_a_set_without_videos_needs_no_decoder_and_one_camera_reads_one(tmp_path):
    root = copied("v30/so_like", tmp_path)
    (root / f"videos/{WRIST}/chunk-000/file-000.mp4").unlink()
    data = LeRobotSet(root, ["action"], [FRONT])
    assert data.picture(2, 3, FRONT).shape == (96, 128, 3)
