"""DATA.SOURCE lerobot: what a run is given of LeRobot sets, with and without a frame cache."""

import collections
import pickle
import shutil

import numpy as np
import pytest
import torch

from libs.errors import BadInput
from libs.lerobot_data import LeRobotSet
from libs.manifest.pictures import decode_picture, encode_picture
from rv_train import train
from rv_train.data.lerobot import LeRobotDemos
from rv_train.data.load import load_data, open_data
from rv_train.data.sources import find_source
from rv_train.difference import differing, read_curves, read_weights
from rv_train.prepare import prepare_run
from tests.demo_files import write_synthetic_demo_file
from tests.lerobot_sets import FOLDER, FRONT, SAMPLES, WRIST, copied, edit_column
from tests.refusal import refusal
from tests.tiny import ROOT, tiny_cfg, tiny_opts
from tools import export_lerobot

SO_LIKE = str(FOLDER / "v30/so_like")


def opts(*sets, **more):
    names = {"DATA__VIEWS": [FRONT, WRIST], "DATA__SOURCE": "lerobot", "ACTION__DIM": 6}
    return {**names, "DATA__FILES": [str(one) for one in sets or [SO_LIKE]], **more}


def data_of(*sets, **more):
    return open_data(tiny_cfg(**opts(*sets, **more)))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_is_a_frame_of_the_set(name):
    cfg = tiny_cfg(**opts(FOLDER / name))
    facts = find_source("lerobot").look(cfg)
    action = facts.needs.get("DATA.ACTION", "action")
    state, views = next(iter(facts.proprio)), list(facts.cameras)
    more = {"DATA__VIEWS": views, "DATA__ACTION": action, "DATA__PROPRIO": [state], "MODEL__NAME": "flow_expert"}
    found = data_of(FOLDER / name, **more, ACTION__DIM=facts.action_dim)
    plain = LeRobotSet(FOLDER / name, [action, state], views)
    assert found.facts.rate == plain.fps and found.facts.cameras == facts.cameras
    index = 0
    for episode in plain.episodes:
        for frame in range(plain.num_frames(episode)):
            if frame % 5 == 0:
                sample = found[index]
                assert (sample.demo, sample.frame) == (f"episode_{episode}", frame)
                assert sample.instruction == plain.instruction(episode, frame)
                np.testing.assert_array_equal(sample.actions[0], plain.vector(episode, action)[frame])
                np.testing.assert_array_equal(sample.proprio, plain.vector(episode, state)[frame])
                for view, picture in zip(views, sample.views, strict=True):
                    np.testing.assert_array_equal(picture, plain.picture(episode, frame, view))
            index += 1
    assert index == len(found)


def test_a_frame_has_the_goal_of_its_own_task(tmp_path):
    root = copied("v30/so_like", tmp_path)
    whole = data_of(root)
    (file,) = (root / "data").rglob("*.parquet")
    edit_column(file, "task_index", lambda tasks: [*tasks[:8], *(1 - task for task in tasks[8:12]), *tasks[12:]])
    changed = data_of(root)
    goals = [changed[index].instruction for index in range(12)]
    assert len(set(goals[:8])) == len(set(goals[8:])) == 1 and goals[0] != goals[8]
    assert changed.demos[0].instruction == goals[0] and goals[8] in changed.first(1).instructions
    assert changed.fingerprint() != whole.fingerprint()
    assert data_of(root, DATA__INSTRUCTION="wave").instructions == ["wave"]


def test_several_sets_are_one_after_another(tmp_path):
    other = str(FOLDER / "v21/so_like")
    both, first = data_of(SO_LIKE, other), data_of()
    assert len(both) == 2 * len(first) and len(both.files) == 2 and both.first(5).fingerprint() == first.fingerprint()
    np.testing.assert_array_equal(both[len(first)].actions, data_of(other)[0].actions)
    train_part, valid = pickle.loads(pickle.dumps(both)).split(0.2, seed=0)
    assert [len(part.files) for part in (train_part, valid)] == [2, 2] and len(valid.demos) == 2
    for name in ("one", "two"):
        shutil.copytree(SO_LIKE, tmp_path / "many" / name)
    assert data_of(tmp_path / "many").fingerprint() == data_of(SO_LIKE, SO_LIKE).fingerprint()


def start(folder, data, *flags, **more):
    data = {**data, "EXP__DIR": folder, "TRAIN__max_steps": 3, "TRAIN__save_every": 3, **more}
    command = ["--cfg", str(ROOT / "configs/tiny.yaml"), *flags, *map(str, tiny_opts(**data))]
    try:
        train.main(command)
    except SystemExit as end:
        assert not end.code


@pytest.mark.slow
def test_a_lossless_export_trains_as_the_hdf5_files_to_the_bit(tmp_path):
    demos = tmp_path / "demos/a_demo.hdf5"
    write_synthetic_demo_file(demos, 4, 5, 64, seed=0)
    export_lerobot.main([str(demos), "--out", str(tmp_path / "set"), "--fps", "20", "--pictures", "png"])
    views = ["agentview", "eye_in_hand"]
    start(tmp_path, {"DATA__FILES": [str(demos)]}, "--nproc", "1", EXP__ID="hdf5", DATA__VAL_SHARE=0.4)
    of_set = opts(tmp_path / "set", DATA__VIEWS=[f"observation.images.{view}" for view in views], ACTION__DIM=7)
    start(
        tmp_path, of_set, "--nproc", "1", EXP__ID="lerobot", DATA__VAL_SHARE=0.4, DATA__CACHE=str(tmp_path / "frames")
    )
    curves = [read_curves(tmp_path / name) for name in ("hdf5", "lerobot")]
    assert {"train/loss", "val/loss"} <= set(curves[0])
    assert list(differing(*curves, "curve")) == []
    weights = [read_weights(tmp_path / name / "step_00000003/model") for name in ("hdf5", "lerobot")]
    assert weights[0] and list(differing(*weights, "weights")) == []


