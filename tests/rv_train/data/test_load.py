"""The data of a run: split, statistics, fingerprint; and files that change."""

import json
import pickle

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import DemoFile
from libs.demo_hdf5.writer import merge_files
from libs.errors import BadInput
from rv_train.data.hdf5 import DemoDataset
from rv_train.data.load import load_data
from rv_train.data.stats import compute_action_stats, read_stats, write_stats
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import tiny_cfg

VIEWS = ("agentview", "eye_in_hand")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    write_synthetic_demo_file(folder / "a_demo.hdf5", 10, 3, 32, seed=0)
    write_synthetic_demo_file(folder / "b_demo.hdf5", 2, 4, 32, seed=50, instruction="another")
    write_synthetic_demo_file(folder / "c_demo.hdf5", 1, 5, 32, seed=70, instruction="a third")
    return folder


def data_of(*paths, **opts):
    return load_data(tiny_cfg(DATA__FILES=[str(path) for path in paths], **opts))


def names(dataset):
    return [(rows.file.path.name, rows.name) for rows in dataset.demos]


def with_masks(path, **masks):
    with h5py.File(path, "r+") as file:
        for name, demos in masks.items():
            file[f"mask/{name}"] = np.array([demo.encode() for demo in demos], dtype="S10")
    return path


def test_without_a_share_every_demo_is_trained_on(folder, tmp_path):
    data = data_of(folder)
    assert data.valid is None and data.train.num_demos == 13 and data.info["num_valid_demos"] == 0
    write_synthetic_demo_file(tmp_path / "m.hdf5", 3, 3, 32, seed=0)
    data = data_of(with_masks(tmp_path / "m.hdf5", train=["demo_0"], valid=["no such demo"]))
    assert data.train.num_demos == 3


def test_the_split_is_by_demo_per_file_and_repeatable(folder):
    data = data_of(folder, DATA__VAL_SHARE=0.2)
    kept, held = names(data.train), names(data.valid)
    assert not set(kept) & set(held) and len(kept) + len(held) == 13
    assert [file for file, _ in held] == ["a_demo.hdf5"] * 2 + ["b_demo.hdf5"]  # of a lone demo nothing is held out
    assert names(data_of(folder, DATA__VAL_SHARE=0.2).valid) == held
    others = [names(data_of(folder, DATA__VAL_SHARE=0.2, EXP__SEED=seed).valid) for seed in range(1, 5)]
    assert any(other != held for other in others)
    most = data_of(folder, DATA__VAL_SHARE=0.9)
    assert {file for file, _ in names(most.train)} == {"a_demo.hdf5", "b_demo.hdf5", "c_demo.hdf5"}


def test_both_parts_give_the_frames_of_their_demos_and_share_what_was_read(folder):
    whole = DemoDataset(sorted(folder.glob("*.hdf5")), VIEWS, 2)
    train, valid = whole.split(0.2, seed=0)
    assert len(train) + len(valid) == len(whole)
    rows = valid.demos[1]
    sample = valid[len(valid.demos[0].actions) + 1]
    assert (sample.demo, sample.frame) == (rows.name, 1)
    assert valid.where(len(valid.demos[0].actions) + 1) == f"{rows.file.path}, {rows.name}, frame 1"
    np.testing.assert_array_equal(sample.views[0], DemoFile(rows.file.path).frame(rows.name, 1, "agentview"))
    assert any(rows.actions is other.actions and rows.file is other.file for other in whole.demos)
    train, valid = pickle.loads(pickle.dumps((train, valid)))  # as handed to a spawned rank
    assert valid.files[0] is train.files[0] and valid.demos[0].file is valid.files[0]


def test_files_of_one_demo_are_split_like_one_file_where_they_share_an_instruction(tmp_path):
    for number, instruction in enumerate("aabaab"):
        write_synthetic_demo_file(tmp_path / f"{number}.hdf5", 1, 3, 32, seed=number, instruction=instruction)
    with_masks(tmp_path / "4.hdf5", train=["demo_0"])
    data = data_of(tmp_path, DATA__VAL_SHARE=0.4)
    held = [rows.instruction for rows in data.valid.demos]
    assert sorted(held) == ["a", "b"] and data.train.num_demos == 4
    assert "4.hdf5" not in {name for name, _ in names(data.valid)}  # its own list says so


