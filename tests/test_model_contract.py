"""What every policy over every backbone must do: train, save, resume to the bit, load, answer, play. One test for all.

A new family of backbones or a new policy is tested by being registered; `pytest -k NAME` runs it alone. The policy
`regression` is the example of docs/adding_policy.md, and is registered for this test alone.
"""

import shutil

import numpy as np
import pytest
import torch

from libs.demo_hdf5 import DemoFile
from rv_eval.policy import Policy
from rv_train.backbones import DEFAULT, FAMILIES
from rv_train.backbones.lora import merge
from rv_train.checkpoint import load_model_folder, load_trainer
from rv_train.difference import compare_runs
from rv_train.plan import dry_run
from rv_train.policies import POLICIES, build_encoder, outline_policy
from rv_train.train import main
from tests.demo_files import write_synthetic_demo_file
from tests.rv_train.test_manifest_run import roll_out
from tests.tiny import flow_opts, frozen_opts, lora_opts, make_tiny_base, tiny_cfg, tiny_opts, tiny_recipe

TRAINING = {
    "DATA__VAL_SHARE": 0.25,
    "TRAIN__batch_size": 2,
    "TRAIN__grad_accum": 2,
    "TRAIN__ema": 0.9,
    "TRAIN__max_steps": 4,
    "TRAIN__save_every": 2,
    "TRAIN__log_every": 1,
    "VALID__gen_samples": 1,
}
LORA = {"MODEL__LORA__RANK": 4, "MODEL__LORA__DROPOUT": 0.1}
KINDS = {
    "text": lambda base: {},
    "text, state, LoRA": lambda base: lora_opts(base, **LORA, DATA__PROPRIO=["robot_states"]),
    "flow": lambda base: flow_opts(),
    "flow, frozen backbone": lambda base: flow_opts(**frozen_opts(base), FLOW__CONDITION="last"),
    "flow, LoRA, its base beside": lambda base: flow_opts(**lora_opts(base, **LORA), TRAIN__save_base=True),
    "regression": lambda base: {"MODEL__NAME": "regression"},
    "regression, LoRA": lambda base: lora_opts(base, **LORA, MODEL__NAME="regression"),
    "regression, frozen backbone": lambda base: frozen_opts(base, MODEL__NAME="regression"),
}


@pytest.fixture(scope="module", autouse=True)
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(POLICIES, "regression", "tests.rv_train.policies.regression")
        yield


class Ground:
    """Where a family is tried: a folder with its recipe, random weights to put adapters on, and demonstrations."""

    def __init__(self, folder, family):
        self.folder, self.family, self.recipe = folder, family, tiny_recipe(folder, family)
        self.base = make_tiny_base(folder, recipe=self.recipe)
        write_synthetic_demo_file(folder / "demo.hdf5", num_demos=4, num_frames=12, resolution=64, seed=0)

    def opts(self, kind, **more):
        opts = {**KINDS[kind](self.base), **TRAINING, "EXP__DIR": str(self.folder), **more}
        return {**opts, "DATA__FILES": [str(self.folder / "demo.hdf5")]}

    def train(self, kind, *flags, **more):
        opts = self.opts(kind, **more)
        with pytest.raises(SystemExit) as stopped:
            main(["--cfg", str(self.recipe), "--nproc", "1", *flags, *map(str, tiny_opts(**opts))])
        assert stopped.value.code == 0
        return self.folder / opts["EXP__ID"]

    def observations(self, count=2):
        file = DemoFile(self.folder / "demo.hdf5")
        return [
            {
                "views": {view: file.frame(f"demo_{n}", 2, view) for view in ("agentview", "eye_in_hand")},
                "instruction": file.instruction,
                "proprio": {"robot_states": file.proprio(f"demo_{n}", ["robot_states"])[2]},
                "random_key": (7, n),
            }
            for n in range(count)
        ]


