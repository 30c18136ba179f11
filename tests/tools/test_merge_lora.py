"""A checkpoint of LoRA becomes an ordinary model: it answers alike, and needs neither the weights below nor peft."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rv_eval.policy import Policy
from rv_train.backbones.lora import weights_sha256
from rv_train.checkpoint import load_model_folder, save_model_folder
from rv_train.policies.encoding import ObservationEncoder
from tests.rv_train.backbones.test_lora import assert_equal, outputs
from tests.rv_train.policies.text.test_text_policy import observation
from tests.tiny import ACTION_STATS, flow_opts, lora_opts, make_tiny_base, tiny_cfg, tiny_model, train_adapter
from tools.export_model import main as export
from tools.merge_lora import main as merge


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_base(tmp_path_factory.mktemp("base"))


def checkpoint(folder, base, **more):
    cfg = tiny_cfg(**lora_opts(base, **more))
    model = train_adapter(tiny_model(cfg))
    save_model_folder(folder / "last/model", model, cfg, ACTION_STATS, {"render": "fast", "resolution": 64})
    return folder


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("run"), base)


def test_merged_and_unmerged_are_one_policy(run, base, tmp_path, capsys):
    moved = shutil.move(shutil.copytree(base, tmp_path / "copy"), tmp_path / "base")
    mine = checkpoint(tmp_path / "run", moved)
    encoder = ObservationEncoder.from_cfg(tiny_cfg(**lora_opts(base)))
    adapted = Policy.from_checkpoint(mine)
    expected = outputs(adapted.model, encoder)
    observations = [observation(seed) for seed in range(3)]
    answers, described = adapted.predict_detailed(observations), adapted.describe()

    merge([str(mine), "--out", str(tmp_path / "merged")])
    assert f"{tmp_path / 'merged/model'}  " in capsys.readouterr().out
    shutil.rmtree(moved)  # an ordinary model needs nothing else
    shutil.rmtree(mine)
    policy = Policy.from_checkpoint(tmp_path / "merged")
    assert_equal(outputs(policy.model, encoder), expected)
    merged = policy.predict_detailed(observations)
    assert merged.texts == answers.texts
    np.testing.assert_array_equal(merged.chunk, answers.chunk)

    folder = tmp_path / "merged/model"
    origin = json.loads((folder / "merged_from.json").read_text())
    assert origin["adapter_sha256"] == described["weights_sha256"]
    assert origin["base"]["weights_sha256"] == weights_sha256(base)
    names = [name for path in folder.glob("*.safetensors") for name in load_file(path)]
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    assert load_model_folder(folder)[1].MODEL.LORA.RANK == 0

    from transformers import Qwen2_5_VLForConditionalGeneration

    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).state_dict()
    for name, value in policy.model.backbone.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_stored_in_another_dtype_and_never_over_something(run, tmp_path, capsys):
    merge([str(run), "--out", str(tmp_path / "half"), "--dtype", "bfloat16"])
    state = load_file(tmp_path / "half/model/model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.bfloat16}
    for arguments, message in (
        ([str(run), "--out", str(tmp_path / "half")], "half/model exists already"),
        ([str(tmp_path / "half"), "--out", str(tmp_path / "again")], "is no adapter: there is nothing to merge"),
        ([str(tmp_path / "nowhere"), "--out", str(tmp_path / "again")], "does not exist"),
    ):
        with pytest.raises(SystemExit) as stopped:
            merge(arguments)
        assert stopped.value.code == 2 and message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export(["--model_path", str(run), "--out", str(tmp_path / "export")])
    assert "is an adapter: tools/merge_lora.py" in capsys.readouterr().err and not (tmp_path / "export").exists()


def test_a_quantized_training_is_merged_with_the_unquantized_weights(base, tmp_path, capsys):
    run = checkpoint(tmp_path / "run", base, MODEL__QUANTIZE="nf4", AMP__frozen_dtype="bfloat16")
    merge([str(run), "--out", str(tmp_path / "merged")])
    assert "merged with the unquantized ones" in capsys.readouterr().out
    encoder = ObservationEncoder.from_cfg(tiny_cfg(**lora_opts(base)))
    merged, quantized = (outputs(load_model_folder(path)[0], encoder) for path in (tmp_path / "merged", run))
    exact = ["MODEL.QUANTIZE", "none", "AMP.frozen_dtype", "float32"]
    assert_equal(merged, outputs(load_model_folder(run, opts=exact)[0], encoder))
    assert 1e-3 < (merged - quantized).abs().mean() < 1.0
    assert json.loads((tmp_path / "merged/model/merged_from.json").read_text())["quantize"] == "nf4"


@pytest.mark.parametrize("kind", ["text", "flow"])
def test_what_only_frozen_weights_can_have_is_gone(kind, base, tmp_path):
    """A copy of the base beside; MODEL.FREEZE, which LoRA does by itself."""
    more = flow_opts(DATA__PROPRIO=[], MODEL__FREEZE=True) if kind == "flow" else {}
    mine = checkpoint(tmp_path / "run", base, TRAIN__save_base=True, **more)
    merge([str(mine), "--out", str(tmp_path / "merged")])
    shutil.rmtree(tmp_path / "run/last/model/base")
    names = {path.name for path in (tmp_path / "merged/model").glob("*") if "safetensors" in path.name or path.is_dir()}
    assert names == {"model.safetensors", *(["expert.safetensors"] if kind == "flow" else [])}
    asked = [{**observation(seed), "random_key": (seed,)} for seed in range(3)]
    answers = (Policy.from_checkpoint(path, batch_rows=3).predict(asked) for path in (tmp_path / "merged", mine))
    np.testing.assert_allclose(*answers, atol=1e-5)
