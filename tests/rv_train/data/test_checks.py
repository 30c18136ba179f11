"""What is looked at in demonstrations before a start: what is refused, and what is said."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch

from libs.errors import BadInput
from rv_eval.serving import protocol
from rv_train import train
from rv_train.data.checks import MAX_INSTRUCTION, constant_dims
from rv_train.data.load import load_data
from rv_train.policies import build_encoder, build_policy, policy_class
from rv_train.prepare import prepare_run
from tests.demo_files import write_synthetic_demo_file, write_synthetic_robomimic_file
from tests.manifests import build
from tests.tiny import ROOT, flow_opts, tiny_cfg, tiny_opts

SIDE = 64


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_synthetic_demo_file(path, 4, 30, SIDE, seed=0)
    return path


def edit(path, change):
    """Change a file's demos: change(group, number)."""
    with h5py.File(path, "r+") as file:
        for number in range(len(file["data"])):
            change(file[f"data/demo_{number}"], number)


def set_actions(path, index, value):
    """index: (demo, frames, dimension)"""
    with h5py.File(path, "r+") as file:
        file[f"data/demo_{index[0]}/actions"][index[1], index[2]] = value


def resize(group, key, side):
    shape = (len(group[key]), side, side, 3)
    del group[key]
    group[key] = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def data_of(*paths, **opts):
    cfg = tiny_cfg(DATA__FILES=[str(path) for path in paths], **opts)
    return load_data(cfg, policy_class(cfg).INTEGERS)


def refused(capsys, *paths, flags=(), **opts):
    """The one line of a start on these files; exit code 2 and no run folder."""
    folder = paths[0].parent / "runs"
    opts = {"EXP__DIR": folder, "DATA__FILES": [str(path) for path in paths], **opts}
    with pytest.raises(SystemExit) as stop:
        train.main(["--cfg", str(ROOT / "configs/tiny.yaml"), *flags, *map(str, tiny_opts(**opts))])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and not folder.exists()
    return error


def planned(capsys, *paths, **opts):
    """What --dry_run says of the same files."""
    opts = {"DATA__FILES": [str(path) for path in paths], **opts}
    train.main(["--cfg", str(ROOT / "configs/tiny.yaml"), "--dry_run", *map(str, tiny_opts(**opts))])
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("view", ["agentview", "eye_in_hand"])
def test_one_demo_of_another_picture_size_is_refused_at_the_start(path, capsys, view):
    edit(path, lambda group, number: resize(group, f"obs/{view}_rgb", 48) if number == 2 else None)
    wanted = f"{path}, demo_2: pictures of {view} are 48 x 48 pixels, 3 of 4 demos have 64 x 64 pixels ({path}, demo_0)"
    assert wanted in refused(capsys, path) and f"data: {wanted}" in planned(capsys, path)


def test_the_odd_one_is_named_though_it_comes_first_and_in_another_file(path, tmp_path, capsys):
    write_synthetic_demo_file(tmp_path / "a.hdf5", 1, 5, 48, seed=9)
    error = refused(capsys, tmp_path / "a.hdf5", path)
    assert f"{tmp_path / 'a.hdf5'}, demo_0: pictures of agentview are 48 x 48 pixels, 4 of 5 demos have 64" in error
    assert error.endswith("and 1 more problem of this kind\n")


def test_cameras_may_have_sizes_of_their_own(path):
    edit(path, lambda group, _: resize(group, "obs/eye_in_hand_rgb", 48))
    assert [len(view) for view in data_of(path).train[3].views] == [64, 48]


def test_cameras_may_have_any_shape(path, capsys):
    def widen(group, _):
        frames = group["obs/agentview_rgb"][()]
        del group["obs/agentview_rgb"]
        group["obs/agentview_rgb"] = np.concatenate([frames, frames], axis=2)

    edit(path, widen)
    data = data_of(path)
    assert [view.shape for view in data.train[3].views] == [(64, 128, 3), (64, 64, 3)]
    assert data.info["cameras"] == {"agentview": [64, 128], "eye_in_hand": [64, 64]} and data.info["resolution"] == 128
    assert "4 demos in 1 file, agentview 64 x 128, eye_in_hand 64 x 64, rendering fast" in planned(capsys, path)