def params(names, at_once):
    """Those of which `at_once` is true are tried by `make check`, too."""
    return [pytest.param(name, marks=[] if at_once(name) else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module", params=params(FAMILIES, lambda name: name == DEFAULT))
def ground(request, tmp_path_factory):
    return Ground(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module", params=params(KINDS, lambda name: "," not in name))
def run(request, ground, example):
    """(kind, run folder)"""
    name = request.param.replace(", ", "_").replace(" ", "_")
    return request.param, ground.train(request.param, EXP__ID=name)


def test_resumed_it_is_the_uninterrupted_run_to_the_bit(run, ground):
    kind, whole = run
    cut = ground.folder / f"{whole.name}_cut"
    shutil.copytree(whole, cut, symlinks=True)
    shutil.rmtree(cut / "step_00000004")  # as if killed there
    ground.train(kind, "--resume", EXP__ID=cut.name)
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
    assert ("expert.safetensors" in saved) == bool(model.OWN)  # of what a policy has beside the backbone
    assert (whole / "last/model/base").exists() == cfg.TRAIN.save_base


def test_the_librarys_own_class_loads_what_was_saved(run, ground):
    """Weights untouched, under the library's names."""
    kind, whole = run
    model = load_model_folder(whole)[0]
    if "LoRA" in kind or "frozen" in kind:
        return
    kinds = model.family.model_class()
    theirs, report = kinds.from_pretrained(whole / "last/model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ours = model.backbone.state_dict()
    assert list(ours) == list(theirs.state_dict())
    assert all(torch.equal(ours[name], value) for name, value in theirs.state_dict().items())


def test_loaded_it_answers_and_a_key_decides_what_is_drawn(run, ground):
    _, whole = run
    policy, again = (Policy.from_checkpoint(whole, batch_rows=2) for _ in range(2))
    asked = ground.observations()
    prediction = policy.predict_detailed(asked)
    assert prediction.chunk.shape == (2, 2, 7) and prediction.chunk.dtype == np.float32
    assert np.isfinite(prediction.chunk).all() and len(prediction.texts) == 2
    for row, one in enumerate(asked):  # loaded once more, to the bit the answer it gets alone
        np.testing.assert_array_equal(again.predict([one])[0], prediction.chunk[row])
    batch = policy.encoder.collate([policy.encoder.encode(one) for one in asked])
    condition = policy.model.condition(batch)
    assert condition.shape == (2, policy.model.backbone.config.get_text_config().hidden_size)
    assert condition.dtype == torch.float32 and not torch.equal(condition[0], condition[1])


def test_it_plays(run, tmp_path):
    _, whole = run
    policy = Policy.from_checkpoint(whole)
    roll_out(policy, policy.preset, tmp_path)


def test_its_base_is_asked_for_unless_it_lies_beside(run, ground, monkeypatch):
    kind, whole = run
    base = ground.base
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = ground.observations(1)
    answer = Policy.from_checkpoint(whole).predict(asked)
    base.rename(base.with_name("moved"))
    try:
        if ("LoRA" in kind or "frozen" in kind) and "beside" not in kind:
            with pytest.raises(ValueError, match=r"needs the weights it was trained over.*VLA0_BASE"):
                Policy.from_checkpoint(whole)
            monkeypatch.setenv("VLA0_BASE", str(base.with_name("moved")))
        np.testing.assert_array_equal(Policy.from_checkpoint(whole).predict(asked), answer)
    finally:
        base.with_name("moved").rename(base)


@torch.no_grad()
def test_an_adapter_is_merged_into_an_ordinary_model(run, ground):
    kind, whole = run
    if "LoRA" not in kind:
        return
    policy = Policy.from_checkpoint(whole, batch_rows=2)
    batch = policy.encoder.collate([policy.encoder.encode(one) for one in ground.observations()])
    before, names = policy.model.condition(batch), set(dict(policy.model.named_parameters()))
    merge(policy.model.backbone)
    assert any(".lora_" in name for name in names)
    assert not any(".lora_" in name for name, _ in policy.model.named_parameters())
    torch.testing.assert_close(policy.model.condition(batch), before, rtol=1e-4, atol=1e-4)
    assert np.isfinite(policy.predict(ground.observations(1))).all()


def test_the_plan_is_made_of_the_model_itself(run, ground, capsys):
    """On the meta device: the same parameters by name, shape, dtype and whether they are trained."""
    kind, whole = run
    cfg = tiny_cfg(ground.recipe, **ground.opts(kind, EXP__ID=whole.name))
    outline, _ = outline_policy(cfg, build_encoder(cfg), [])
    facts = [
        {name: (p.shape, p.dtype, p.requires_grad) for name, p in model.named_parameters()}
        for model in (outline, load_model_folder(whole)[0])
    ]
    assert facts[0] == facts[1] and all(p.is_meta for p in outline.parameters())
    dry_run(cfg, nproc=1)
    out = capsys.readouterr().out
    total = sum(p.numel() for p in outline.parameters())
    assert f"{cfg.MODEL.NAME} over {ground.family}, {total:,} parameters" in out and "memory per rank" in out


def test_every_registered_policy_is_tried():
    assert {tiny_cfg(**kind("base")).MODEL.NAME for name, kind in KINDS.items() if "," not in name} == set(POLICIES)
