"""What cannot be read as a LeRobot set: one line each, with the file and what is there instead."""

import shutil

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from libs.errors import BadInput
from libs.lerobot_data import LeRobotSet, find_set, read_layout
from libs.manifest.pictures import encode_picture
from tests.lerobot_sets import FOLDER, FRONT, copied, cut_off, edit_column, edited_info, stripes, write_made_set

DATA, VIDEO = "data/chunk-000/file-000.parquet", f"videos/{FRONT}/chunk-000/file-000.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def refused(root, vectors=("action",), cameras=(FRONT,), read=None):
    """The line with which a set is refused, when it is opened or, with read = (episode, frame), then."""
    with pytest.raises(BadInput) as caught:
        data = LeRobotSet(root, vectors, cameras)
        assert read, "it was opened"
        data.picture(*read, cameras[0])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_versions_and_other_folders(tmp_path):
    root = copied("v30/so_like", tmp_path)
    for version, more in (
        ("v1.6", "convert_dataset_v1_to_v2.py brings it to v2.0"),
        ("v4.0", "this reads v2.0, v2.1,"),
    ):
        with edited_info(root) as info:
            info["codebase_version"] = version
        line = refused(root)
        assert f"info.json: a LeRobot data set of version {version}" in line and more in line
    (root / "meta").rename(root / "meta_data")  # as version 1.x has it
    assert "a LeRobot data set of version 1.x" in refused(root)
    assert "is no LeRobot data set: it has no meta/info.json" in refused(tmp_path)
    assert refused(tmp_path / "nowhere").endswith("nowhere does not exist")


@pytest.mark.parametrize("name", ["v21/so_like", "v30/so_like"])
def test_a_name_that_is_not_there(name):
    assert "has no camera 'front'; it has observation.images.front, observation.images.wrist" in refused(
        FOLDER / name, cameras=["front"]
    )
    assert "has no numbers 'actions'; it has observation.state (6), action (6)" in refused(FOLDER / name, ["actions"])


def test_videos(tmp_path):
    root = copied("v30/so_like", tmp_path)
    path = root / VIDEO
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"av01", b"zzzz"))
    assert "a codec that cannot be decoded here" in refused(root, read=(0, 0))
    path.write_bytes(whole)
    cut_off(path, 0.7)
    line = refused(root, read=(4, 13))
    assert f"video {path}" in line and "cut off; get it again" in line and f"(episode 4, camera {FRONT})" in line
    path.unlink()
    assert f"video {path} (episode 0, camera {FRONT}) does not exist" in refused(root)
    shutil.rmtree(root)
    root = copied("v21/so_like", tmp_path)
    (root / f"videos/chunk-000/{FRONT}/episode_000002.mp4").unlink()
    assert f"episode_000002.mp4 (episode 2, camera {FRONT}) does not exist" in refused(root)


def test_parquet_files(tmp_path):
    root = copied("v30/so_like", tmp_path)
    path = root / DATA
    edit_column(path, "action", None)
    assert f"{path} has no column 'action'; it has observation.state, timestamp, frame_index" in refused(root)
    cut_off(path, 0.8)
    assert f"{path} is no whole parquet file, it has no footer: the recording was not finalized" in refused(root)
    path.write_bytes(b"")
    assert f"{path} is no whole parquet file" in refused(root)
    path.unlink()
    assert "data holds no parquet file" in refused(root)
    shutil.rmtree(root)
    root = copied("v21/so_like", tmp_path)
    (root / "data/chunk-000/episode_000001.parquet").unlink()
    assert "episode_000001.parquet does not exist" in refused(root)


def test_rows_that_are_not_as_declared(tmp_path):
    root = copied("v30_converted/so_like", tmp_path)  # has plain lists
    path = root / DATA
    table = pq.read_table(path)
    edit_column(path, "action", lambda rows: [*rows[:5], rows[5][:4], *rows[6:]])
    assert f"{path}, column action: row 5 has 4 numbers, expected 6 in each" in refused(root)
    edit_column(path, "action", lambda rows: [*rows[:5], None, *rows[6:]])
    assert "column action: row 5 has 0 numbers, expected 6 in each" in refused(root)
    # As many in all as there should be: every row behind the first would be made of two.
    edit_column(path, "action", lambda rows: [*rows[:5], rows[4][:4], [*rows[6], 1.0, 2.0], *rows[7:]])
    assert "column action: row 5 has 4 numbers, expected 6 in each" in refused(root)
    pq.write_table(table.set_column(1, "action", pa.array(["left"] * 88)), path)
    assert "column action holds string, expected 6 numbers in a row" in refused(root)
    pq.write_table(table, path)
    edit_column(path, "task_index", lambda rows: [*rows[:7], None, *rows[8:]])
    assert "column task_index: row 7 has no number" in refused(root)
    with edited_info(root) as info:
        info["features"]["action"]["shape"] = [7]
    pq.write_table(table, path)
    assert "column action: row 0 has 6 numbers, expected 7 in each" in refused(root)