def test_a_file_is_split_by_its_masks(tmp_path):
    for number, masks, kept, held in (
        (0, {"train": ["demo_3", "demo_0"], "valid": ["demo_1"]}, [0, 3], [1]),  # demo_2 is in neither
        (1, {"train": ["demo_3"]}, [3], [0, 1, 2]),
        (2, {"valid": ["demo_3"]}, [0, 1, 2], [3]),
        (3, {"other": ["demo_3"]}, None, None),  # a list of somebody else's: drawn
    ):
        path = tmp_path / f"m{number}.hdf5"
        write_synthetic_demo_file(path, 4, 3, 32, seed=0)
        data = data_of(with_masks(path, **masks), DATA__VAL_SHARE=0.25)
        if kept is None:
            assert (data.train.num_demos, data.valid.num_demos) == (3, 1)
        else:
            assert [name for _, name in names(data.train)] == [f"demo_{n}" for n in kept]
            assert [name for _, name in names(data.valid)] == [f"demo_{n}" for n in held]
        assert data.info["num_demos"] == data.action_stats["num_demos"] == 4


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"train": ["demo_9"]}, r"m\.hdf5: mask/train lists demo_9, but the file has no such demo"),
        ({"train": ["demo_0"], "valid": ["demo_7"]}, r"mask/valid lists demo_7"),
        ({"train": ["demo_0", "demo_1"], "valid": ["demo_1"]}, r"m\.hdf5: mask/train and mask/valid both list demo_1"),
        ({"valid": ["demo_0", "demo_1"]}, "every demo is held out"),
        ({"train": ["demo_0", "demo_1"]}, "no demo can be held out"),
    ],
)
def test_masks_that_make_no_sense_are_refused(tmp_path, masks, message):
    write_synthetic_demo_file(tmp_path / "m.hdf5", 2, 3, 32, seed=0)
    with pytest.raises(ValueError, match=message):
        data_of(with_masks(tmp_path / "m.hdf5", **masks), DATA__VAL_SHARE=0.5)


def test_a_share_of_lone_demos_is_refused(folder):
    with pytest.raises(ValueError, match=r"DATA.VAL_SHARE is 0.1, but no demo can be held out: 1 demos in 1 files"):
        data_of(folder / "c_demo.hdf5", DATA__VAL_SHARE=0.1)


def test_info_says_what_a_checkpoint_should_know(folder):
    info = data_of(folder, DATA__VAL_SHARE=0.2).info
    assert json.loads(json.dumps(info)) == info
    expected = {"render": "fast", "resolution": 32, "num_demos": 13, "num_frames": 43, "num_valid_demos": 3}
    assert {key: info[key] for key in expected} == expected
    assert info["num_clipped"] == 0 and info["stats"] == "" and len(info["fingerprint"]) == 64
    assert info["files"] == [str(folder / f"{letter}_demo.hdf5") for letter in "abc"]


def test_statistics_are_of_every_demo_held_out_or_not(folder):
    assert data_of(folder, DATA__VAL_SHARE=0.5).action_stats == data_of(folder).action_stats


def test_given_statistics_are_used_and_what_they_clip_is_counted(folder, tmp_path):
    own = data_of(folder)
    stats = {**own.action_stats, "fingerprint": "of other data"}
    for key in ("min", "max"):
        stats[key] = [*stats[key][:6], 0.5]  # the gripper's +1 lies outside now, in every frame
    write_stats(stats, tmp_path / "narrow.json")
    data = data_of(folder, DATA__STATS=str(tmp_path / "narrow.json"))
    assert data.action_stats == stats and data.info["num_clipped"] == len(data.train) == 43
    assert data.info["fingerprint"] == own.info["fingerprint"] == own.action_stats["fingerprint"]
    write_stats(own.action_stats, tmp_path)  # a folder: a checkpoint's model/, say
    data = data_of(folder, DATA__STATS=str(tmp_path))
    assert data.action_stats == own.action_stats and data.info["num_clipped"] == 0
    assert data.info["stats"] == str(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min": None}, "no list 'min'"),
        ({"max": []}, "'max' must hold finite numbers, got none"),
        ({"max": [float("nan")] * 7}, "'max' must hold finite numbers, got nan"),
        ({"min": [float("-inf")] + [0] * 6}, "got -inf"),
        ({"min": ["0"] * 7}, "got 0"),
        ({"min": [True] * 7}, "got True"),
        ({"min": [0] * 6}, "'min' has 6 dimensions, 'max' has 7"),
        ({"min": [0] * 6 + [2], "max": [1] * 7}, "dimension 6 has min 2 above max 1"),
        ({"min": [0] * 8, "max": [1] * 8}, "has 8 action dimensions, ACTION.DIM is 7"),
    ],
)
def test_broken_statistics_are_refused(folder, tmp_path, change, message):
    path = tmp_path / "action_stats.json"
    path.write_text(json.dumps({**data_of(folder).action_stats, **change}))
    with pytest.raises(ValueError, match=f"DATA.STATS: .*{message}"):
        data_of(folder, DATA__STATS=str(path))