def test_a_run_builds_the_cache_that_it_needs_and_a_look_none(tmp_path, capsys):
    cache = tmp_path / "frames"
    data = opts(DATA__CACHE=str(cache), DATA__MAX_DEMOS=2)
    start(tmp_path, data, "--dry_run")
    capsys.readouterr()
    start(tmp_path, data, "--sanity_forward")
    looked = capsys.readouterr().out
    assert "\nloss " in looked and not cache.exists()
    start(tmp_path, data, "--nproc", "1")
    assert "74 of 74 pictures are missing, about" in capsys.readouterr().err
    made = collections.Counter(path.name for path in cache.rglob("*.frames"))
    assert made == {"000000.frames": 2, "000001.frames": 2}
    start(tmp_path, data, "--sanity_forward")
    again = capsys.readouterr()
    assert again.out == looked and "missing" not in again.err


@pytest.mark.parametrize(
    ("each", "ranks", "cores", "expected"), [(4, 8, 64, 32), (4, 8, 16, 16), (4, 2, 2, 4), (0, 1, 64, 1)]
)
def test_a_cache_is_made_by_the_processes_of_all_ranks(each, ranks, cores, expected, tmp_path, monkeypatch):
    """None of them has started yet: eight ranks wait for it."""
    workers = []
    monkeypatch.setattr(LeRobotDemos, "prepare", lambda data, number: workers.append(number))
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    sizes = {"DATA__NUM_WORKERS": each, "TRAIN__batch_size": 2, "EXP__DIR": str(tmp_path)}
    prepare_run(tiny_cfg(**opts(), **sizes, DATA__VAL_SHARE=0.3), torch.device("cpu"), ranks)
    assert workers == [expected, expected]


def test_beside_is_beside_the_set(tmp_path):
    root = copied("v30/so_like", tmp_path)
    data_of(root, DATA__CACHE="beside").first(1).prepare(1)
    assert len(list((tmp_path / "set.frames").rglob("*.frames"))) == 2


@pytest.mark.parametrize("quality", [0, 60])
def test_samples_do_not_depend_on_the_cache(quality, tmp_path, monkeypatch):
    cached = {"DATA__CACHE": str(tmp_path / "frames"), "DATA__CACHE_JPEG": quality}
    before, plain = data_of(**cached), data_of()
    pictures, mark = [before[n].views[0] for n in (0, 30)], before.fingerprint()
    before.prepare(1)
    expected = plain[30].views[0]
    with monkeypatch.context() as patch:
        patch.setattr(LeRobotSet, "picture", None)  # nothing is read through any more
        after = pickle.loads(pickle.dumps(data_of(**cached)))
        np.testing.assert_array_equal(after[30].views[0], pictures[1])
        assert after.fingerprint() == mark
    if quality:
        assert mark != plain.fingerprint()
        expected = decode_picture(encode_picture(expected, "jpeg", quality))
    else:
        assert mark == plain.fingerprint()
    np.testing.assert_array_equal(pictures[1], expected)


def test_a_disk_without_room_ends_a_run_before_it_begins(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: collections.namedtuple("Usage", "free")(1000))
    data = opts(DATA__CACHE=str(tmp_path / "frames"), EXP__DIR=tmp_path)
    command = ["--cfg", str(ROOT / "configs/tiny.yaml"), "--nproc", "1", *map(str, tiny_opts(**data))]
    assert "GB are free: another folder" in refusal(train.main, capsys, *command)
    assert not (tmp_path / "frames").exists()


def test_what_cannot_be_used_is_said(tmp_path):
    root = copied("v30/so_like", tmp_path)
    pi = FOLDER / "v30/libero_pi_image"
    for sets, more, words in (
        ([root], {"DATA__ACTION": "torque"}, r"DATA.ACTION: .*set has no numbers 'torque'; .*action \(6\)"),
        ([pi], {}, r"DATA.ACTION: .* it has state \(8\), actions \(7\)"),
        ([root], {"DATA__VIEWS": ["top"]}, rf"DATA.VIEWS: .*no 'top'; it has {FRONT}, {WRIST}"),
        ([root, pi], {}, "DATA.ACTION: .*libero_pi_image"),
        ([root], {"DATA__CACHE_JPEG": 80}, "DATA.CACHE_JPEG 80 is for a frame cache"),
        ([root], {"DATA__CACHE_JPEG": 101, "DATA__CACHE": "x"}, "at most 100"),
    ):
        with pytest.raises(BadInput, match=words):
            data_of(*sets, **more)
    with pytest.raises(BadInput, match="is empty; give LeRobot"):
        find_source("lerobot").look(tiny_cfg(**{**opts(), "DATA__FILES": []}))
    with pytest.raises(BadInput, match=r"looks like DATA\.SOURCE lerobot, not hdf5"):
        data_of(root, DATA__SOURCE="hdf5")
    (file,) = (root / "data").rglob("*.parquet")
    edit_column(file, "observation.state", lambda rows: [*rows[:20], [float("nan")] * 6, *rows[21:]])
    flow = {"DATA__PROPRIO": ["observation.state"], "MODEL__NAME": "flow_expert"}
    with pytest.raises(BadInput, match=r"set, episode_1: number 0 of DATA.PROPRIO at frame 8 is nan"):
        data_of(root, **flow)
    assert len(load_data(tiny_cfg(**opts(root))).train.demos) == 5
