"""What is wrong with a set is found, and nothing else."""

import json

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from libs.lerobot_data import read_layout
from libs.lerobot_data.checks import check_set, suggest
from libs.lerobot_data.rows import read_rows
from libs.manifest.pictures import encode_picture
from tests.lerobot_sets import (
    FOLDER,
    FRONT,
    SAMPLES,
    WRIST,
    copied,
    cut_off,
    edit_column,
    edited_info,
    expected,
    stripes,
    write_made_set,
)

DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


def facts(root, decode=False, but=("statistics",)):
    """[(kind, text)] of what is found, without the kinds `but`."""
    layout = read_layout(root)
    found = check_set(layout, read_rows(layout, list(layout.vectors)), decode)
    return [tuple(fact) for fact in found if fact.kind not in but]


def test_sets_of_lerobot_are_sound_but_for_its_quantiles():
    for name in SAMPLES:
        assert facts(FOLDER / name, decode=True) == []
        wrong = facts(FOLDER / name, but=())
        assert len(wrong) == (2 if name.startswith("v30/") else 0)  # v2.1 and converted sets have no quantiles
        assert all("LeRobot averages the episodes' quantiles" in text for _, text in wrong)
    assert ("statistics", "action: q01 of shoulder_pan.pos is -1.011, by the data -1.274 (5 quantiles are off: "
            "LeRobot averages the episodes' quantiles)") in facts(FOLDER / "v30/so_like", but=())  # fmt: skip


@pytest.mark.parametrize("pictures", ["png", "h264"])
def test_our_own_sets_are_sound(tmp_path, pictures):
    assert facts(write_made_set(tmp_path / "set", pictures=pictures), decode=True, but=()) == []


def test_frames(tmp_path):
    root = copied("v30/so_like", tmp_path)
    table, episodes = pq.read_table(root / DATA), pq.read_table(root / EPISODES)
    pq.write_table(table.slice(12), root / DATA)
    assert facts(root, but=("statistics", "video")) == [
        ("empty", "episode 0 has no frames"),
        ("frames", "episode 0 has 0 rows, by its table 12"),
        ("frames", "meta/info.json says total_frames 88, there are 76"),
    ]
    pq.write_table(table, root / DATA)
    edit_column(root / DATA, "frame_index", lambda rows: [*rows[:3], 30, *rows[4:]])
    edit_column(root / EPISODES, "episode_index", lambda numbers: [0, 1, 2, 2, 4])
    said = facts(root, but=("statistics", "video", "timestamps", "tasks"))
    assert ("frames", "episode 0: frame_index is not 0 to 11") in said
    assert ("frames", "episode 2 has more than one line in the table of episodes") in said
    assert ("frames", "episode 3 has rows, but no line in the table of episodes") in said
    pq.write_table(episodes, root / EPISODES)
    edit_column(root / EPISODES, "length", lambda lengths: [*lengths[:3], 0, 0])
    assert ("frames", "episode 4 has 14 rows, by its table 0") in facts(root)
    pq.write_table(table.slice(37), root / DATA)
    assert ("empty", "episodes 0, 1 have no frames") in facts(root)


def test_empty_episodes_of_v21(tmp_path):
    root = copied("v21/so_like", tmp_path)
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text() + json.dumps({"episode_index": 5, "tasks": [], "length": 0}) + "\n")
    assert facts(root) == [
        ("empty", "episode 5 has no frames"),
        ("frames", "meta/info.json says total_episodes 5, there are 6"),
    ]


def test_timestamps(tmp_path):
    root = copied("v30/so_like", tmp_path)
    edit_column(root / DATA, "timestamp", lambda times: [*times[:14], times[14] + 0.01, *times[15:]])
    said = facts(root)
    assert said[0] == (
        "timestamps",
        "episode 1: 1 of 25 timestamps are not frame / 30, first frame 2: 0.0767 s instead of 0.0667",
    )
    assert [kind for kind, _ in said] == ["timestamps"] * 3  # that frame is in neither video
    assert (
        f"episode 1, {FRONT}: 1 of 25 frames are not in videos/{FRONT}/chunk-000/file-000.mp4 within 0.0001 s"
        in said[1][1]
    )
    assert said[1][1].endswith("first frame 2 at 0.4767 s: the nearest is 0.0100 s away")


def test_tasks(tmp_path):
    root = copied("v30/so_like", tmp_path)
    edit_column(root / DATA, "task_index", lambda tasks: [7 if row < 3 else task for row, task in enumerate(tasks)])
    said = facts(root)
    assert said[0] == ("tasks", "task 7 does not exist: 3 frames, first in episode 0")
    assert said[1][1].startswith(
        "episode 0: its table says ('pick up the red cube',), its rows 'pick up the red cube', N"
    )
    root = copied("v21/so_like", tmp_path / "other")
    path = root / "meta/tasks.jsonl"
    path.write_text(path.read_text().replace("put the pen in the cup", " "))
    assert ("tasks", "task 1 is empty: 39 frames, first in episode 1") in facts(root)