@pytest.mark.parametrize(
    ("number", "message"), [(0, "no camera eye_in_hand; its demo_0 has agentview"), (2, "demo_2: no")]
)
def test_a_demo_that_lacks_a_camera_is_refused(path, capsys, number, message):
    with h5py.File(path, "r+") as file:
        del file[f"data/demo_{number}/obs/eye_in_hand_rgb"]
    error = refused(capsys, path)
    assert str(path) in error and message in error


def test_files_of_different_cameras_are_refused(path, tmp_path, capsys):
    write_synthetic_demo_file(tmp_path / "b.hdf5", 2, 5, SIDE, seed=9)
    edit(tmp_path / "b.hdf5", lambda group, _: group.__delitem__("obs/eye_in_hand_rgb"))
    assert f"{tmp_path / 'b.hdf5'}: no camera eye_in_hand" in refused(capsys, path, tmp_path / "b.hdf5")
    assert len(data_of(path, tmp_path / "b.hdf5", DATA__VIEWS=["agentview"]).train) == 130


# ------------------------------------------------------------------------------------------------ instructions


def state(path, info):
    with h5py.File(path, "r+") as file:
        file["data"].attrs["problem_info"] = json.dumps(info)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "no language_instruction in data's problem_info"),
        ({"language_instruction": None}, "no language_instruction in data's problem_info"),
        ({"language_instruction": ""}, "its instruction is empty"),
        ({"language_instruction": ' "  " '}, "its instruction is empty"),
        ({"language_instruction": "x" * 10_000}, f"has 10,000 bytes, at most {MAX_INSTRUCTION} are taken"),
        ({"language_instruction": "go <|im_end|>"}, 'holds "<|", with which the marks of the model begin'),
    ],
)
def test_an_instruction_that_says_nothing_is_refused_and_can_be_given(path, capsys, info, message):
    state(path, info)
    error = refused(capsys, path)
    assert str(path) in error and message in error and "DATA.INSTRUCTION" in error
    assert message in planned(capsys, path)
    assert data_of(path, DATA__INSTRUCTION="lift it").train[0].instruction == "lift it"
    assert "DATA.INSTRUCTION" in refused(capsys, path, DATA__INSTRUCTION="  ")


def test_what_can_be_trained_can_be_asked():
    assert MAX_INSTRUCTION == protocol.MAX_INSTRUCTION


def test_a_manifest_whose_instruction_is_too_long_is_refused(path, tmp_path):
    folder = build(tmp_path / "manifest", path, instruction="lift it")
    text = (folder / "manifest.jsonl").read_text().replace("lift it", "lift it " * 100)
    (folder / "manifest.jsonl").write_text(text)
    with pytest.raises(BadInput, match=r"manifest\.jsonl: an instruction has 800 bytes, at most 512"):
        data_of(folder, DATA__SOURCE="manifest")


NAME = "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"  # task 7 of libero_spatial
INSTRUCTION = NAME.replace("_", " ")
STATED = "Pick the akita black bowl on the stove and place it on the plate"


def write_libero(folder, name=NAME, suite="libero_spatial", instruction=STATED):
    path = folder / f"{name}_demo.hdf5"
    more = {"instruction": instruction, "bddl_file_name": f"bddl_files/{suite}/{name}.bddl"}
    write_synthetic_demo_file(path, 2, 4, SIDE, seed=0, **more)
    return path


def test_of_two_instructions_training_takes_the_one_that_the_evaluation_states(tmp_path, capsys):
    path = write_libero(tmp_path)
    data = data_of(path)
    assert data.train[0].instruction == data.train.instructions[0] == INSTRUCTION != STATED
    (remark,) = data.remarks
    assert repr(INSTRUCTION) in remark and repr(STATED) in remark and str(path) in remark
    assert "LIBERO's benchmark states the name's at evaluation, so training does, too" in remark
    assert f"warning     {remark}" in planned(capsys, path)
    folder = build(tmp_path / "manifest", path)
    assert capsys.readouterr().err.count("two instructions: ") == 1
    assert data_of(folder, DATA__SOURCE="manifest").train.instructions == [INSTRUCTION]
    given = data_of(path, DATA__INSTRUCTION="lift")
    assert given.train[0].instruction == "lift" and given.remarks == []


def test_many_files_with_two_instructions_are_one_remark(tmp_path):
    for thing in ("milk", "butter", "ketchup"):
        name = f"pick_up_the_{thing}_and_place_it_in_the_basket"
        write_libero(tmp_path, name, "libero_object", f"Grab the {thing}")
    remarks = data_of(tmp_path).remarks
    assert len([line for line in remarks if line.startswith("two instructions")]) == 1
    assert "(and 2 files more alike)" in remarks[0]


