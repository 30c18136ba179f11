"""What every kind of data must do: the contract of `rv_train.data.base`, and everything here that goes through it.

A new kind needs a line in SOURCES and one in WRITERS. The kind of npz_source.py is the example of
docs/adding_dataset.md, and is registered for this test alone.
"""

import json
import pickle
import shutil

import numpy as np
import pytest

from rv_train import train
from rv_train.data.load import load_data, open_data
from rv_train.data.sources import SOURCES, find_source, source_that_fits
from rv_train.data.stats import read_stats
from rv_train.difference import compare_runs
from tests.demo_files import write_synthetic_demo_file
from tests.manifests import build
from tests.tiny import ROOT, tiny_cfg, tiny_opts
from tools import build_manifest, compute_stats, diagnose, export_lerobot, inspect_demos

EXAMPLE = {"npz": "tests.rv_train.data.npz_source:Npz"}


def write_hdf5(folder):
    write_synthetic_demo_file(folder / "a_demo.hdf5", 3, 5, 64, seed=0)
    write_synthetic_demo_file(folder / "b_demo.hdf5", 2, 4, 64, seed=50, instruction="another")
    return {}


def write_manifest(folder):
    write_hdf5(folder.parent / "demos")
    build(folder, folder.parent / "demos")
    return {}


def write_npz(folder):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(5):
        arrays = {"actions": rng.uniform(-1, 1, (6, 7)), "state": rng.normal(size=(6, 3))}
        cameras = {name: rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8) for name in ("front", "wrist")}
        np.savez(folder / f"demo_{number:03d}.npz", instruction=f"do {number % 2}", **arrays, **cameras)
    return {"DATA__VIEWS": ["wrist", "front"]}


def write_lerobot(folder):
    write_hdf5(folder.parent / "demos")
    export_lerobot.main([str(folder.parent / "demos"), "--out", str(folder / "set"), "--fps", "20"])
    views = ["observation.images.eye_in_hand", "observation.images.agentview"]
    return {"DATA__VIEWS": views, "DATA__CACHE": str(folder.parent / "frames")}


def write_mix(folder):
    """Two sets that call their cameras otherwise, one of each kind, drawn from in turns."""
    write_hdf5(folder.parent / "demos")
    more = ["--out", str(folder.parent / "lerobot"), "--fps", "20", "--proprio", "robot_states"]
    export_lerobot.main([str(folder.parent / "demos"), *more])
    write_synthetic_demo_file(folder.parent / "hdf5/demo.hdf5", 3, 5, 64, seed=7, instruction="a third")
    names = {view: f"observation.images.{view}" for view in ("agentview", "eye_in_hand")}
    names["robot_states"] = "observation.state"
    sets = [
        {"FILES": [str(folder.parent / "hdf5")], "WEIGHT": 2},
        {"FILES": [str(folder.parent / "lerobot")], "WEIGHT": 1, "RENAME": names},
    ]
    folder.mkdir()
    (folder / "mixture.yaml").write_text(json.dumps({"DATA": {"MIX": sets}}))
    return {}


# Kind of data -> writes some to a new folder (4 demos or more of 2 actions or more, 7 numbers each; square pictures of
# 64 pixels), and returns the recipe's keys beside SOURCE and FILES, as keywords of `tiny_cfg`.
WRITERS = {"hdf5": write_hdf5, "manifest": write_manifest, "npz": write_npz, "lerobot": write_lerobot, "mix": write_mix}


@pytest.fixture(scope="module", autouse=True)
def example():
    with pytest.MonkeyPatch.context() as patch:
        for name, place in EXAMPLE.items():
            patch.setitem(SOURCES, name, place)
        yield


@pytest.fixture(scope="module", params=WRITERS)
def kind(request, tmp_path_factory, example):
    """(name of the kind, folder with data of it, keywords of `tiny_cfg` that read it)"""
    folder = tmp_path_factory.mktemp(request.param) / "data"
    more = WRITERS[request.param](folder)
    return request.param, folder, {"DATA__SOURCE": request.param, "DATA__FILES": [str(folder)], **more}


def test_every_kind_is_tested():
    assert set(WRITERS) == set(SOURCES)


def test_the_example_is_that_of_the_docs():
    source = (ROOT / "tests/rv_train/data/npz_source.py").read_text()
    assert f"```python\n{source}```" in (ROOT / "docs/adding_dataset.md").read_text()


@pytest.mark.parametrize(
    ("arrays", "opts", "words"),
    [
        ({"state": np.full((6, 3), np.nan)}, {"DATA__PROPRIO": ["state"]}, "number 0 of DATA.PROPRIO .* is nan"),
        ({"state": np.zeros((6, 2))}, {"DATA__PROPRIO": ["state"]}, "demo_001.npz: state has 2, that of .*_000.npz 3"),
        ({"front": np.zeros((6, 32, 64, 3), np.uint8)}, {}, r"demo_001.npz: front has \(32, 64\), that of .*_000.npz"),
        ({"actions": np.zeros((6, 6))}, {}, "actions of .*demo_001.npz have 6 dimensions"),
    ],
)
def test_the_example_refuses_files_that_differ(tmp_path, arrays, opts, words):
    opts = {**write_npz(tmp_path / "set"), "DATA__SOURCE": "npz", "DATA__FILES": [str(tmp_path / "set")], **opts}
    path = tmp_path / "set/demo_001.npz"
    with np.load(path) as stored:
        whole = dict(stored)
    np.savez(path, **{**whole, **arrays})
    with pytest.raises(ValueError, match=words):
        load_data(tiny_cfg(MODEL__NAME="flow_expert", **opts))