def test_statistics_of_parts_of_another_size_are_refused(folder, tmp_path):
    """Of another robot, say: the names are the same, the numbers are not, and nothing would fit the first sample."""
    chosen = {"DATA__PROPRIO": ["ee_pos", "gripper_states"], "DATA__STATS": str(tmp_path)}
    stats = data_of(folder, DATA__PROPRIO=chosen["DATA__PROPRIO"]).action_stats
    write_stats(stats, tmp_path)
    assert data_of(folder, **chosen).action_stats == stats
    stats["proprio"]["parts"] = {"ee_pos": 2, "gripper_states": 3}
    write_stats(stats, tmp_path)
    with pytest.raises(ValueError, match=r"has proprio ee_pos \(2\), gripper_states \(3\), DATA.PROPRIO of this data"):
        data_of(folder, **chosen)


def test_missing_statistics_are_refused(folder, tmp_path):
    for path, message in ((tmp_path, r"no action_stats\.json"), (tmp_path / "x.json", r"x\.json does not exist")):
        with pytest.raises(ValueError, match=f"DATA.STATS: .*{message}"):
            data_of(folder, DATA__STATS=str(path))
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"x\.json is not a text file"):
        data_of(folder, DATA__STATS=str(tmp_path / "x.json"))


def test_the_fingerprint_tells_data_apart_wherever_it_lies(folder, tmp_path):
    source = folder / "b_demo.hdf5"

    def fingerprint(path, views=VIEWS):
        return DemoDataset([path], views, 2).fingerprint()

    def changed(name, part, value):
        path = tmp_path / "changed.hdf5"
        merge_files(path, [source])
        with h5py.File(path, "r+") as file:
            file[name][part] = value
        return fingerprint(path)

    whole = fingerprint(source)
    merge_files(tmp_path / "copy.hdf5", [source])
    assert fingerprint(tmp_path / "copy.hdf5") == whole
    first = "data/demo_1/obs/agentview_rgb"
    assert changed(first, (0, 0, 0, 0), h5py.File(source)[first][0, 0, 0, 0] ^ 1) != whole
    assert changed("data/demo_1/actions", (3, 2), 0.5) != whole
    assert fingerprint(source, VIEWS[:1]) != whole
    with h5py.File(tmp_path / "copy.hdf5", "r+") as file:
        file["data"].attrs["problem_info"] = json.dumps({"language_instruction": "something else"})
    assert fingerprint(tmp_path / "copy.hdf5") != whole


def test_demos_of_different_sizes_are_refused_wherever_they_lie(tmp_path):
    for side, demos in ((32, 2), (48, 1)):
        write_synthetic_demo_file(tmp_path / f"{side}.hdf5", demos, 3, side, seed=side)
    merge_files(tmp_path / "mixed.hdf5", [tmp_path / "32.hdf5", tmp_path / "48.hdf5"])
    for paths, odd in (
        ([tmp_path / "mixed.hdf5"], r"mixed\.hdf5, demo_2"),
        ([tmp_path / "48.hdf5", tmp_path / "32.hdf5"], r"48\.hdf5, demo_0"),
    ):
        wanted = r"pictures of agentview are 48 x 48 pixels, 2 of 3 demos have 32 x 32 pixels \(.*\.hdf5, demo_0\)"
        with pytest.raises(BadInput, match=rf"{odd}: {wanted}"):
            DemoDataset(paths, VIEWS, 2)


def test_loading_opens_each_file_once_and_reads_one_picture_of_each_demo(folder, monkeypatch):
    opened, pictures = [], []
    real_file, real_frame = h5py.File, DemoFile.frame
    monkeypatch.setattr(h5py, "File", lambda path, mode: opened.append(path) or real_file(path, mode))
    monkeypatch.setattr(DemoFile, "frame", lambda *args: pictures.append(args) or real_frame(*args))
    data_of(folder, DATA__VAL_SHARE=0.2)
    assert len(opened) == 3 and len(pictures) == 13


def test_statistics_have_one_form_in_checkpoints_and_from_the_tool(folder, tmp_path):
    stats = compute_action_stats(DemoDataset([folder / "a_demo.hdf5"], VIEWS, 2))
    write_stats(stats, tmp_path)
    write_stats(stats, tmp_path / "named.json")
    assert (tmp_path / "action_stats.json").read_bytes() == (tmp_path / "named.json").read_bytes()
    assert read_stats(tmp_path / "named.json") == stats
    assert sorted(path.name for path in tmp_path.iterdir()) == ["action_stats.json", "named.json"]
