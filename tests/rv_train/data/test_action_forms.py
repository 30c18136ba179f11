"""ACTION.MODE and ACTION.ROTATION: what is refused, what is learned of recorded actions, and its statistics."""

import json

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from libs.action_text import ActionTextCodec
from libs.errors import BadInput
from rv_train.data.load import load_data
from rv_train.data.stats import action_range, read_stats
from rv_train.data.training_set import TrainingSet
from rv_train.policies import build_encoder
from rv_train.policies.base import Prediction
from tests.action_goals import DELTA, write_goals
from tests.lerobot_sets import FOLDER, FRONT, WRIST
from tests.refusal import refusal
from tests.tiny import flow_opts, tiny_cfg
from tools import build_manifest, compute_stats

STATE, LEROBOT_STATE = ["ee_pos", "ee_ori"], "observation.state"
LEROBOT = {
    "DATA__SOURCE": "lerobot",
    "DATA__FILES": [str(FOLDER / "v30/so_like")],
    "DATA__VIEWS": [FRONT, WRIST],
    "DATA__PROPRIO": [LEROBOT_STATE],
    "ACTION__DIM": 6,
    "ACTION__MODE": "delta",
    "ACTION__DELTA": [0, 1, 2, 3, 4],
    "ACTION__STATE": [f"{LEROBOT_STATE}[0:5]"],
}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("goals") / "goals.hdf5"
    write_goals(path, num_demos=3, num_frames=6)
    return path


def opts_of(demos, **more):
    return {"DATA__FILES": [str(demos)], **DELTA, "ACTION__HORIZON": 3, **more}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ACTION__MODE": "relative"}, r"ACTION\.MODE is 'relative'; choose one of absolute, delta"),
        ({"ACTION__MODE": "absolute"}, "ACTION.DELTA .* is for ACTION.MODE delta"),
        ({"ACTION__DELTA": []}, "needs ACTION.DELTA"),
        ({"ACTION__STATE": []}, "needs ACTION.STATE"),
        ({"DATA__PROPRIO": ["ee_pos"]}, r"ACTION.STATE ee_ori: DATA.PROPRIO \['ee_pos'\] does not name it"),
        ({"ACTION__STATE": ["ee_pos", "ee_ori[1:9]"]}, r"ee_ori\[1:9\]: ee_ori has the numbers 0 to 2"),
        ({"ACTION__STATE": ["ee_pos"]}, "6 numbers of an action .* the state has 3"),
        ({"ACTION__DELTA": [0, 1, 2, 3, 4, 7]}, "numbers 0 to 6"),
        ({"ACTION__ROTATION__RECORDED": "euler"}, "ACTION.ROTATION.RECORDED is 'euler'; choose one of axis_angle"),
        ({"ACTION__ROTATION__DIMS": [5]}, r"rotations: an action has the numbers 0 to 6, each once; got \[5\]"),
        ({"ACTION__ROTATION__DIMS": [], "ACTION__ROTATION__WRITTEN": "6d_rows"}, "DIMS, which names none"),
        ({"ACTION__DELTA": [0, 1, 2], "ACTION__STATE": ["ee_pos"]}, "written as they are: set DIMS"),
        ({"DATA__SOURCE": "manifest", "DATA__PROPRIO": [], "ACTION__STATE": ["x"]}, "DATA.PROPRIO"),
    ],
)
def test_keys_that_contradict_each_other(demos, change, words):
    with pytest.raises(BadInput, match=words):
        load_data(tiny_cfg(**{**opts_of(demos), **change}))


def test_keys_that_do_not_apply():
    for key, value in (("DELTA", [0]), ("STATE", ["ee_pos"]), ("DELTA_TO", "action")):
        with pytest.raises(BadInput, match=f"ACTION.{key} .* is for ACTION.MODE delta"):
            tiny_cfg(**{f"ACTION__{key}": value})
    turned = {"ACTION__ROTATION__DIMS": [3], "ACTION__ROTATION__WRITTEN": "6d_columns"}
    with pytest.raises(BadInput, match=r"DATA\.SOURCE manifest holds actions as integers.*hdf5 or lerobot"):
        tiny_cfg(DATA__SOURCE="manifest", **turned)