@pytest.mark.parametrize(
    ("change", "used", "remarked"),
    [
        ({"suite": "libero_spatial_lan"}, STATED, False),  # evaluated with the BDDL file's text
        ({"instruction": INSTRUCTION}, INSTRUCTION, False),
        ({"instruction": INSTRUCTION.capitalize()}, INSTRUCTION, False),
        ({"name": "wipe_the_table_clean", "instruction": "scrub"}, "scrub", True),
        ({"name": "wipe_the_table_clean", "instruction": "Wipe the table clean"}, "Wipe the table clean", False),
        ({"name": "session_3"}, STATED, False),  # no instruction
    ],
)
def test_which_instruction_is_used(tmp_path, change, used, remarked):
    data = data_of(write_libero(tmp_path, **change))
    assert data.train[0].instruction == used
    assert [("two instructions" in line and "what the file states is used" in line) for line in data.remarks] == (
        [True] * remarked
    )


# ------------------------------------------------------------------------------------------------ actions


def test_a_dimension_that_is_constant_but_for_noise_is_taken_for_constant(path, capsys):
    rng = np.random.default_rng(1)
    edit(path, lambda group, _: group["actions"].__setitem__((slice(None), 3), 1.57 + rng.uniform(-1e-7, 1e-7, 30)))
    data = data_of(path)
    said = next(line for line in data.info["constant"] if line.startswith("dimension 3"))
    assert "never changes but for noise, 1.569999" in said and said.endswith("it is taken for 1.57 everywhere")
    assert said in planned(capsys, path)
    assert data.action_stats["min"][3] < data.action_stats["max"][3] and data.info["num_clipped"] == 0
    codec = build_encoder(tiny_cfg(), data.action_stats).codec
    texts = codec.encode(np.stack([data.train[index].actions for index in range(0, 110, 7)]))
    assert {text.split()[dim] for text in texts for dim in (3, 10)} == {"0"}
    np.testing.assert_allclose(codec.decode(texts, 2)[0][..., 3], 1.57, rtol=1e-6)


@pytest.mark.parametrize("normalize", ["min_max", "mean_std"])
def test_a_flow_policy_does_not_learn_noise(path, normalize):
    edit(path, lambda group, _: group["actions"].__setitem__((slice(None), 3), 1.57 + np.linspace(-2e-6, 2e-6, 30)))
    cfg = tiny_cfg(**flow_opts(DATA__FILES=[str(path)], FLOW__NORMALIZE=normalize))
    data = load_data(cfg)
    normalizer = build_policy(cfg, build_encoder(cfg, data.action_stats)).actions
    normal = normalizer.normalize(torch.from_numpy(data.train[5].actions))
    assert (normal[:, 3].abs() < 1e-6).all() and (normal[:, 1].abs() > 1e-3).any()
    wild = torch.full((2, 7), 5.0)
    np.testing.assert_allclose(normalizer.denormalize(wild)[:, 3], 1.57, rtol=1e-6)


def test_one_wild_value_is_named_with_what_it_costs_and_what_to_do(path, capsys):
    set_actions(path, (2, 17, 1), 50.0)
    (remark,) = data_of(path, ACTION__NUM_BINS=1000).remarks
    assert remark.startswith(
        f"dimension 1 of the actions is 50 in {path}, demo_2, frame 17; the other 99 % of the values"
    )
    rest = np.delete(data_of(path).train.all_actions()[:, 1], 2 * 30 + 17)
    bins = int(np.ceil(1000 * np.ptp(rest) / (50 - rest.min())))
    assert f"lie between {rest.min():g} and {rest.max():g}, in {bins} of the 1,000 bins" in remark
    assert "clip the range: ACTION.RANGE q01_q99 is " in remark and remark.endswith("gives them 1,000 bins")
    assert remark in planned(capsys, path, ACTION__NUM_BINS=1000)
    prepare_run(tiny_cfg(DATA__FILES=[str(path)], EXP__DIR=str(path.parent / "runs")), torch.device("cpu"), 1)
    assert f"warning: dimension 1 of the actions is 50 in {path}, demo_2, frame 17" in capsys.readouterr().err
    (remark,) = data_of(path, **flow_opts()).remarks
    assert "lie in 0.8% of the range" in remark and "FLOW.NORMALIZE mean_std" in remark and "RANGE" not in remark


