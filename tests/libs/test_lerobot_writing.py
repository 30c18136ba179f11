"""LeRobot sets of v3.0 are written as LeRobot writes them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from libs.errors import BadInput
from libs.lerobot_data import EpisodeFrames, LeRobotSet, SetSpec, SetWriter, write_episode
from libs.lerobot_data import writer as writing
from libs.lerobot_data.statistics import histogram, number_stats, picture_stats
from tests.lerobot_sets import FOLDER, made_frames, made_spec, stripes, write_made_set

LENGTHS = (5, 9, 4)
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


def files_of(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def opened(root):
    return LeRobotSet(root, ["observation.state", "action"], ["a", "b"])


@pytest.mark.parametrize("pictures", ["png", "h264", "av1"])
def test_what_is_written_is_read(tmp_path, pictures, capfd):
    data = opened(write_made_set(tmp_path / "set", LENGTHS, pictures=pictures))
    assert (data.fps, data.layout.robot, list(data.episodes)) == (20, "arm", [0, 1, 2])
    assert data.layout.tasks == {0: "task 0", 1: "task 1"}
    assert not (tmp_path / "set/.parts").exists() and capfd.readouterr().err == ""
    for number, length in enumerate(LENGTHS):
        wanted = made_frames(number, length, (16, 24))
        assert data.instruction(number, length - 1) == f"task {number % 2}"
        for name, values in wanted.vectors.items():
            np.testing.assert_array_equal(data.vector(number, name), values)
        for camera, meant in wanted.pictures.items():
            found = np.stack(list(data.pictures(number, camera)))
            off = np.abs(found.astype(int) - np.stack(list(meant)))
            assert off.max() == 0 if pictures == "png" else off.mean() < 12


@pytest.mark.parametrize("pictures, fps", [("h264", 20), ("h264", 29.97), ("av1", 12.5), ("png", 30)])
def test_many_files(tmp_path, monkeypatch, pictures, fps):
    """Episodes one after another in a file, files one after another in a folder: every frame is found."""
    one = opened(write_made_set(tmp_path / "one", (5, 9, 4, 7, 1), pictures=pictures, fps=fps, size=(64, 64)))
    monkeypatch.setattr(writing, "VIDEO_MB", 0.004)
    monkeypatch.setattr(writing, "DATA_MB", 0.001)
    monkeypatch.setattr(writing, "CHUNK", 2)
    root = write_made_set(tmp_path / "many", (5, 9, 4, 7, 1), pictures=pictures, fps=fps, size=(64, 64))
    many = opened(root)
    assert [path.parent.name for path in many.layout.data_files] == [f"chunk-00{n}" for n in (0, 0, 1, 1, 2)]
    if pictures != "png":
        clips = [episode.clips["a"] for episode in many.layout.episodes]
        assert any(clip.start > 0 for clip in clips) and len({clip.path for clip in clips}) > 1
    for episode in one.episodes:
        np.testing.assert_array_equal(one.vector(episode, "action"), many.vector(episode, "action"))
        for camera in one.cameras:
            for ours, other in zip(one.pictures(episode, camera), many.pictures(episode, camera), strict=True):
                np.testing.assert_array_equal(ours, other)


def test_tasks_of_frames(tmp_path):
    spec = made_spec()
    texts = ["reach", "reach", "grasp", "lift", "reach"]
    with SetWriter(tmp_path / "set", spec, 2) as writer:
        write_episode(writer.part(0), spec, 0, made_frames(0, 3, (16, 24), ["lift"]))
        write_episode(writer.part(1), spec, 1, made_frames(1, 5, (16, 24), texts))
        writer.finish()
    data = opened(tmp_path / "set")
    assert [data.instruction(1, frame) for frame in range(5)] == texts
    assert data.layout.tasks == {0: "lift", 1: "reach", 2: "grasp"}
    assert data.episodes[1].tasks == ("reach", "grasp", "lift")


def test_the_files_are_made_as_lerobot_makes_them(tmp_path):
    """A sample of LeRobot's own, written again by us: the same tables, types, notes and statistics."""
    root = FOLDER / "v30/libero_pi_image"
    theirs = LeRobotSet(root, ["state", "actions"], ["image", "wrist_image"])
    layout = theirs.layout
    cameras = {name: (camera.height, camera.width) for name, camera in layout.cameras.items()}
    vectors = {"state": tuple(f"s{n}" for n in range(8)), "actions": tuple(f"a{n}" for n in range(7))}
    spec = SetSpec(10, layout.robot, cameras, vectors, "png", "sample")
    with SetWriter(tmp_path / "set", spec, 4) as writer:
        for number in theirs.episodes:
            numbers = {name: theirs.vector(number, name) for name in vectors}
            pictures = {name: theirs.pictures(number, name) for name in cameras}
            texts = [theirs.instruction(number, 0)]
            write_episode(writer.part(number), spec, number, EpisodeFrames(texts, numbers, pictures))
        writer.finish()
    _same_info(
        json.loads((root / "meta/info.json").read_text()), json.loads((tmp_path / "set/meta/info.json").read_text())
    )
    for name in (DATA, EPISODES, "meta/tasks.parquet"):
        _same_table(root / name, tmp_path / "set" / name)
    # Their own statistics of all frames are exact but for pictures' std (zero in 0.4.4) and the quantiles.
    ours, said = (json.loads((place / "meta/stats.json").read_text()) for place in (tmp_path / "set", root))
    assert set(ours) == set(said)
    for feature, stats in said.items():
        assert set(ours[feature]) == set(stats)
        for name in ("min", "max", "mean", *(["std"] if feature not in cameras else [])):
            np.testing.assert_allclose(ours[feature][name], stats[name], rtol=1e-5, atol=1e-6)