def test_files_are_told_by_their_looks(kind, tmp_path):
    name, folder, _ = kind
    assert find_source(name).fits(folder) and source_that_fits([folder]) == name
    assert [other for other in SOURCES if find_source(other).fits(folder)] == [name]
    assert not find_source(name).fits(tmp_path) and not find_source(name).fits(tmp_path / "missing")


def test_the_first_look_says_what_is_there(kind):
    name, _, opts = kind
    facts, data = find_source(name).look(tiny_cfg(**opts)), open_data(tiny_cfg(**opts))
    assert set(facts.cameras) == set(data.facts.cameras) >= set(data.views)
    assert facts.action_dim == data.facts.action_dim == 7 and facts.proprio == data.facts.proprio
    assert bool(facts.proprio) == find_source(name).PROPRIO
    assert all(data.facts.cameras[view] == (64, 64) for view in data.views)
    for view in data.views:
        assert facts.cameras[view] in ((64, 64), None)


def test_samples_are_the_frames_of_demos(kind):
    name, _, opts = kind
    cfg = tiny_cfg(**opts)
    data = open_data(cfg)
    assert data.views == list(cfg.DATA.VIEWS) and data.horizon == cfg.ACTION.HORIZON == 2
    assert len(data) == sum(len(rows.actions) for rows in data.demos) and len(data.demos) >= 4
    seen = set()
    for number, rows in enumerate(data.demos):
        assert rows.actions.dtype == np.float32 and rows.actions.shape[1] == 7
        assert rows.proprio.shape == (len(rows.actions), 0) and rows.file in data.files
        for frame in range(len(rows.actions)):
            index = data.index(number, frame)
            sample = data[index]
            seen.add(index)
            for view, picture in zip(data.views, sample.views, strict=True):
                assert picture.dtype == np.uint8 and picture.shape == (64, 64, 3)
                np.testing.assert_array_equal(picture, data.picture(number, frame, view))
            steps = np.minimum([frame, frame + 1], len(rows.actions) - 1)
            np.testing.assert_array_equal(sample.actions, rows.actions[steps])
            assert sample.actions.dtype == np.float32 and sample.proprio.shape == (0,)
            assert (sample.instruction, sample.demo, sample.frame) == (rows.instruction, rows.name, frame)
            where = data.where(index)
            assert where.startswith(str(rows.file.path)) and f"{rows.name}, frame {frame}" in where
    assert seen == set(range(len(data)))
    assert set(data.instructions) == {rows.instruction for rows in data.demos}
    assert (data.written_with is None) == find_source(name).NUMBERS


def test_chosen_parts_of_the_robots_state_come_with_every_sample(kind):
    name, _, opts = kind
    if not find_source(name).PROPRIO:
        with pytest.raises(ValueError, match=rf"DATA.SOURCE {name} holds none"):
            tiny_cfg(**opts, MODEL__NAME="flow_expert", DATA__PROPRIO=["state"])
        return
    known = find_source(name).look(tiny_cfg(**opts)).proprio
    parts = list(known)[-2:]
    data = load_data(tiny_cfg(**opts, MODEL__NAME="flow_expert", DATA__PROPRIO=parts))
    assert data.train.parts == {part: known[part] for part in parts} == data.action_stats["proprio"]["parts"]
    for number, rows in enumerate(data.train.demos):
        assert rows.proprio.dtype == np.float32 and rows.proprio.shape[1] == sum(data.train.parts.values())
        sample = data.train[data.train.index(number, 1)]
        np.testing.assert_array_equal(sample.proprio, rows.proprio[1])


def test_it_can_be_pickled_split_and_cut(kind):
    _, _, opts = kind
    whole = open_data(tiny_cfg(**opts))

    def names(data):
        return [(str(rows.file.path), rows.name, rows.instruction) for rows in data.demos]

    assert names(pickle.loads(pickle.dumps(whole))) == names(whole)
    assert len(whole.own_split()) == len(whole.demos)
    assert set(whole.own_split()) <= {None, "train", "valid", "neither"}
    same, none = whole.split(0, seed=0)
    assert none is None and names(same) == names(whole)
    train_part, valid = pickle.loads(pickle.dumps(whole.split(0.4, seed=0)))
    assert sorted(names(train_part) + names(valid)) == sorted(names(whole)) and len(train_part) and len(valid)
    assert names(whole.split(0.4, seed=0)[1]) == names(valid)
    assert any(names(whole.split(0.4, seed)[1]) != names(valid) for seed in range(1, 6))
    np.testing.assert_array_equal(valid[0].views[0], valid.picture(0, 0, valid.views[0]))
    first = whole.first(2)
    assert names(first) == names(whole)[:2] and len(first) == sum(len(rows.actions) for rows in first.demos)
    for count in (0, len(whole.demos) + 1):
        with pytest.raises(ValueError, match=f"{count} demos are asked for: .* {len(whole.demos)}"):
            whole.first(count)


