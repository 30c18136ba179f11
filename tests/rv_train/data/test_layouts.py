"""Data of other layouts than LIBERO's, through a run's config: samples, statistics, fingerprint, and a text policy."""

import hashlib
import json
import shutil

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import KeyMap
from rv_train import train
from rv_train.data.checks import constant_dims
from rv_train.data.hdf5 import DemoDataset, key_map_of
from rv_train.data.load import load_data
from rv_train.data.stats import (
    Moments,
    compute_action_stats,
    read_stats,
    write_stats,
)
from tests.demo_files import write_synthetic_demo_file, write_synthetic_isaac_file, write_synthetic_robomimic_file
from tests.tiny import ROOT, tiny_cfg, tiny_opts

SIDE = 32
PARTS = ["eef_pos", "joint_pos"]
VIEWS = ["wrist_cam", "table_cam"]
ISAAC = {"DATA__KEY_MAP": "isaac_cosmos", "DATA__VIEWS": VIEWS}
FLOW = {"MODEL__NAME": "flow_expert", **ISAAC, "DATA__PROPRIO": PARTS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of Isaac Lab's layout and one of robomimic's; demos of different lengths."""
    folder = tmp_path_factory.mktemp("layouts")
    write_synthetic_isaac_file(folder / "isaac/a.hdf5", 3, 5, SIDE, seed=0)
    write_synthetic_isaac_file(folder / "isaac/b.hdf5", 2, 9, SIDE, seed=50, instruction="another")
    write_synthetic_robomimic_file(folder / "robomimic/c.hdf5", 2, 4, SIDE, seed=90)
    return folder


@pytest.fixture
def isaac(folder):
    return folder / "isaac"


def data_of(path, **opts):
    return load_data(tiny_cfg(DATA__FILES=[str(path)], **opts))


def dataset_of(isaac, parts=PARTS, views=VIEWS):
    return DemoDataset(sorted(isaac.glob("*.hdf5")), views, 3, KeyMap.find("isaac_cosmos"), parts)


def test_a_sample_has_the_chosen_parts_one_after_another(isaac):
    data = data_of(isaac, **FLOW)
    demo = write_synthetic_isaac_file(isaac.parent / "again.hdf5", 1, 9, SIDE, seed=51)[0]
    sample = data.train[15 + 9 + 4]  # the fifth frame of b's second demo
    assert (sample.demo, sample.frame, sample.instruction) == ("demo_1", 4, "another")
    expected = np.concatenate([demo.proprio[part][4] for part in PARTS]).astype(np.float32)
    assert sample.proprio.dtype == np.float32 and np.array_equal(sample.proprio, expected)
    for seen, view in zip(sample.views, VIEWS, strict=True):
        np.testing.assert_array_equal(seen, demo.views[view][4])
    assert data.info["key_map"] == "isaac_cosmos" and data.info["render"] == "standard"
    assert data_of(isaac, **ISAAC).train[3].proprio.shape == (0,)


def test_libero_is_the_default_and_gives_no_proprio(tmp_path):
    write_synthetic_demo_file(tmp_path / "demo.hdf5", 1, 4, SIDE, seed=0)
    with h5py.File(tmp_path / "demo.hdf5", "r+") as file:
        file["data/demo_0/robot_states"][2, 3] = np.nan  # nobody asks for it
    data = data_of(tmp_path)
    assert data.info["key_map"] == "libero" and data.train[1].proprio.shape == (0,)
    assert "proprio" not in data.action_stats
    more = {"MODEL__NAME": "flow_expert", "DATA__PROPRIO": ["gripper_states", "ee_pos"]}
    assert data_of(tmp_path, **more).train[1].proprio.shape == (5,)
    with pytest.raises(ValueError, match=r"demo\.hdf5, demo_0: robot_states holds a number that is not finite"):
        data_of(tmp_path, MODEL__NAME="flow_expert", DATA__PROPRIO=["robot_states"])


def test_the_instruction_can_be_given(folder):
    more = {"DATA__KEY_MAP": "robomimic", "DATA__VIEWS": ["robot0_eye_in_hand", "agentview"]}
    with pytest.raises(ValueError, match=r"c\.hdf5: no language_instruction .*: DATA\.INSTRUCTION"):
        data_of(folder / "robomimic", **more)
    assert data_of(folder / "robomimic", **more, DATA__INSTRUCTION="lift").train[2].instruction == "lift"
    given, stated = (data_of(folder / "isaac", **ISAAC, DATA__INSTRUCTION=text) for text in ("stack", ""))
    assert {sample.instruction for sample in (given.train[0], given.train[20])} == {"stack"}
    assert stated.train[20].instruction == "another" and given.info["fingerprint"] != stated.info["fingerprint"]


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"DATA__VIEWS": ["agentview"]}, "has no view 'agentview'; it has table_cam, wrist_cam"),
        ({"DATA__PROPRIO": ["ee_pos"]}, "has no proprio part 'ee_pos'; it has joint_pos, joint_vel, eef_pos, eef_quat"),
        (
            {"DATA__KEY_MAP": "isaac"},
            "DATA.KEY_MAP.*no key map 'isaac': there are aloha, isaac_cosmos, libero, robomimic",
        ),
        ({"DATA__KEY_MAP": "no/such.json"}, r"DATA.KEY_MAP.*no/such\.json does not exist"),
        ({"ACTION__DIM": 6}, "ACTION.DIM is 6, actions of key map isaac_cosmos have 7 dimensions"),
        ({"DATA__PROPRIO": ["eef_pos", "eef_pos"]}, "DATA.PROPRIO names 'eef_pos' twice"),
        ({"DATA__SOURCE": "manifest"}, "DATA.SOURCE manifest holds none"),
        (
            {"DATA__KEY_MAP": "libero", "DATA__VIEWS": ["agentview"], "DATA__PROPRIO": []},
            "demo_0: no obs/agentview_rgb",
        ),
    ],
)
def test_a_config_that_does_not_fit_the_map_is_refused(isaac, opts, message):
    assert key_map_of(tiny_cfg(**FLOW)).dim(PARTS) == 12
    with pytest.raises(ValueError, match=message):
        data_of(isaac, **{**FLOW, **opts})


def test_pictures_that_would_stand_on_their_heads_are_refused(tmp_path):
    write_synthetic_isaac_file(tmp_path / "a.hdf5", 1, 4, SIDE, seed=0)
    for convention in ("opencv", "opengl"):
        with h5py.File(tmp_path / "a.hdf5", "r+") as file:
            file["data"].attrs["macros_image_convention"] = convention
        if convention == "opencv":
            assert len(dataset_of(tmp_path)) == 4
    with pytest.raises(ValueError, match=r"a\.hdf5: pictures stored as 'opengl', expected 'opencv'"):
        dataset_of(tmp_path)


def test_statistics_demo_by_demo_are_those_of_everything_at_once(isaac):
    dataset = dataset_of(isaac)
    stats = compute_action_stats(dataset)
    actions, proprio = (
        np.concatenate([getattr(rows, name) for rows in dataset.demos]).astype(np.float64)
        for name in ("actions", "proprio")
    )
    assert stats["proprio"]["parts"] == {"eef_pos": 3, "joint_pos": 9} and stats["count"] == 33
    for found, rows in ((stats, actions), (stats["proprio"], proprio)):
        assert found["min"] == rows.min(axis=0).tolist() and found["max"] == rows.max(axis=0).tolist()
        np.testing.assert_allclose(found["mean"], rows.mean(axis=0), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(found["std"], rows.std(axis=0), rtol=1e-12)
    assert [stats["q01"], stats["q99"]] == np.quantile(actions, [0.01, 0.99], axis=0).tolist()
    assert "proprio" not in compute_action_stats(dataset_of(isaac, parts=[]))


def test_moments_hold_where_the_mean_is_far_from_zero():
    """The plain formula, mean of squares minus square of the mean, loses every digit here."""
    rows = 1e8 + np.random.default_rng(0).normal(size=(1000, 2))
    moments = Moments()
    for part in np.split(rows, [1, 3, 500, 999]):
        moments.add(part)
    np.testing.assert_allclose(moments.as_lists()["std"], rows.std(axis=0), rtol=1e-7)


def test_what_never_changes_has_a_spread_of_exactly_zero_and_is_reported(tmp_path):
    path = tmp_path / "a.hdf5"
    write_synthetic_isaac_file(path, 3, 7, SIDE, seed=0)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["actions"][:, 4] = 0.1
            demo["obs/joint_pos"][:, 8] = 1 / 3
    data = data_of(tmp_path, **FLOW)
    assert data.action_stats["std"][4] == data.action_stats["proprio"]["std"][3 + 8] == 0
    assert sum(std == 0 for std in data.action_stats["std"] + data.action_stats["proprio"]["std"]) == 2
    assert (
        data.info["constant"]
        == list(constant_dims(data.action_stats))
        == [
            "dimension 4 of the actions never changes: it is 0.1 in every frame, and will be in every answer",
            "proprio joint_pos 8 never changes: it is 0.333333 in every frame, and tells a policy nothing",
        ]
    )


def test_statistics_survive_both_formats_and_broken_ones_are_refused(isaac, tmp_path):
    stats = compute_action_stats(dataset_of(isaac))
    for name in ("a.json", "a.npz"):
        write_stats(stats, tmp_path / name)
        assert read_stats(tmp_path / name) == stats
    for change, message in (
        ({"parts": {}}, "'proprio' has no 'parts' with the size of each"),
        ({"parts": {"eef_pos": 0}}, "'proprio' has no 'parts'"),
        ({"parts": {"eef_pos": 3}}, "proprio 'min' must hold 3 finite numbers"),
        ({"std": [float("nan")] * 12}, "proprio 'std' must hold 12 finite numbers"),
        ({"mean": None}, "proprio 'mean' must hold 12 finite numbers, got None"),
    ):
        (tmp_path / "b.json").write_text(json.dumps({**stats, "proprio": {**stats["proprio"], **change}}))
        with pytest.raises(ValueError, match=rf"b\.json: {message}"):
            read_stats(tmp_path / "b.json")
    (tmp_path / "b.json").write_text(json.dumps({**stats, "proprio": [1]}))
    with pytest.raises(ValueError, match="'proprio' has no 'parts'"):
        read_stats(tmp_path / "b.json")


def test_given_statistics_must_be_of_the_chosen_parts(isaac, tmp_path):
    own = data_of(isaac, **FLOW)
    write_stats(own.action_stats, tmp_path / "stats.json")
    given = {"DATA__STATS": str(tmp_path / "stats.json")}
    assert data_of(isaac, **FLOW, **given).action_stats == own.action_stats
    text = data_of(isaac, **ISAAC, **given).action_stats  # no parts are chosen: none are kept
    assert text == {key: value for key, value in own.action_stats.items() if key != "proprio"}
    for parts in (PARTS[::-1], PARTS[:1]):
        with pytest.raises(ValueError, match=r"has proprio eef_pos \(3\), joint_pos \(9\), DATA.PROPRIO.*--proprio"):
            data_of(isaac, **{**FLOW, "DATA__PROPRIO": parts}, **given)
    write_stats(text, tmp_path / "stats.json")
    with pytest.raises(ValueError, match=r"stats\.json has proprio of no part"):
        data_of(isaac, **FLOW, **given)


def test_the_fingerprint_of_liberos_data_is_what_it_always_was(tmp_path):
    """Its recipe, written out: runs of earlier versions must resume."""
    path = tmp_path / "demo.hdf5"
    write_synthetic_demo_file(path, 2, 4, SIDE, seed=0)
    dataset = DemoDataset([path], ["eye_in_hand", "agentview"], 3)
    about = [["pick up the stripe"], ["eye_in_hand", "agentview"], "fast", SIDE, [4, 4]]
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(dataset.all_actions().tobytes())
    for demo in ("demo_0", "demo_1"):
        digest.update(dataset.files[0].frame(demo, 0, "agentview").tobytes())
    assert dataset.fingerprint() == compute_action_stats(dataset)["fingerprint"] == digest.hexdigest()


def test_the_fingerprint_knows_the_parts_and_what_of_the_map_was_read(isaac, tmp_path):
    whole = dataset_of(isaac).fingerprint()
    others = [dataset_of(isaac, parts).fingerprint() for parts in ([], PARTS[:1], PARTS[::-1])]
    assert len({whole, *others}) == 4
    tree = json.loads((ROOT / "configs/key_maps/isaac_cosmos.json").read_text())

    def fingerprint(change, parts=PARTS, views=VIEWS):
        changed = json.loads(json.dumps(tree))
        change(changed)
        (tmp_path / "moved.json").write_text(json.dumps(changed))
        key_map = KeyMap.find(tmp_path / "moved.json")
        return DemoDataset(sorted(isaac.glob("*.hdf5")), views, 3, key_map, parts).fingerprint()

    assert fingerprint(lambda tree: tree.update(about="elsewhere")) == whole
    assert fingerprint(lambda tree: tree["proprio"].pop("gripper_pos")) == whole  # not read
    assert fingerprint(lambda tree: tree["views"].update(wrist_cam="obs/table_cam")) != whole
    copied = tmp_path / "copy"
    shutil.copytree(isaac, copied)
    assert dataset_of(copied).fingerprint() == whole
    with h5py.File(copied / "a.hdf5", "r+") as file:
        file["data/demo_1/obs/joint_pos"][2, 8] += 1
    assert dataset_of(copied).fingerprint() != whole
    assert dataset_of(copied, PARTS[:1]).fingerprint() == others[1]


def run(folder, layout, *flags, expect=0, **opts):
    """A training run on one of the folder's layouts, in this process."""
    opts = {
        "EXP__DIR": folder / "runs",
        "EXP__ID": layout,
        "DATA__FILES": [str(folder / layout)],
        "TRAIN__max_steps": 1,
        "TRAIN__batch_size": 2,
        **opts,
    }
    command = ["--cfg", str(ROOT / "configs/tiny.yaml"), "--nproc", "1", *flags]
    with pytest.raises(SystemExit) as end:
        train.main([*command, *map(str, tiny_opts(**opts))])
    assert end.value.code == expect
    return folder / "runs" / layout


def test_a_text_policy_trains_on_robomimics_files(folder):
    layout = {"DATA__KEY_MAP": "robomimic", "DATA__VIEWS": ["agentview", "robot0_eye_in_hand"]}
    stats = read_stats(run(folder, "robomimic", **layout, DATA__INSTRUCTION="lift") / "last/model")
    assert "proprio" not in stats and stats["count"] == 8


def test_a_text_policy_trains_on_isaacs_files_and_resumes_with_a_map_that_moved(folder, capsys):
    assert read_stats(run(folder, "isaac", **ISAAC) / "last/model")["count"] == 33
    tree = json.loads((ROOT / "configs/key_maps/isaac_cosmos.json").read_text())
    for name, key in (("moved", "obs/wrist_cam"), ("other", "obs/table_cam")):
        (folder / f"{name}.json").write_text(json.dumps({**tree, "views": {**tree["views"], "wrist_cam": key}}))
    resumed = {**ISAAC, "TRAIN__max_steps": 2}
    run(folder, "isaac", "--resume", expect=2, **{**resumed, "DATA__KEY_MAP": folder / "other.json"})
    assert "was written with data_fingerprint" in capsys.readouterr().err
    run(folder, "isaac", "--resume", **{**resumed, "DATA__KEY_MAP": folder / "moved.json"})


@pytest.mark.slow
def test_other_statistics_make_it_another_run(folder, tmp_path, capsys):
    stats = data_of(folder / "isaac", **FLOW).action_stats
    write_stats(stats, tmp_path / "stats.json")
    mine = {**FLOW, "FLOW__NORMALIZE": "mean_std", "DATA__STATS": tmp_path / "stats.json", "EXP__ID": "flow"}
    run(folder, "isaac", **mine)
    proprio = {**stats["proprio"], "mean": [value + 0.1 for value in stats["proprio"]["mean"]]}
    for change, message in (
        ({"proprio": proprio}, "was written with other statistics of the robot's state"),
        ({"std": [1.0] * 7}, "was written with actions of std"),
        ({"mean": [0.0]}, "FLOW.NORMALIZE mean_std: the statistics have no mean of 7 action dimensions, but [0.0]"),
        ({"std": None}, "no std of 7 action dimensions, but None"),
    ):
        write_stats({**stats, **change}, tmp_path / "stats.json")
        run(folder, "isaac", "--resume", expect=2, **mine, TRAIN__max_steps=2)
        assert message in capsys.readouterr().err