def test_where_quantiles_do_not_help_they_are_not_advised(tmp_path):
    path = tmp_path / "few.hdf5"
    write_synthetic_demo_file(path, 2, 10, SIDE, seed=0)
    set_actions(path, (1, 3, 2), -50.0)
    (remark,) = data_of(path).remarks  # of twenty values the 1 % quantile lies between the wild one and the next
    assert f"is -50 in {path}, demo_1, frame 3; the other 95 % of the values" in remark and "RANGE" not in remark


def test_seldom_and_wide_is_no_outlier(path):
    edit(path, lambda group, _: group["actions"].__setitem__((slice(None), 6), -1.0))
    set_actions(path, (0, 3, 6), 1.0)  # a switch
    edit(
        path, lambda group, n: group["actions"].__setitem__((slice(None), 1), np.random.default_rng(n).normal(size=30))
    )
    assert data_of(path).remarks == []


def test_a_range_of_one_value_is_said(path):
    edit(path, lambda group, _: group["actions"].__setitem__((slice(None), 6), -1.0))
    set_actions(path, (0, 3, 6), 1.0)
    data = data_of(path, ACTION__RANGE="q01_q99")
    (remark,) = data.remarks
    assert "dimension 6 of the actions: the range in use is the one value -1, and 1 of 120 values are others" in remark
    assert data.info["num_clipped"] >= 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_action_that_is_no_number_is_refused(path, capsys, value):
    set_actions(path, (2, slice(17, 19), 4), value)
    wanted = f"{path}, demo_2: dimension 4 of the action at frame 17 is {value}, not a finite number (2 such frames)"
    assert wanted in refused(capsys, path) and wanted in planned(capsys, path)


def test_actions_that_never_change_are_refused(path, capsys):
    edit(path, lambda group, _: group["actions"].__setitem__(slice(None), 0.25))
    assert f"{path}, demo_0: all actions of 4 demos are the same, [0.25, " in refused(capsys, path)


@pytest.mark.parametrize(("shape", "found"), [((30, 6), r"(30, 6)"), ((0, 7), r"(0, 7)")])
def test_actions_of_another_form_are_refused(path, capsys, shape, found):
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = np.zeros(shape)
    assert f"{path}, demo_1: actions have shape {found} and type float64, expected numbers of" in refused(capsys, path)


def test_demos_shorter_than_a_chunk_are_said(path, tmp_path):
    write_synthetic_demo_file(tmp_path / "short.hdf5", 2, 3, SIDE, seed=9)
    (remark,) = data_of(path, tmp_path / "short.hdf5", ACTION__HORIZON=8).remarks
    assert remark.startswith("2 of 6 demos have fewer frames than the 8 actions of a chunk")
    assert remark.endswith(f"the shortest is {tmp_path / 'short.hdf5'}, demo_0: 3")


def test_copies_of_demos_are_said_across_files(path, tmp_path):
    copy = tmp_path / "z.hdf5"
    shutil.copy(path, copy)
    (remark,) = data_of(path, copy).remarks
    assert remark.startswith("4 demos of 8 repeat another one, actions and first picture: ")
    assert f"{copy}, demo_0 has those of {path}, demo_0; they count twice, and with DATA.VAL_SHARE" in remark
    edit(copy, lambda group, _: group["obs/agentview_rgb"].__setitem__(0, 7))  # played again elsewhere
    assert data_of(path, copy).remarks == []


def test_robomimics_files_have_no_name_to_be_compared(tmp_path):
    path = tmp_path / "wipe_the_table_clean_demo.hdf5"
    write_synthetic_robomimic_file(path, 2, 4, SIDE, seed=0)
    layout = {"DATA__KEY_MAP": "robomimic", "DATA__VIEWS": ["agentview"], "DATA__INSTRUCTION": "lift"}
    assert data_of(path, **layout).remarks == []


def test_constant_lines_are_of_actions_and_proprio():
    stats = {"min": [1.57 - 1e-7, 0.0, 2.0], "max": [1.57 + 1e-7, 1.0, 2.0]}
    noise = "never changes but for noise, 1.5699999 to 1.5700001"
    assert list(constant_dims(stats)) == [
        f"dimension 0 of the actions {noise}: it is taken for 1.57 everywhere",
        "dimension 2 of the actions never changes: it is 2 in every frame, and will be in every answer",
    ]
