import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from safetensors import safe_open

from libs.files import read_json
from rv_eval.policy import Policy
from rv_train.checkpoint import load_model_folder, save_model_folder
from tests.cards import run_card_of
from tests.tiny import ACTION_STATS, ROOT, flow_opts, make_tiny_checkpoint, tiny_cfg, tiny_model, tiny_recipe
from tools.export_model import main

QUICKSTART = ROOT / "checkpoints/quickstart"


@pytest.mark.parametrize("kind", ["text", "flow"])
def test_half_the_size_and_the_same_model_within_rounding(kind, tmp_path, capsys):
    run = make_tiny_checkpoint(tmp_path, **(flow_opts(DATA__PROPRIO=[]) if kind == "flow" else {}))
    main(["--model_path", str(run), "--dtype", "float16", "--out", str(tmp_path / "small")])
    assert "weights in float16" in capsys.readouterr().out
    files = list((tmp_path / "small/model").glob("*.safetensors"))
    assert len(files) == (2 if kind == "flow" else 1)
    for file in files:
        with safe_open(file, "pt") as stored:
            assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.float16}  # noqa: SIM118
    before, after = (load_model_folder(path)[0].state_dict() for path in (run, tmp_path / "small"))
    for name, value in before.items():
        assert after[name].dtype == torch.float32
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-6)
    with pytest.raises(SystemExit, match="2"):
        main(["--model_path", str(run), "--out", str(tmp_path / "small")])


@pytest.mark.parametrize(("form", "opens"), [("5", "5.x"), ("4.57", "4.57 and 5.x")])
def test_the_code_of_the_card_acts_as_the_policy_does(form, opens, tmp_path, capsys):
    main(["--model_path", str(QUICKSTART), "--dtype", "float32", "--out", str(tmp_path), "--transformers", form])
    assert f"opens with transformers {opens}" in capsys.readouterr().out
    policy = Policy.from_checkpoint(QUICKSTART, batch_rows=1)
    seen = imageio.imread(ROOT / "checkpoints/quickstart/rollout.png")[:256:2, :, :3]  # both views, six times
    frames = {"agentview": seen[:, :256:2], "eye_in_hand": seen[:, 256:512:2]}
    instruction = "pick up the alphabet soup and place it in the basket"
    wanted = policy.predict([{"views": frames, "instruction": instruction}])[0]
    np.testing.assert_array_equal(run_card_of(tmp_path / "model")["actions"](frames, instruction), wanted)


def test_the_older_form_says_what_transformers_4_57_reads(tmp_path):
    main(["--model_path", str(QUICKSTART), "--out", str(tmp_path), "--transformers", "4.57"])
    config, settings = (read_json(tmp_path / "model" / name) for name in ("config.json", "tokenizer_config.json"))
    text = config["text_config"]
    assert text["rope_theta"] == 10000 and text["rope_scaling"]["mrope_section"] == [4, 6, 6]
    assert "rope_parameters" not in text | config["vision_config"] and "extra_special_tokens" not in settings
    assert "<|im_end|>" in settings["additional_special_tokens"]
    before, after = (load_model_folder(path)[0].state_dict() for path in (QUICKSTART, tmp_path))
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [
        ("qwen3_5", {}, "a qwen3_5 cannot be written for transformers 4.57; what can is qwen2_5_vl, qwen3_vl"),
        ("qwen2_5_vl", flow_opts(DATA__PROPRIO=[]), "has an action expert, which no transformers opens"),
    ],
)
def test_what_4_57_does_not_have_is_refused(family, options, says, tmp_path, capsys):
    cfg = tiny_cfg(tiny_recipe(tmp_path, family), **options)
    save_model_folder(tmp_path / "run/model", tiny_model(cfg), cfg, ACTION_STATS, {})
    with pytest.raises(SystemExit, match="2"):
        main(["--model_path", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--transformers", "4.57"])
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()
