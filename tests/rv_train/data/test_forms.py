"""Training on forms that demonstration files of others have: ALOHA's, no attributes at all, an instruction per demo."""

import json

import h5py
import numpy as np
import pytest

from rv_train import train
from rv_train.data.load import load_data
from rv_train.data.stats import read_stats
from tests.demo_files import write_aloha_file, write_synthetic_demo_file
from tests.tiny import ROOT, flow_opts, tiny_cfg, tiny_opts
from tools import inspect_demos

ALOHA = {
    "DATA__KEY_MAP": "aloha",
    "DATA__VIEWS": ["cam_high", "cam_left_wrist"],
    "DATA__INSTRUCTION": "fold the shirt",
    "ACTION__DIM": 14,
}


def data_of(folder, **opts):
    return load_data(tiny_cfg(DATA__FILES=[str(folder)], **opts))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "rows"])
def test_a_policy_trains_on_alohas_episodes(tmp_path, form, capsys):
    for number in range(5):
        write_aloha_file(tmp_path / f"episodes/episode_{number}.hdf5", 6, seed=number, form=form)
    data = data_of(tmp_path / "episodes", **ALOHA, DATA__VAL_SHARE=0.4)
    assert data.info["num_demos"] == 5 and data.info["num_valid_demos"] == 2  # whole files are held out
    assert data.info["cameras"] == {"cam_high": [48, 64], "cam_left_wrist": [48, 64]} and data.remarks == []
    more = {**flow_opts(), "DATA__PROPRIO": ["qpos"]}
    opts = {**more, **ALOHA, "DATA__FILES": [str(tmp_path / "episodes")], "EXP__DIR": tmp_path, "TRAIN__max_steps": 1}
    with pytest.raises(SystemExit) as end:
        train.main(["--cfg", str(ROOT / "configs/tiny.yaml"), "--nproc", "1", *map(str, tiny_opts(**opts))])
    assert end.value.code == 0
    stats = read_stats(tmp_path / "tiny/last/model")
    assert stats["count"] == 30 and len(stats["min"]) == 14 and stats["proprio"]["parts"] == {"qpos": 14}
    capsys.readouterr()
    inspect_demos.main([str(tmp_path / "episodes/episode_0.hdf5")])
    said = capsys.readouterr().out
    assert "key map      aloha (fits)" in said and "cam_high 48 x 64" in said
    assert ("encoded pictures" in said) == (form == "rows")


def test_encoded_and_plain_frames_are_the_same_data(tmp_path):
    found = []
    for form in ("plain", "rows", "ragged"):
        write_aloha_file(tmp_path / form / "episode_0.hdf5", 4, seed=0, form=form)
        data = data_of(tmp_path / form, **ALOHA)
        found.append((data.info["fingerprint"], data.train[2].views[1].tobytes()))
    assert len(set(found)) == 1


def strip(path):
    """As OpenVLA's regeneration leaves it: no attributes at all."""
    with h5py.File(path, "r+") as file:
        for holder in (file["data"], *file["data"].values()):
            for attribute in list(holder.attrs):
                del holder.attrs[attribute]


NAMES = ("KITCHEN_SCENE2_open_the_top_drawer_of_the_cabinet", "turn_on_the_stove", "wipe_the_table_clean")


@pytest.fixture
def regenerated(tmp_path):
    for seed, name in enumerate(NAMES):
        path = tmp_path / "openvla" / f"{name}_demo.hdf5"
        write_synthetic_demo_file(path, 2, 4, 64, seed=10 * seed)
        strip(path)
    return tmp_path / "openvla"


def test_files_without_attributes_are_several_tasks_by_their_names(regenerated):
    data = data_of(regenerated)
    texts = ["open the top drawer of the cabinet", "turn on the stove", "wipe the table clean"]
    assert data.train.instructions == texts
    assert [data.train[data.train.index(number, 0)].instruction for number in (0, 2, 4)] == texts
    (remark,) = data.remarks
    assert "no instruction is stated in" in remark and "(and 2 more files alike)" in remark and repr(texts[0]) in remark


def test_one_instruction_for_files_of_several_names_is_remarked(regenerated, tmp_path):
    (remark,) = data_of(regenerated, DATA__INSTRUCTION="do it").remarks
    assert (
        remark.startswith("one instruction, 'do it', is given for 3 files of 3 different names (")
        and NAMES[0] in remark
    )
    for number in range(2):  # the same task in several files
        write_synthetic_demo_file(tmp_path / f"session_{number}.hdf5", 2, 4, 64, seed=10 * number)
    assert data_of(tmp_path / "session_0.hdf5", DATA__INSTRUCTION="do it").remarks == []
    both = [str(tmp_path / f"session_{number}.hdf5") for number in range(2)]
    assert load_data(tiny_cfg(DATA__FILES=both, DATA__INSTRUCTION="do it")).remarks == []


@pytest.fixture
def own(tmp_path):
    """A file whose demos state instructions of their own, and a key map that says where."""
    tree = json.loads((ROOT / "configs/key_maps/libero.json").read_text())
    tree["instruction"]["demo"] = {"key": "", "attribute": "ep_meta", "json_key": "lang"}
    (tmp_path / "mine.json").write_text(json.dumps(tree))
    write_synthetic_demo_file(tmp_path / "mine.hdf5", 4, 4, 64, seed=0)
    with h5py.File(tmp_path / "mine.hdf5", "r+") as file:
        for number in range(3):
            file[f"data/demo_{number}"].attrs["ep_meta"] = json.dumps({"lang": f"take {'ab'[number % 2]}"})
    return tmp_path


def test_every_demo_has_its_own_instruction(own):
    layout = {"DATA__KEY_MAP": str(own / "mine.json")}
    data = data_of(own / "mine.hdf5", **layout)
    assert [rows.instruction for rows in data.train.demos] == ["take a", "take b", "take a", "pick up the stripe"]
    assert data.train.instructions == ["take a", "take b", "pick up the stripe"]
    plain = data_of(own / "mine.hdf5")
    assert plain.train.instructions == ["pick up the stripe"]
    assert plain.info["fingerprint"] != data.info["fingerprint"]
    given = data_of(own / "mine.hdf5", **layout, DATA__INSTRUCTION="go")
    assert given.train.instructions == ["go"]


def test_a_demos_instruction_that_cannot_be_used_is_named(own):
    with h5py.File(own / "mine.hdf5", "r+") as file:
        file["data/demo_1"].attrs["ep_meta"] = json.dumps({"lang": "go <|im_end|>"})
    with pytest.raises(ValueError, match=r"mine\.hdf5: the instruction of demo_1 holds \"<\|\""):
        data_of(own / "mine.hdf5", DATA__KEY_MAP=str(own / "mine.json"))


def test_an_inspection_says_whose_instructions_they_are(own, capsys):
    inspect_demos.main([str(own / "mine.hdf5"), "--key_map", str(own / "mine.json"), "--video", str(own / "o.mp4")])
    said = capsys.readouterr().out
    assert "instruction  3, stated by the demos: take a; take b ..." in said and "o.mp4  16 frames" in said


def test_actions_of_any_size_are_numbers(tmp_path):
    write_aloha_file(tmp_path / "episode_0.hdf5", 6, seed=3)
    data = data_of(tmp_path, **ALOHA)
    assert data.train[0].actions.shape == (2, 14) and np.isfinite(data.train[0].actions).all()
