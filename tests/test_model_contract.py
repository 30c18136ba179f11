"""What every kind of model must do: train, save, resume to the bit, load, answer, play. One test for all of them."""

import shutil

import numpy as np
import pytest
import torch

from libs.demo_hdf5 import DemoFile
from rv_eval.policy import Policy
from rv_train.checkpoint import load_model_folder, load_trainer
from rv_train.train import main
from tests.demo_files import write_synthetic_demo_file
from tests.rv_train.test_manifest_run import roll_out
from tests.tiny import ROOT, flow_opts, frozen_opts, lora_opts, make_tiny_base, tiny_opts
from tools.compare_runs import compare_runs

TRAINING = {
    "DATA__VAL_SHARE": 0.25,
    "TRAIN__batch_size": 2,
    "TRAIN__grad_accum": 2,
    "TRAIN__ema": 0.9,
    "TRAIN__max_steps": 4,
    "TRAIN__save_every": 2,
    "TRAIN__log_every": 1,
    "VALID__loss_batches": 2,
    "VALID__gen_samples": 3,
}
LORA = {"MODEL__LORA__RANK": 4, "MODEL__LORA__DROPOUT": 0.1}
KINDS = {
    "text": lambda base: {},
    "text, LoRA": lambda base: lora_opts(base, **LORA),
    "flow": lambda base: flow_opts(),
    "flow, frozen backbone": lambda base: flow_opts(**frozen_opts(base), FLOW__CONDITION="last"),
    "flow, LoRA, its base beside": lambda base: flow_opts(**lora_opts(base, **LORA), TRAIN__save_base=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    make_tiny_base(folder)
    write_synthetic_demo_file(folder / "demo.hdf5", num_demos=4, num_frames=12, resolution=64, seed=0)
    return folder


def train(folder, kind, *flags, **opts):
    opts = {**KINDS[kind](folder / "base_0"), **TRAINING, "EXP__DIR": folder, **opts}
    opts["DATA__FILES"] = [str(folder / "demo.hdf5")]
    with pytest.raises(SystemExit) as stopped:
        main(["--cfg", str(ROOT / "configs/tiny.yaml"), "--nproc", "1", *flags, *map(str, tiny_opts(**opts))])
    assert stopped.value.code == 0
    return folder / opts["EXP__ID"]


@pytest.fixture(scope="module", params=KINDS)
def run(request, folder):
    """(kind, run folder)"""
    name = request.param.replace(", ", "_").replace(" ", "_")
    return request.param, train(folder, request.param, EXP__ID=name)


def observations(folder, count=3):
    file = DemoFile(folder / "demo.hdf5")
    return [
        {
            "views": {view: file.frame(f"demo_{n}", 2, view) for view in ("agentview", "eye_in_hand")},
            "instruction": file.instruction,
            "proprio": {"robot_states": file.proprio(f"demo_{n}", ["robot_states"])[2]},
            "random_key": (7, n),
        }
        for n in range(count)
    ]


def test_resumed_it_is_the_uninterrupted_run_to_the_bit(run, folder):
    kind, whole = run
    cut = folder / f"{whole.name}_cut"
    shutil.copytree(whole, cut, symlinks=True)
    shutil.rmtree(cut / "step_00000004")  # as if killed there
    train(folder, kind, "--resume", EXP__ID=cut.name)
    assert compare_runs(whole, cut) == []


def test_what_is_saved_is_what_was_trained(run):
    kind, whole = run
    model, cfg, _ = load_model_folder(whole)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(load_trainer(whole / "last")["ema"]["average"]) == len(trained)
    saved = {path.name for path in (whole / "last/model").glob("*.safetensors")}
    frozen = "LoRA" in kind or "frozen" in kind
    assert ("model.safetensors" in saved) == (not frozen)
    assert ("adapter_model.safetensors" in saved) == ("LoRA" in kind)
    assert ("expert.safetensors" in saved) == ("flow" in kind)
    assert (whole / "last/model/base").exists() == cfg.TRAIN.save_base


def test_loaded_it_answers_and_a_key_decides_what_is_drawn(run, folder):
    _, whole = run
    policy, again = (Policy.from_checkpoint(whole, batch_rows=3) for _ in range(2))
    asked = observations(folder)
    prediction = policy.predict_detailed(asked)
    assert prediction.chunk.shape == (3, 2, 7) and prediction.chunk.dtype == np.float32
    assert np.isfinite(prediction.chunk).all() and len(prediction.texts) == 3
    np.testing.assert_array_equal(prediction.chunk, again.predict(asked))
    for row, one in enumerate(asked):  # to the bit the answer it gets alone
        np.testing.assert_array_equal(again.predict([one])[0], prediction.chunk[row])
    batch = policy.encoder.collate([policy.encoder.encode(one) for one in asked])
    condition = policy.model.condition(batch)
    assert condition.shape == (3, policy.model.backbone.config.get_text_config().hidden_size)
    assert condition.dtype == torch.float32 and not torch.equal(condition[0], condition[1])


def test_it_plays(run, tmp_path):
    _, whole = run
    policy = Policy.from_checkpoint(whole)
    roll_out(policy, policy.preset, tmp_path)


def test_its_base_is_asked_for_unless_it_lies_beside(run, folder, tmp_path, monkeypatch):
    kind, whole = run
    base = folder / "base_0"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked, answer = observations(folder), Policy.from_checkpoint(whole).predict(observations(folder))
    base.rename(base.with_name("moved"))
    try:
        if ("LoRA" in kind or "frozen" in kind) and "beside" not in kind:
            with pytest.raises(ValueError, match=r"needs the weights it was trained over.*VLA0_BASE"):
                Policy.from_checkpoint(whole)
            monkeypatch.setenv("VLA0_BASE", str(base.with_name("moved")))
        np.testing.assert_array_equal(Policy.from_checkpoint(whole).predict(asked), answer)
    finally:
        base.with_name("moved").rename(base)


def test_neither_the_loop_nor_evaluation_knows_which_it_is():
    sources = [ROOT / "rv_train/train.py", ROOT / "rv_train/validate.py", *(ROOT / "rv_eval").rglob("*.py")]
    for path in sources:
        source = path.read_text()
        for name in ("MODEL.NAME", "flow_expert", "FlowExpert", "FlowEncoder", "models.vla0", "TextEncoder"):
            assert name not in source, (path, name)