@pytest.mark.parametrize("model", ["vla0", "flow_expert"])
@pytest.mark.parametrize("to", ["state", "action"])
@pytest.mark.parametrize("written", ["axis_angle", "6d_columns"])
def test_every_frame_is_learned_so_that_it_comes_back(demos, model, to, written):
    """What the model would write of a sample, if it wrote what it learns, is read as what was recorded."""
    more = {"ACTION__DELTA_TO": to, "ACTION__ROTATION__WRITTEN": written, "ACTION__NUM_BINS": 1000}
    cfg = tiny_cfg(**{**(flow_opts() if model == "flow_expert" else {}), **opts_of(demos, **more)})
    data = load_data(cfg)
    encoder = build_encoder(cfg, data.action_stats)
    samples, views = TrainingSet(data.train, encoder, 0, augment=False), data.train.views
    codec = ActionTextCodec(*action_range(data.action_stats), cfg.ACTION.NUM_BINS)
    assert codec.action_dim == (10 if written == "6d_columns" else 7) == encoder.action_dim
    step = (codec.high - codec.low).max() / cfg.ACTION.NUM_BINS
    for index in range(len(data.train)):
        sample, features = data.train[index], samples[(0, 0, index)]
        if model == "flow_expert":
            chunk, error = features["actions"].numpy()[None], 1e-5
        else:
            start = encoder.prompt_length(sample)
            text = encoder.prompt.tokenizer.decode(features["input_ids"][start:-2]).removesuffix("<|im_end|>")
            chunk, valid = codec.decode([text], 3)
            # Half a step, at most three of them added up; an axis-angle turns by its length, columns by twice theirs.
            assert valid.all()
            error = 3 * 2 * step * (3 if to == "action" else 1) / 2
        every = np.ones(1, bool)
        shown = {"views": dict(zip(views, sample.views, strict=True)), "instruction": "", "proprio": sample.proprio}
        again = encoder.recorded(Prediction(chunk, every, ~every, [""]), [shown]).chunk[0]
        np.testing.assert_allclose(again[:, :3], sample.actions[:, :3], atol=error)
        turns = (Rotation.from_rotvec(one[:, 3:6]) for one in (again, sample.actions))
        assert (next(turns) * next(turns).inv()).magnitude().max() <= 2 * error
        np.testing.assert_allclose(again[:, 6], sample.actions[:, 6], atol=step)


def test_statistics_are_those_of_what_is_written(demos):
    data = load_data(tiny_cfg(**opts_of(demos)))
    stats, rows = data.action_stats, data.train.demos[0]
    # A goal is (0.1, 0.2, -0.1) and a turn of 0.25 ahead of the hand, which moves by (0.1, 0, 0) and turns by 0.25 a
    # frame: what is two frames ahead is that much more, unless the demo ends.
    np.testing.assert_allclose(stats["min"][:3], [0.1, 0.2, -0.1], atol=1e-6)
    np.testing.assert_allclose(stats["max"][:3], [0.3, 0.2, -0.1], atol=1e-6)
    np.testing.assert_allclose((stats["min"][5], stats["max"][5]), (0.25, 0.75), atol=1e-6)
    assert stats["count"] == 18 and len(stats["proprio"]["min"]) == 6
    assert stats["form"]["horizon"] == 3 and stats["form"]["to"] == "state"
    actions = np.concatenate([demo.actions for demo in data.train.demos])
    assert stats["recorded"] == {"min": actions.min(0).tolist(), "max": actions.max(0).tolist(), "usual": True}
    assert "as differences to the robot's state" in data.info["written"] and data.info["num_clipped"] == 0
    assert rows.actions.shape == (6, 7)  # the data are as they were recorded


