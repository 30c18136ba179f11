"""Training from a manifest is training from the demonstration files; and what manifests of others are read as."""

import itertools
import json
import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from libs.action_text import ActionTextCodec
from libs.manifest.pictures import encode_picture
from rv_train.data import manifest, manifest_index
from rv_train.data.load import load_data
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.data.stats import read_stats
from rv_train.data.training_set import TrainingSet
from rv_train.policies import build_encoder
from tests.demo_files import write_synthetic_demo_file
from tests.manifests import build, edit_lines, write_foreign
from tests.tiny import tiny_cfg


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Two files of one name in two folders: one drawn from, one with lists of what to train on."""
    folder = tmp_path_factory.mktemp("demos")
    write_synthetic_demo_file(folder / "one/a_demo.hdf5", 11, 3, 64, seed=0)
    write_synthetic_demo_file(folder / "two/a_demo.hdf5", 4, 4, 64, seed=50, instruction="another, much longer one")
    with h5py.File(folder / "two/a_demo.hdf5", "r+") as file:
        file["mask/train"] = np.array([b"demo_3", b"demo_0"])
        file["mask/valid"] = np.array([b"demo_1"])
    return folder


@pytest.fixture(scope="module")
def built(demos, tmp_path_factory):
    return build(tmp_path_factory.mktemp("manifests") / "png", demos)


@pytest.fixture
def mine(built, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(built, tmp_path / "mine")


def data_of(*paths, **opts):
    return load_data(tiny_cfg(DATA__SOURCE="manifest", DATA__FILES=[str(path) for path in paths], **opts))


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        assert torch.equal(batch[name], other[name]), name


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_samples_are_those_of_the_demonstration_files(demos, built, share):
    ours = data_of(built, DATA__VAL_SHARE=share)
    theirs = load_data(tiny_cfg(DATA__FILES=[str(demos)], DATA__VAL_SHARE=share))
    codec = ActionTextCodec(theirs.action_stats["min"], theirs.action_stats["max"], 100)
    for mine, other in ((ours.train, theirs.train), (ours.valid, theirs.valid)):
        assert (mine is None) == (other is None)
        for index in range(len(other or [])):
            sample, true = mine[index], other[index]
            for view, expected in zip(sample.views, true.views, strict=True):
                np.testing.assert_array_equal(view, expected)
            assert [sample.action_text] == codec.encode(true.actions[None])
            np.testing.assert_array_equal(sample.actions, codec.decode([sample.action_text], 2)[0][0])
            assert (
                np.abs(sample.actions - true.actions).max() <= 0.5 * np.ptp([codec.low, codec.high], axis=0).max() / 100
            )
            assert (sample.instruction, sample.demo, sample.frame) == (true.instruction, true.demo, true.frame)
    assert len(ours.train) == (49 if share == 0 else 41 - 2 * 3)
    assert ours.action_stats == theirs.action_stats
    same = ("render", "resolution", "num_demos", "num_frames", "num_valid_demos", "num_clipped")
    assert {key: ours.info[key] for key in same} == {key: theirs.info[key] for key in same}
    assert json.loads(json.dumps(ours.info)) == ours.info and ours.remarks == []


def batches(cfg, num_workers=0):
    """Six batches of a run, augmented."""
    data = load_data(cfg)
    encoder = build_encoder(cfg, data.action_stats)
    sampler = ResumableBatchSampler(len(data.train), 5, "full", cfg.EXP.SEED, rank=1, world_size=2, start_batch=4)
    samples = pickle.loads(pickle.dumps(TrainingSet(data.train, encoder, cfg.EXP.SEED)))  # as a rank gets it
    loader = DataLoader(samples, batch_sampler=sampler, num_workers=num_workers, collate_fn=encoder.collate)
    return list(itertools.islice(loader, 6))


def test_batches_are_those_of_the_demonstration_files(demos, built):
    for recipe in ({}, {"IMAGE__TILE": False, "IMAGE__CROP": 0.875, "DATA__VAL_SHARE": 0.2, "EXP__SEED": 3}):
        theirs = batches(tiny_cfg(DATA__FILES=[str(demos)], **recipe))
        ours = batches(tiny_cfg(DATA__SOURCE="manifest", DATA__FILES=[str(built)], **recipe), num_workers=2)
        for batch, other in zip(ours, theirs, strict=True):
            assert_equal(batch, other)
        assert any((batch["lengths"] != batch["lengths"][0]).any() for batch in ours)


def test_jpeg_is_nearly_the_same(demos, tmp_path):
    one = build(tmp_path / "jpeg", demos / "one", format="jpeg", quality=100, views="eye_in_hand")
    data = data_of(one, DATA__VIEWS=["eye_in_hand"])
    true = load_data(tiny_cfg(DATA__FILES=[str(demos / "one")], DATA__VIEWS=["eye_in_hand"])).train[7]
    difference = np.abs(data.train[7].views[0].astype(int) - true.views[0])
    assert 0 < difference.mean() < 8
    assert set(json.loads((one / "manifest.jsonl").read_text().splitlines()[0])) >= {"image_path"}


def test_lines_are_found_by_their_place_whatever_stands_between(built, mine):
    whole = data_of(built).train
    edit_lines(mine, lambda lines: lines.insert(3, "") or lines.insert(0, "   ") or lines.reverse())
    turned = data_of(mine).train
    assert len(turned) == len(whole) and turned.num_demos == whole.num_demos
    for index in (0, 20, 48):
        np.testing.assert_array_equal(turned[48 - index].views[0], whole[index].views[0])
        assert turned[48 - index].action_text == whole[index].action_text
    assert turned.where(48) == f"{mine / 'manifest.jsonl'}, line 50, demo_0, frame 0"


def test_several_manifests_are_one_set(demos, built, tmp_path):
    stats = ["--stats", str(built / "action_stats.npz")]
    parts = [build(tmp_path / name, demos / name, stats=stats[1]) for name in ("one", "two")]
    whole, joined = data_of(built, DATA__VAL_SHARE=0.2), data_of(*parts, DATA__VAL_SHARE=0.2)
    assert len(joined.train) == len(whole.train) and len(joined.valid) == len(whole.valid)
    for index in (0, 20, 34):
        np.testing.assert_array_equal(joined.train[index].views[1], whole.train[index].views[1])
        assert joined.train[index].action_text == whole.train[index].action_text
    assert data_of(built / "manifest.jsonl", built).info["files"] == [str(built / "manifest.jsonl")]  # once


def test_the_fingerprint_tells_data_apart_wherever_it_lies(built, mine):
    def fingerprint(**opts):
        return data_of(mine, **opts).info["fingerprint"]

    whole = fingerprint()
    assert whole == data_of(built).info["fingerprint"] == data_of(built, DATA__VAL_SHARE=0.2).info["fingerprint"]
    assert fingerprint(DATA__VIEWS=["agentview"]) != whole
    first = mine / "frames/a_demo/demo_3/000000_agentview.png"
    content = first.read_bytes()
    first.write_bytes((mine / "frames/a_demo/demo_4/000000_agentview.png").read_bytes())
    assert fingerprint() != whole
    first.write_bytes(content)
    for edit in (
        lambda lines: lines.pop(),
        lambda lines: lines.append(lines[-1].replace("much", "no")),
        lambda lines: lines.append(lines[-2].replace('"H": 2, "D": 7', '"D": 7, "H": 2')),  # the same line twice
    ):
        content = (mine / "manifest.jsonl").read_text()
        edit_lines(mine, edit)
        assert fingerprint() != whole
        (mine / "manifest.jsonl").write_text(content)
    assert fingerprint() == whole


def test_only_the_first_picture_of_each_demo_is_read_to_begin_with(built, monkeypatch):
    read = []
    real = manifest.read_picture
    monkeypatch.setattr(manifest, "read_picture", lambda path: read.append(path) or real(path))
    data_of(built, DATA__VAL_SHARE=0.2)
    assert len(read) == 2 + 15  # once more of each camera for the size
    monkeypatch.setattr(manifest, "MOST_PICTURES", 5)
    read.clear()
    data_of(built)
    assert len(read) == 2 + 5


def bad_lines(lines):
    """One of each kind, at lines 2, 4, 6, 8, 10 and 12."""
    good = json.loads(lines[0])
    lines[1] = lines[1][:60]
    for number, change in (
        (3, {"image_paths": {**good["image_paths"], "eye_in_hand": "frames/gone.png"}}),
        (5, {"target_action_text": "1 2 3"}),
        (7, {"target_action_text": good["target_action_text"].rsplit(" ", 1)[0] + " 101"}),
        (9, {"H": 8}),
        (11, {"instruction": None}),
    ):
        lines[number] = json.dumps({**good, **change})


def test_bad_lines_are_listed_and_refused_or_left_out(built, mine):
    good = data_of(built).train
    edit_lines(mine, bad_lines)
    with pytest.raises(ValueError, match=r"^6 bad lines of 49: ") as refused:
        data_of(mine)
    for number, reason in (
        (2, "not valid JSON"),
        (4, "picture .*gone.png cannot be found"),
        (6, "3 integers, not 2 x 7 = 14"),
        (8, "101 lies outside 0 to 100"),
        (10, "H is 8, not 2"),
        (12, "instruction is None, not a text"),
    ):
        refused.match(rf"manifest\.jsonl, line {number}: {reason}")
    data = data_of(mine, DATA__SKIP_BAD=True)
    assert len(data.train) == 43 and data.info["num_bad_lines"] == 6
    listed = str(refused.value).removeprefix("6 bad lines of 49: ").split("; tools")[0]
    assert data.remarks == [f"6 bad lines of 49 are left out: {listed}"]
    assert [data.train[i].action_text for i in range(7)] == [good[i].action_text for i in (0, 2, 4, 6, 8, 10, 12)]
    assert data.train.where(1).split(", ")[1] == "line 3"


def test_many_bad_lines_are_counted_and_none_good_is_refused(mine):
    edit_lines(mine, lambda lines: lines.__setitem__(slice(0, 40), ["no"] * 40))
    with pytest.raises(ValueError, match=r"40 bad lines of 49: .*line 10: not valid JSON [^;]*; \.\.\.; tools/peek"):
        data_of(mine)
    edit_lines(mine, lambda lines: lines.__setitem__(slice(0, 49), ["no"] * 49))
    with pytest.raises(ValueError, match=r"manifest\.jsonl: no line can be used; .*line 1: not valid JSON"):
        data_of(mine, DATA__SKIP_BAD=True)
    (mine / "manifest.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"manifest\.jsonl: no line can be used$"):
        data_of(mine)


def test_pictures_that_turn_out_bad_later_are_named(mine):
    data = data_of(mine).train
    other = mine / "frames/a_demo-2/demo_0/000001_agentview.png"
    other.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"manifest\.jsonl, line 35: picture .*000001_agentview.png is damaged"):
        data[34]
    foreign = write_foreign(mine / "small", [("go", 1)]) / "frame_000000.png"
    other.write_bytes(encode_picture(np.zeros((32, 32, 3), np.uint8), "png", 0))
    with pytest.raises(ValueError, match=r"line 35: picture .* is 32 x 32, not 64 x 64 as the first one is"):
        data[34]
    foreign.write_bytes(encode_picture(np.zeros((32, 40, 3), np.uint8), "png", 0))
    assert data_of(mine / "small", DATA__VIEWS=["any"]).info["cameras"] == {"any": [32, 40]}


def test_a_manifest_that_changes_while_it_is_in_use_is_refused(mine):
    data = data_of(mine).train
    edit_lines(mine, lambda lines: lines.pop(0))
    with pytest.raises(ValueError, match=r"manifest .* changed while it was in use"):
        data[3]


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"ACTION__NUM_BINS": 1000}, "was written with num_bins 100, ACTION.NUM_BINS is 1000"),
        ({"ACTION__HORIZON": 4}, "was written with horizon 2, ACTION.HORIZON is 4"),
        ({"ACTION__DIM": 6}, "has 7 action dimensions, ACTION.DIM is 6"),
        ({"DATA__VIEWS": ["top"]}, "line 1: no picture of view top; there are agentview, eye_in_hand"),
        ({"DATA__FILES": []}, "DATA.FILES is empty; give manifests"),
        ({"DATA__FILES": ["no/such"]}, "DATA.FILES: no/such does not exist"),
        ({"DATA__FILES": ["configs"]}, "DATA.FILES: configs holds no manifest.jsonl"),
    ],
)
def test_a_config_that_does_not_fit_is_one_clear_error(built, opts, message):
    with pytest.raises(ValueError, match=message):
        load_data(tiny_cfg(**{"DATA__SOURCE": "manifest", "DATA__FILES": [str(built)], **opts}))


def test_statistics_that_are_not_the_manifests_are_refused(mine, tmp_path):
    own = read_stats(mine)
    assert data_of(mine, DATA__STATS=str(mine / "action_stats.npz")).action_stats == own
    np.savez(tmp_path / "same.npz", action_mins=np.float32(own["min"]), action_maxs=np.float32(own["max"]))
    assert data_of(mine, DATA__STATS=str(tmp_path / "same.npz")).action_stats == own
    np.savez(tmp_path / "other.npz", action_mins=np.array(own["min"]), action_maxs=np.array(own["max"]) + 0.1)
    with pytest.raises(
        ValueError, match=r"statistics of .*other\.npz are not those of .*mine .*the same integers mean"
    ):
        data_of(mine, DATA__STATS=str(tmp_path / "other.npz"))
    (mine / "action_stats.json").unlink()
    data = data_of(mine)  # the .npz is left
    assert data.action_stats == own and data.info["stats"] == str(mine)
    (mine / "action_stats.npz").write_bytes(b"PK no zip")
    for opts in ({}, {"DATA__STATS": str(tmp_path / "same.npz")}):
        with pytest.raises(ValueError, match=r"action_stats\.npz is not a readable \.npz file"):
            data_of(mine, **opts)
    (mine / "action_stats.npz").unlink()
    with pytest.raises(ValueError, match=r"has no action_stats\.json: .*; or name it: DATA\.STATS"):
        data_of(mine)
    assert data_of(mine, DATA__STATS=str(tmp_path / "same.npz")).info["stats"] == str(tmp_path / "same.npz")


def test_manifests_of_different_pictures_are_not_mixed(demos, built, tmp_path):
    write_synthetic_demo_file(tmp_path / "s.hdf5", 1, 3, 64, seed=0, render="standard")
    other = build(tmp_path / "other", tmp_path / "s.hdf5", stats=built / "action_stats.json")
    with pytest.raises(ValueError, match=r"rendered with different settings, do not mix them: fast: .*; standard: "):
        data_of(built, other)


ONE_VIEW = {"DATA__VIEWS": ["camera"]}


def test_somebody_elses_manifest_is_split_by_blocks_of_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_index, "BLOCK", 5)
    folder = write_foreign(tmp_path / "theirs", [("first", 12), ("second", 5), ("first", 3)])
    data = data_of(folder, DATA__VAL_SHARE=0.3, **ONE_VIEW)
    assert data.info["num_demos"] == 5  # 5 + 5 + 2 lines, 5, 3
    assert (data.info["render"], data.info["resolution"]) == ("standard", 64)
    held = [data.valid[i].frame for i in range(len(data.valid))]  # without a frame number, the line's
    assert held in ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12], [18, 19, 20])  # "second" is a lone block
    assert len(data.train) + len(data.valid) == 20
    assert data.train.where(0).endswith("manifest.jsonl, line 1" if held[0] != 1 else "manifest.jsonl, line 6")
    assert data.action_stats == {"min": [-1.0] * 7, "max": [1.0] * 7}


def test_hidden_digits_are_shown_as_the_mask_and_not_learned(tmp_path):
    texts = ["50 " * 13 + "50", "5X X 50 0 100 1XX 7 " + "? _ 5 5 5 5 5"]
    folder = write_foreign(tmp_path / "theirs", [("go", 2)], text=texts.__getitem__)
    data = data_of(folder, **ONE_VIEW)
    assert data.remarks == ["1 of 2 samples hide digits (X): nothing is learned there"] and data.info["num_hidden"] == 1
    sample = data.train[1]
    assert sample.action_text == "5X X 50 0 100 1XX 7 X X 5 5 5 5 5"
    assert np.isnan(sample.actions).tolist() == [
        [True, True, False, False, False, True, False],
        [True, True, False, False, False, False, False],
    ]
    np.testing.assert_allclose(sample.actions[0, 2:5], [0.0, -1.0, 1.0])
    cfg = tiny_cfg(**ONE_VIEW, ACTION__MASK_NONE=1.0)
    encoder = build_encoder(cfg, {"min": [-1.0] * 7, "max": [1.0] * 7})
    features = TrainingSet(data.train, encoder, seed=0)[(0, 0, 1)]
    ids, labels = features["input_ids"], features["labels"]
    text = encoder.prompt.tokenizer.decode(ids)
    assert text.endswith("assistant\n5? ? 50 0 100 1?? 7 ? ? 5 5 5 5 5<|im_end|>\n")
    assert (labels[ids == encoder.prompt.mask_id] == -100).all()
    answer = len(sample.action_text) + 2
    assert int((labels != -100).sum()) == answer - 6


def test_a_given_instruction_stands_in_place_of_the_lines(built):
    data, own = data_of(built, DATA__INSTRUCTION="do it"), data_of(built)
    assert data.train[0].instruction == data.train.demos[11].instruction == "do it"
    assert data.train.instructions == ["do it"] and len(own.train.instructions) == 2
    assert data.info["fingerprint"] != own.info["fingerprint"] and len(data.train) == len(own.train)


def test_another_number_of_bins_is_suspected(tmp_path):
    folder = write_foreign(tmp_path / "theirs", [("go", 2)], text=" ".join(["25"] * 14))
    (remark,) = data_of(folder, **ONE_VIEW).remarks
    assert "the largest integer of" in remark and "is 25, ACTION.NUM_BINS is 100: is that what" in remark


def test_a_sample_costs_little_memory(tmp_path):
    """What stays of a line: 32 bytes, not the line."""
    folder = write_foreign(tmp_path / "theirs", [("go", 1)])
    line = (folder / "manifest.jsonl").read_text()
    (folder / "manifest.jsonl").write_text(line * 5000)
    data = data_of(folder, **ONE_VIEW).train
    assert len(data) == 5000 and data.num_demos == 25
    assert len(pickle.dumps(data)) < 32 * 5000 + 5000
