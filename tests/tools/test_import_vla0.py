"""tools/import_vla0.py: runs of the original in, model folders that evaluation and training accept out."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from libs.files import read_json
from rv_eval.agent import AgentSettings
from rv_eval.policy import Policy
from rv_train.checkpoint import find_model_folder, load_model_folder
from rv_train.config import load_cfg
from rv_train.policies import build_encoder, build_policy
from tests.original_runs import FORMS, RANGE, make_original_run
from tests.tiny import TINY, make_tiny_checkpoint, tiny_cfg
from tools.import_vla0 import RECIPE, main


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return find_model_folder(make_tiny_checkpoint(tmp_path_factory.mktemp("ours")))


def imported(run, out, *more):
    """The exit code of the command with the tiny recipe."""
    try:
        main([str(run), "--out", str(out), "--cfg", str(TINY), *map(str, more)])
    except SystemExit as stop:
        return stop.code
    return 0


def observation(policy):
    rng = np.random.default_rng(0)
    views = {view: rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for view in policy.views}
    return {"views": views, "instruction": "pick up the bowl"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", ["run", "run/model_last"])
def test_it_answers_to_the_bit_as_the_weights_did(form, named, ours, tmp_path, capsys):
    make_original_run(tmp_path / "run", ours, form)
    assert imported(tmp_path / named, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "qwen2_5_vl, " in said and "actions of 7 numbers: -0.9 to 0.9, " in said and "model_last" in said
    stats = read_json(tmp_path / "out/action_stats.json")
    assert {key: stats[key] for key in RANGE} == RANGE
    before, after = Policy.from_checkpoint(ours), Policy.from_checkpoint(tmp_path / "out")
    assert (after.render, after.resolution) == ("standard", 256)
    texts = [policy.predict_detailed([observation(policy)]).texts for policy in (before, after)]
    assert texts[0] == texts[1]
    weights = tmp_path / "out/model.safetensors"
    assert os.stat(weights).st_ino == os.stat(tmp_path / "run/model_last/model.safetensors").st_ino


def test_training_goes_on_from_it(ours, tmp_path):
    make_original_run(tmp_path / "run", ours, "flat")
    imported(tmp_path / "run", tmp_path / "out")
    cfg = tiny_cfg(MODEL__INIT="pretrained", MODEL__PATH=str(tmp_path / "out"), MODEL__VOCAB_CUT=0)
    model = build_policy(cfg, build_encoder(cfg, read_json(tmp_path / "out/action_stats.json")))
    for name, value in load_model_folder(ours)[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_the_published_recipe_is_the_default_and_says_how_chunks_are_executed():
    cfg = load_cfg(RECIPE)
    found = AgentSettings(cfg.EVAL.ACTION_HORIZON, cfg.EVAL.ENSEMBLE_PREDICTION)
    assert (found.n_action_steps, found.ensemble_size, cfg.ACTION.HORIZON, cfg.ACTION.NUM_BINS) == (1, 8, 8, 1000)


def edited(name, **changes):
    """Change a JSON file of model_last."""

    def edit(run):
        path = run / "model_last" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def other_weights(change):
    """Change the weights, a dict of tensors, of model_last."""

    def edit(run):
        path = run / "model_last/model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path, {"format": "pt"})

    return edit


def cut_one(weights):
    name = "visual.merger.mlp.2.weight"
    weights[name] = weights[name][1:].contiguous()


def with_stats(content):
    return lambda run: (run / "dataset_stats.pkl").write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda run: (run / "dataset_stats.pkl").unlink(), "has no dataset_stats.pkl"),
        (lambda run: (run / "model_last/model.safetensors").unlink(), "model_last holds no model, it lacks model.saf"),
        (with_stats({"out_ori_act": {"min": torch.zeros(7), "max": [1.0] * 7}}), "asks for torch._utils._rebuild"),
        (with_stats({"state": {}}), "has no 'out_ori_act' with the range of the actions; it holds 'state'"),
        (with_stats({"out_ori_act": {"min": [0.0] * 7}}), "'max' of 'out_ori_act' are not 7 finite numbers"),
        (with_stats({"out_ori_act": {"min": [0.0] * 6, "max": [1.0] * 6}}), "'min' of 'out_ori_act' are not 7"),
        (with_stats({"out_ori_act": {"min": [1.0] * 7, "max": [0.0] * 7}}), "dimension 0 of the statistics runs from"),
        (with_stats([1]), "it holds a list"),
        (edited("config.json", model_type="qwen3_vl"), "has model_type 'qwen3_vl', MODEL.BACKBONE qwen2_5_vl"),
        (edited("preprocessor_config.json", patch_size=16), "patch_size is 16, pictures are prepared with 14 here"),
        (lambda run: (run / "model_last/tokenizer.json").write_text("{}"), "holds no tokenizer that can be read"),
        (other_weights(lambda found: found.pop("visual.merger.mlp.2.weight")), "model_last lacks 1 weights of this"),
        (other_weights(cut_one), "run/model_last has 1 weights of other sizes than its config.json says, the first is"),
    ],
)
def test_wrong_runs_are_refused_in_one_line_and_leave_nothing(prepare, says, ours, tmp_path, capsys):
    prepare(make_original_run(tmp_path / "run", ours))
    assert imported(tmp_path / "run", tmp_path / "out") == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert says in error
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("run", "more", "says"),
    [
        ("nowhere", (), "nowhere does not exist: name the run folder"),
        ("run/model_last.pth", (), "is a file: name the run folder, which holds model_last/"),
        ("run", ("ACTION.DIM", 6), "are not 6 finite numbers"),
        ("run", ("MODEL.VOCAB_CUT", 600, "NO.KEY", 1), "NO.KEY"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(run, more, says, ours, tmp_path, capsys):
    make_original_run(tmp_path / "run", ours)
    assert imported(tmp_path / run, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert imported(tmp_path / "run", tmp_path / "out") == 2
    assert "out exists already" in capsys.readouterr().err