def test_statistics_of_a_file_must_be_of_the_same_form(demos, tmp_path, capsys):
    keys = {"ACTION.MODE": "delta", "ACTION.DELTA": "[0,1,2,3,4,5]", "ACTION.STATE": "['ee_pos','ee_ori']"}
    keys |= {"ACTION.ROTATION.DIMS": "[3]", "ACTION.HORIZON": "3"}
    pairs = [part for key, value in keys.items() for part in (key, value)]
    common = [str(demos), "--proprio", "ee_pos", "ee_ori"]
    compute_stats.main([*common, *pairs, "--out", str(tmp_path / "delta.json")])
    compute_stats.main([*common, "--out", str(tmp_path / "plain.json")])
    given = load_data(tiny_cfg(**opts_of(demos, DATA__STATS=str(tmp_path / "delta.json"))))
    assert (
        given.action_stats == read_stats(tmp_path / "delta.json") == load_data(tiny_cfg(**opts_of(demos))).action_stats
    )
    for name, more in (("plain", {}), ("delta", {"ACTION__HORIZON": 2}), ("delta", {"ACTION__DELTA_TO": "action"})):
        with pytest.raises(BadInput, match=f"DATA.STATS: .*{name}.json is of actions written as .*compute_stats"):
            load_data(tiny_cfg(**{**opts_of(demos, DATA__STATS=str(tmp_path / f"{name}.json")), **more}))
    broken = read_stats(tmp_path / "delta.json") | {"recorded": {"min": [0.0], "max": [1.0]}}
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(BadInput, match="'recorded' must hold 'min' of 7"):
        read_stats(tmp_path / "broken.json")
    assert ".json, not .npz" in refusal(compute_stats.main, capsys, *common, *pairs, "--out", tmp_path / "delta.npz")
    said = refusal(build_manifest.main, capsys, *common[:1], "--out", tmp_path / "manifest", *turned_pairs())
    assert "a manifest holds actions as they are recorded" in said


def turned_pairs():
    return ["ACTION.ROTATION.DIMS", "[3]", "ACTION.ROTATION.WRITTEN", "6d_columns"]


def test_numbers_that_are_no_rotation_are_refused_with_their_frame(demos):
    """Six numbers of pose that are no quaternion: the demo and frame are named before anything is learned."""
    turned = {"ACTION__ROTATION__DIMS": [2], "ACTION__ROTATION__RECORDED": "quaternion_xyzw"}
    with pytest.raises(BadInput, match=r"goals.hdf5, demo_0, frame 0: no quaternion_xyzw stands at .*\[2\]"):
        load_data(tiny_cfg(DATA__FILES=[str(demos)], **turned))


def test_an_outlier_of_what_is_written_is_found_where_it_stands(demos, tmp_path):
    path = tmp_path / "wild.hdf5"
    write_goals(path, num_demos=1, num_frames=400)
    with h5py.File(path, "r+") as file:
        actions = file["data/demo_0/actions"]
        actions[:, 1] += 0.01 * np.sin(np.arange(400))
        actions[300, 1] = 50.0
    remarks = load_data(tiny_cfg(**opts_of(path))).remarks
    (found,) = [line for line in remarks if "dimension 1 of the written actions" in line]
    assert "demo_0, frame 298" in found  # the first chunk that holds it begins two frames before


def test_a_lerobot_set_comes_back_within_the_codecs_step():
    cfg = tiny_cfg(**LEROBOT)
    data = load_data(cfg)
    encoder = build_encoder(cfg, data.action_stats)
    assert len(data.action_stats["min"]) == 6 and encoder.form.origin == (0, 1, 2, 3, 4)
    low, high = (np.array(data.action_stats[key]) for key in ("min", "max"))
    for index in range(0, len(data.train), 7):
        sample = data.train[index]
        chunk = encoder.codec.decode(encoder.codec.encode(encoder.written(sample).actions[None]), 2)[0]
        np.testing.assert_allclose(encoder.written(sample).actions[:, :5], sample.actions[:, :5] - sample.proprio[:5])
        again = encoder.form.read(chunk[0], sample.proprio)
        assert (np.abs(again - sample.actions) <= 0.501 * (high - low) / cfg.ACTION.NUM_BINS + 1e-5).all()