def test_numbers_and_statistics(tmp_path):
    root = copied("v30/so_like", tmp_path)
    edit_column(root / DATA, "action", lambda rows: [*rows[:13], [0, np.nan, 0, np.inf, 0, 0], *rows[14:]])
    text = "action: 2 numbers are not finite, first shoulder_lift.pos of episode 1, frame 1: nan"
    assert facts(root) == [("numbers", text)]
    path = root / "meta/stats.json"
    stats = json.loads(path.read_text())
    stats["observation.state"]["max"][1], stats["observation.state"]["std"][2] = 500, float("nan")
    stats["observation.state"]["mean"] = [0.0]
    del stats["action"]
    path.write_text(json.dumps(stats))
    said = [text for kind, text in facts(root, but=()) if kind == "statistics"]
    assert said[:3] == [
        "observation.state: max of shoulder_lift.pos is 500, by the data 413",
        "observation.state: mean has 1 numbers, not 6",
        "observation.state: std of elbow_flex.pos is nan, by the data 129.8",
    ]
    assert said[-1] == "action: no statistics"
    path.unlink()
    assert facts(root, but=("numbers",)) == [
        ("statistics", "none: neither meta/stats.json nor meta/episodes_stats.jsonl")
    ]


def test_statistics_of_episodes(tmp_path):
    root = copied("v21/so_like", tmp_path)
    path = root / "meta/episodes_stats.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[1:3]:
        line["stats"]["action"]["mean"][0] += 1
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
    off = "mean of shoulder_pan.pos is 1.074, by the data 0.07447"
    assert facts(root, but=()) == [
        ("statistics", f"action, episode 1: {off} (2 episodes are off)"),
        ("statistics", "meta/episodes_stats.jsonl has nothing of episode 4 (1 are missing)"),
    ]


def test_statistics_of_pictures_need_all_of_them():
    """LeRobot 0.4.4 writes deviations of pictures that are those of something else."""
    found = [text for _, text in facts(FOLDER / "v30/libero_pi_image", decode=True, but=()) if "image:" in text]
    assert found == [
        "image: std of red is 4.028e-05, by the data 0.1507",
        "wrist_image: std of red is 0.0001183, by the data 0.1498",
    ]


def test_a_video_without_frames(tmp_path):
    root = copied("v30/so_like", tmp_path)
    path = root / f"videos/{FRONT}/chunk-000/file-000.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.pix_fmt, stream.height, stream.width = "yuv420p", 96, 128
        container.start_encoding()
    (kind, text), *_ = facts(root)
    assert kind == "video" and f"{FRONT}/chunk-000/file-000.mp4" in text


def test_videos(tmp_path):
    root = copied("v30/so_like", tmp_path)
    front, wrist = (root / f"videos/{camera}/chunk-000/file-000.mp4" for camera in (FRONT, WRIST))
    wrist.unlink()
    cut_off(front, 0.8)
    said = facts(root)
    assert ("video", f"{wrist} does not exist") in said
    assert ("video", f"videos/{FRONT}/chunk-000/file-000.mp4 has 75 frames, its episodes 88") in said
    (kind, text), _ = facts(root, decode=True)
    assert kind == "video" and str(front) in text and "get it again" in text
    root = copied("v30/so_like", tmp_path / "other")
    edit_column(root / EPISODES, f"videos/{WRIST}/to_timestamp", lambda ends: [ends[0] + 0.1, *ends[1:]])
    (root / f"videos/{FRONT}/chunk-000/file-000.mp4").write_bytes(
        (FOLDER / f"v21/so_like/videos/chunk-000/{FRONT}/episode_000001.mp4").read_bytes()
    )
    said = facts(root)
    assert ("video", f"videos/{FRONT}/chunk-000/file-000.mp4 has 25 frames, its episodes 88") in said
    assert ("video", f"episode 0, {WRIST}: from 0 to 0.5 s are 15.0 frames, not 12") in said
    assert any(
        kind == "timestamps" and f"episode 4, {FRONT}: 14 of 14 frames are not in" in text for kind, text in said
    )


def test_pictures_in_rows(tmp_path):
    root = copied("v30/libero_pi_image", tmp_path)
    small = {"bytes": encode_picture(next(stripes(0, (16, 16), 1)), "png", 0), "path": ""}
    edit_column(root / DATA, "wrist_image", lambda rows: [*rows[:30], small, *rows[31:]])
    assert facts(root) == []
    assert facts(root, decode=True) == [
        ("pictures", "episode 2, frame 7, wrist_image: 16 x 16 pixels, declared 256 x 256")
    ]
    with edited_info(root) as info:
        info["features"]["image"]["shape"] = [128, 128, 3]
    edit_column(root / DATA, "wrist_image", lambda rows: [{"bytes": b"no", "path": ""}, *rows[1:]])
    said = facts(root)
    assert said[0] == ("pictures", "episode 0, frame 0, image: 256 x 256 pixels, declared 128 x 128")
    assert said[1][0] == "pictures" and "row 0, column wrist_image: the picture is damaged" in said[1][1]


def test_which_names_a_recipe_is_likely_to_want(tmp_path):
    for name in SAMPLES:
        said = expected(name)
        assert suggest(read_layout(FOLDER / name)) == {
            "views": said["camera_keys"],
            "proprio": [said["state_key"]],
            "action": said["action_key"],
        }
    root = copied("v30/so_like", tmp_path)
    with edited_info(root) as info:
        info["features"] = {"arm.action": info["features"]["action"], "joints": info["features"]["observation.state"]}
    assert suggest(read_layout(root)) == {"views": [], "proprio": [], "action": "arm.action"}
