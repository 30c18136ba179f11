"""rv_eval.model_card: its code asks the model the same question as this repository does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rv_eval.card_sections import training_section
from rv_eval.model_card import model_card
from rv_eval.policy import Policy
from rv_train.checkpoint import save_model_folder
from rv_train.policies import build_encoder, build_policy
from tests.cards import run_card
from tests.tiny import ACTION_STATS, flow_opts, make_tiny_checkpoint, tiny_cfg, tiny_recipe

STATE = {"parts": {"ee_pos": 3}, "min": [-1.0, 0.0, 2.0], "max": [1.0, 0.0, 4.0], "mean": [0.0] * 3, "std": [1.0] * 3}


def tiny_policy(folder, cfg, stats):
    torch.manual_seed(0)
    model = build_policy(cfg, build_encoder(cfg, stats)).eval()
    info = {"cameras": {"agentview": [96, 128], "eye_in_hand": [60, 50]}}
    save_model_folder(folder, model, cfg, stats, info)
    return Policy.from_checkpoint(folder)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2_5_vl", {"IMAGE__FIT": "pad", "IMAGE__TILE": False, "PROMPT__SYSTEM": "Write {num_values} integers."}),
        ("qwen2_5_vl", {"IMAGE__FIT": "stretch", "IMAGE__SIZE": [56, 84], "DATA__PROPRIO": ["ee_pos"]}),
        ("qwen3_vl", {"IMAGE__CROP": 0.9, "PROMPT__VISION_ID": True}),
        ("qwen3_5", {}),
        ("smolvlm", {}),
    ],
)
def test_its_code_asks_the_same_question(family, options, tmp_path):
    cfg = tiny_cfg(tiny_recipe(tmp_path, family), **options)
    stats = {**ACTION_STATS, "proprio": STATE} if cfg.DATA.PROPRIO else ACTION_STATS
    policy = tiny_policy(tmp_path / "model", cfg, stats)
    card = run_card(model_card(policy, "5.x"), tmp_path / "model")
    rng = np.random.default_rng(0)
    sizes = policy.pictures["cameras"]
    frames = {view: rng.integers(0, 256, (*sizes[view], 3), dtype=np.uint8) for view in policy.views}
    state = [np.array([0.25, 0.0, 3.5])] if cfg.DATA.PROPRIO else []
    asked = {"views": frames, "instruction": "pick up the bowl", "proprio": state[0] if state else None}
    batch = policy.encoder.collate([policy.encoder.encode(asked)])
    theirs = card["inputs"](frames, "pick up the bowl", *state)
    assert theirs["input_ids"].tolist() == batch["input_ids"].tolist()
    with torch.no_grad():
        ours = policy.model.backbone.lm_head(policy.model.condition(batch))[0]
        found = card["model"](**theirs).logits[0, -1]
    torch.testing.assert_close(found, ours, rtol=1e-3, atol=1e-4)


GOALS = {
    "DATA__PROPRIO": ["ee_pos"],
    "ACTION__MODE": "delta",
    "ACTION__DELTA": [2, 0],
    "ACTION__STATE": ["ee_pos[0:2]"],
}


@pytest.mark.parametrize("to", ["state", "action"])
def test_its_code_gives_the_goals_of_a_policy_that_writes_differences(to, tmp_path, monkeypatch):
    cfg = tiny_cfg(tiny_recipe(tmp_path, "qwen2_5_vl"), ACTION__DELTA_TO=to, **GOALS)
    policy = tiny_policy(tmp_path / "model", cfg, {**ACTION_STATS, "proprio": STATE})
    frames = {view: np.zeros((*policy.pictures["cameras"][view], 3), np.uint8) for view in policy.views}
    state = np.array([0.25, 0.5, 3.5])
    wanted = policy.predict_detailed([{"views": frames, "instruction": "go", "proprio": state}])
    card = run_card(text := model_card(policy, "5.x"), tmp_path / "model")
    # What it writes freely need not be integers: this is what the grammar made of it.
    monkeypatch.setattr(card["model"], "generate", lambda **batch: batch["input_ids"])
    monkeypatch.setattr(type(card["tokenizer"]), "decode", lambda *_, **__: wanted.texts[0])
    np.testing.assert_allclose(card["actions"](frames, "go", state), wanted.chunk[0], atol=1e-5)
    assert "as differences to" in text and "which is added then" in text


def test_the_card_of_a_policy_that_writes_other_rotations_says_that_it_needs_this_repository(tmp_path):
    cfg = tiny_cfg(tiny_recipe(tmp_path, "qwen2_5_vl"), ACTION__ROTATION__DIMS=[3], ACTION__ROTATION__WRITTEN="6d_rows")
    stats = {
        name: value + [value[-1]] * 3 if isinstance(value, list) else value for name, value in ACTION_STATS.items()
    }
    card = model_card(tiny_policy(tmp_path / "model", cfg, stats), "5.x")
    assert "recorded as axis_angle, as 6d_rows, which this repository turns into actions" in card and "```" not in card


def test_the_card_of_an_expert_says_that_it_needs_this_repository(tmp_path):
    policy = Policy.from_checkpoint(make_tiny_checkpoint(tmp_path, **flow_opts(DATA__PROPRIO=[])))
    card = model_card(policy, "5.x")
    assert "tools/serve_policy.py --model_path" in card and "```" not in card


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/home/somebody/runs/mine/step_00000007/model", "mine/step_00000007/model"),
        ("/home/somebody/weights", "weights"),
        ("runs/mine/step_00000007/model", "runs/mine/step_00000007/model"),
    ],
)
def test_it_names_the_weights_that_training_began_with(path, told):
    cfg = tiny_cfg(MODEL__INIT="pretrained", MODEL__PATH=path, MODEL__VOCAB_CUT=0)
    assert f"| began with | {told} |" in training_section(cfg, {}, Path("step_00000009/model"))