def test_the_fingerprint_knows_the_data_wherever_it_lies(kind, tmp_path):
    _, folder, opts = kind
    whole = open_data(tiny_cfg(**opts))
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert open_data(tiny_cfg(**{**opts, "DATA__FILES": [str(moved)]})).fingerprint() == whole.fingerprint()
    views = {"DATA__VIEWS": whole.views[:1]}
    others = [open_data(tiny_cfg(**{**opts, **views})).fingerprint(), whole.first(2).fingerprint()]
    assert len({whole.fingerprint(), *others}) == 3


def test_a_run_knows_what_it_reads(kind):
    _, _, opts = kind
    data = load_data(tiny_cfg(**opts, DATA__VAL_SHARE=0.4))
    assert json.loads(json.dumps(data.info)) == data.info and data.info["resolution"] == 64
    assert data.info["num_demos"] == len(data.train.demos) + len(data.valid.demos)
    assert len(data.action_stats["min"]) == 7 and all(isinstance(line, str) for line in data.remarks)
    few = load_data(tiny_cfg(**opts, DATA__MAX_DEMOS=2))
    assert few.info["num_demos"] == 2 and few.info["fingerprint"] != data.info["fingerprint"]


def test_what_is_not_there_is_said_with_what_is(kind):
    name, _, opts = kind
    there = find_source(name).look(tiny_cfg(**opts)).cameras
    for change, words in (
        ({"DATA__VIEWS": ["nowhere"]}, ["nowhere", *there]),
        ({"ACTION__DIM": 6}, ["ACTION.DIM is 6", "7"]),
        ({"DATA__FILES": []}, ["DATA.FILES"]),
        ({"DATA__FILES": ["no/such/folder"]}, ["no/such/folder"]),
    ):
        with pytest.raises(ValueError) as refused:
            load_data(tiny_cfg(**{**opts, **change}))
        assert all(word in str(refused.value) for word in words) and "\n" not in str(refused.value)


def start(kind, folder, *flags, **more):
    _, _, opts = kind
    opts = {**opts, "EXP__DIR": folder, "TRAIN__max_steps": 4, "TRAIN__save_every": 2, "DATA__VAL_SHARE": 0.4, **more}
    command = ["--cfg", str(ROOT / "configs/tiny.yaml"), *flags, *map(str, tiny_opts(**opts))]
    try:
        train.main(command)
    except SystemExit as end:
        assert not end.code


@pytest.mark.slow
def test_it_is_planned_looked_at_trained_on_and_resumed_to_the_bit(kind, tmp_path, capsys):
    start(kind, tmp_path, "--dry_run")
    assert "missing: nothing" in capsys.readouterr().out
    start(kind, tmp_path, "--sanity_forward")
    assert "\nloss " in capsys.readouterr().out
    start(kind, tmp_path, "--nproc", "1", EXP__ID="whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut", symlinks=True)
    shutil.rmtree(tmp_path / "cut/step_00000004")  # as if killed there
    start(kind, tmp_path, "--nproc", "1", "--resume", EXP__ID="cut")
    assert compare_runs(tmp_path / "whole", tmp_path / "cut") == []
    _, folder, _ = kind
    capsys.readouterr()
    out = ["--out", str(tmp_path / "diagnosis"), "--num_frames", "2", "--num_demos", "1"]
    diagnose.main(["--model_path", str(tmp_path / "whole"), "--data", str(folder), *out])
    assert "open loop" in capsys.readouterr().out


def test_the_tools_read_it(kind, tmp_path, capsys):
    name, folder, opts = kind
    views = ["--views", *open_data(tiny_cfg(**opts)).views]
    inspect_demos.main([str(folder), "--verify"])
    assert "no problems" in capsys.readouterr().out
    out = ["--out", str(tmp_path / "stats.json"), *views]
    if not find_source(name).NUMBERS:
        for command in (compute_stats.main, build_manifest.main):
            with pytest.raises(SystemExit, match="2"):
                command([str(folder), *out])
        return
    compute_stats.main([str(folder), *out])
    data = load_data(tiny_cfg(**opts))
    assert read_stats(tmp_path / "stats.json") == data.action_stats
    capsys.readouterr()
    manifest = build(tmp_path / "manifest", folder, *views, workers=2)
    lines = load_data(tiny_cfg(**{**opts, "DATA__SOURCE": "manifest", "DATA__FILES": [str(manifest)]}))
    assert lines.action_stats == data.action_stats and len(lines.train) == len(data.train)
    for index in (0, len(data.train) - 1):
        for one, other in zip(lines.train[index].views, data.train[index].views, strict=True):
            np.testing.assert_array_equal(one, other)