def _same_info(theirs, ours):
    assert ours.keys() == theirs.keys()
    for key in theirs.keys() - {"features"}:
        assert ours[key] == theirs[key], key
    assert list(ours["features"]) == list(theirs["features"])
    for name, feature in theirs["features"].items():
        for key in ("dtype", "shape"):
            assert ours["features"][name][key] == feature[key]


def _same_table(theirs, ours):
    theirs, ours = pq.ParquetFile(theirs), pq.ParquetFile(ours)
    table, other = theirs.read(), ours.read()
    assert sorted(other.schema.names) == sorted(table.schema.names)
    assert ours.num_row_groups == theirs.num_row_groups
    for name in table.schema.names:
        if name.startswith("stats/") or name in ("image", "wrist_image"):
            assert str(other.schema.field(name).type) == str(table.schema.field(name).type), name
        else:
            assert other.column(name).to_pylist() == table.column(name).to_pylist(), name
    for key in (b"huggingface", b"pandas"):
        assert (key in (other.schema.metadata or {})) == (key in (table.schema.metadata or {}))
    if note := (table.schema.metadata or {}).get(b"huggingface"):
        features = json.loads(other.schema.metadata[b"huggingface"])["info"]["features"]
        assert features == json.loads(note)["info"]["features"]
    if note := (table.schema.metadata or {}).get(b"pandas"):
        pandas = json.loads(other.schema.metadata[b"pandas"])
        assert pandas["index_columns"] == json.loads(note)["index_columns"]


def test_what_was_cut_off_goes_on(tmp_path):
    whole = files_of(write_made_set(tmp_path / "whole", LENGTHS))
    out, spec = tmp_path / "cut", made_spec()
    with SetWriter(out, spec, 3) as writer:
        write_episode(writer.part(1), spec, 1, made_frames(1, 9, (16, 24)))
        (out / ".parts/000002.tmp").mkdir()  # of a kill
        (out / ".parts/000002.tmp/a.mp4").write_bytes(b"half")
        assert writer.missing() == [0, 2]
    (out / "data/chunk-000").mkdir(parents=True)  # of a kill while the episodes were joined
    (out / DATA).write_bytes(b"half")
    with pytest.raises(BadInput, match=r"cut holds a set that was begun with source 'made', not 'other'"):
        SetWriter(out, made_spec(source="other"), 3).__enter__()
    write_made_set(out, LENGTHS)
    assert files_of(out) == whole
    for folder in (out, tmp_path / "whole"):
        with pytest.raises(BadInput, match=r"is not empty, and nothing that this tool began: choose another folder"):
            SetWriter(folder, spec, 3).__enter__()


def test_what_cannot_be_written(tmp_path):
    spec = made_spec()

    def refused(frames, spec=spec):
        with pytest.raises(BadInput) as caught:
            write_episode(tmp_path / "parts/000003", spec, 3, frames)
        assert not (tmp_path / "parts/000003").exists()
        return str(caught.value)

    good = made_frames(3, 4, (16, 24))

    def changed(**parts):
        return EpisodeFrames(
            parts.get("instructions", ["go"]),
            {**good.vectors, **parts.get("vectors", {})},
            {"a": stripes(0, (16, 24), 4), "b": stripes(0, (16, 16), 4), **parts.get("pictures", {})},
        )

    assert refused(changed(instructions=["go", "on"])).endswith("or one for each of its 4 frames, got 2")
    assert "needs an instruction" in refused(changed(instructions=[" "]))
    wrong = "episode 3: action must be 4 x 3 finite numbers"
    assert wrong in refused(changed(vectors={"action": np.zeros((4, 2))}))
    assert wrong in refused(changed(vectors={"action": np.full((4, 3), np.nan)}))
    assert "camera a: 4 frames, but 3 pictures" in refused(changed(pictures={"a": stripes(0, (16, 24), 3)}))
    assert "camera b: uint8 (16, 24, 3), expected uint8 (16, 16, 3)" in refused(
        changed(pictures={"b": stripes(0, (16, 24), 4)})
    )
    for odd in ({"size": (15, 24)}, {"size": (16, 23)}):
        with pytest.raises(BadInput, match=r"camera a has 1. x 2. pixels: a video needs even numbers, png does not"):
            SetWriter(tmp_path / "odd", made_spec(pictures="h264", **odd), 1)
        SetWriter(tmp_path / "odd", made_spec(**odd), 1)
    with pytest.raises(BadInput, match=r"fps must be above 0, got 0"):
        SetWriter(tmp_path / "odd", made_spec(fps=0), 1)
    with pytest.raises(BadInput, match=r"pictures are kept as png, h264, av1, not 'gif'"):
        SetWriter(tmp_path / "odd", made_spec(pictures="gif"), 1)


def test_statistics():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 3)).astype(np.float32)
    found = number_stats(values)
    np.testing.assert_allclose(found["std"], values.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["q90"], np.quantile(values, 0.9, axis=0), rtol=1e-5)
    assert found["count"] == [200]
    pictures = rng.integers(3, 250, (6, 20, 30, 3)).astype(np.uint8)
    pictures[..., 1] //= 4
    found = picture_stats(sum(map(histogram, pictures)), 6)
    flat = pictures.reshape(-1, 3) / 255
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(np.ravel(found[name]), getattr(flat, name)(axis=0), rtol=1e-9)
    for name, share in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        np.testing.assert_allclose(np.ravel(found[name]), np.quantile(flat, share, axis=0), atol=1.01 / 255)
    assert np.shape(found["q10"]) == (3, 1, 1) and found["count"] == [6]