def test_episodes_that_are_not_as_the_table_says(tmp_path):
    root = copied("v30/so_like", tmp_path)
    path, table = root / DATA, pq.read_table(root / DATA)
    pq.write_table(table.slice(0, 80), path)
    assert "episode 4: 14 frames by its table, 6 rows" in refused(root)
    pq.write_table(table.slice(0, 74), path)
    assert "episode 4: 14 frames by its table, but no rows" in refused(root)
    pq.write_table(table, path)
    edit_column(path, "frame_index", lambda rows: [*rows[:3], 4, *rows[4:]])
    assert "episode 0: row 3 says frame_index 4" in refused(root)
    edit_column(path, "episode_index", lambda rows: [9 if row == 3 else row for row in rows])
    pq.write_table(table.slice(0, 0), path)
    assert "holds no frames: its data files have no rows" in refused(root)
    pq.write_table(table, path)
    episodes = pq.read_table(root / EPISODES)
    pq.write_table(episodes.slice(0, 4), root / EPISODES)
    assert "the data files hold episode 4, the table of episodes does not" in refused(root)
    pq.write_table(episodes.drop_columns([f"videos/{FRONT}/from_timestamp"]), root / EPISODES)
    assert f"{root / EPISODES} has no column 'videos/{FRONT}/from_timestamp'" in refused(root)


def test_frames_per_second_that_contradict_the_timestamps(tmp_path):
    root = copied("v30/so_like", tmp_path)
    with edited_info(root) as info:
        info["fps"] = 10
    assert "info.json says fps 10, but the timestamps of episode 0 are 0.0333 s apart (30 fps)" in refused(root)
    for wrong in (0, "fast", None, True):
        with edited_info(root) as info:
            info["fps"] = wrong
        assert f"fps {'must be a number above 0, got' if wrong in (0, True) else 'is'} {wrong!r}" in refused(root)


def test_a_video_that_is_shifted_is_refused_at_its_frame(tmp_path):
    root = copied("v30/so_like", tmp_path)
    edit_column(root / EPISODES, f"videos/{FRONT}/from_timestamp", lambda starts: [start + 0.01 for start in starts])
    assert "has no frame at 0.2100 s; the next one is at 0.2333 s (episode 0, camera" in refused(root, read=(0, 6))


def test_pictures_in_rows(tmp_path):
    root = copied("v30/libero_pi_image", tmp_path)
    wanted = {"vectors": ["actions"], "cameras": ["image"]}
    png = encode_picture(next(stripes(0, (16, 16), 1)), "png", 0)
    bad = [{"bytes": None, "path": "a.png"}, {"bytes": png[:60], "path": ""}, {"bytes": b"text", "path": ""}]
    edit_column(root / DATA, "image", lambda rows: bad + rows[3:])
    assert "row 0, column image holds no picture, expected the bytes" in refused(root, **wanted, read=(0, 0))
    for row in (1, 2):
        assert f"row {row}, column image: the picture is damaged, or" in refused(root, **wanted, read=(0, row))
    edit_column(root / DATA, "image", None)
    assert "has no column 'image'" in refused(root, **wanted, read=(0, 0))


@pytest.mark.parametrize(
    "change, line",
    [
        ({"features": None}, "info.json: features is None"),
        ({"features": {"action": 7}}, "feature action is 7, expected an object with dtype and shape"),
        (
            {"features": {"action": {"dtype": "float32", "shape": [0]}}},
            "feature action: shape [0] must be whole numbers",
        ),
        (
            {"features": {"c": {"dtype": "image", "shape": [8]}}},
            "camera c has shape [8], expected height, width, channels",
        ),
        ({"data_path": None}, "info.json: data_path is None"),
        ({"chunks_size": 0}, "info.json: chunks_size must be at least 1, got 0"),
    ],
)
def test_a_wrong_info(tmp_path, change, line):
    root = copied("v21/so_like", tmp_path)
    with edited_info(root) as info:
        info |= change
    with pytest.raises(BadInput) as caught:
        read_layout(root)
    assert line in str(caught.value)


def test_wrong_tables(tmp_path):
    root = copied("v21/so_like", tmp_path)
    path = root / "meta/episodes.jsonl"
    for text, line in (
        ("{", "line 1 is not valid JSON"),
        ("[1]", "line 1 is not a JSON object"),
        ("{}", "line 1 has no"),
    ):
        path.write_text(text)
        assert f"episodes.jsonl, {line}" in refused(root)
    path.unlink()
    assert "episodes.jsonl does not exist" in refused(root)


# ------------------------------------------------------------------------------------------------ the hub


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No hub, and nothing in the caches of this machine."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_name_of_the_hub_without_a_network(no_network):
    for name in ("lerobot/libero", "lerobot/libero@v3.0"):
        with pytest.raises(BadInput, match=rf"^data set {name} is neither a folder nor whole in .* cannot be reach"):
            find_set(name)
    for name in (no_network / "nothing", "nothing", "a/b/c"):
        with pytest.raises(BadInput, match=r"does not exist, and is no name of a data set of the hub \(OWNER/NAME\)$"):
            find_set(name)
    assert find_set(FOLDER / "v21/so_like") == FOLDER / "v21/so_like"


def test_sets_that_are_on_this_machine_are_found_by_their_name(no_network):
    own = write_made_set(no_network / "home/me/arm")
    assert find_set("me/arm") == own
    snapshot = no_network / "hub/datasets--me--arm/snapshots" / ("0" * 40)
    shutil.copytree(own, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    (refs / "v3.0").write_text("0" * 40)
    assert find_set("me/arm@v3.0") == snapshot
    edit_column(own / DATA, "index", None)
    assert find_set("me/arm") == own
    pq.write_table(pq.read_table(own / DATA).slice(3), own / DATA)  # a copy that is not whole is none
    assert find_set("me/arm") == snapshot
    (snapshot / DATA).unlink()
    assert "data holds no parquet file" in refused(find_set("me/arm"))  # no hub to get it from: what is there
