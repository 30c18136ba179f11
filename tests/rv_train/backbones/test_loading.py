"""Weights and the tokenizer beside them."""

import shutil

import pytest

from rv_train.backbones import FAMILIES, family_of, type_of_weights
from rv_train.backbones.loading import check_weights
from rv_train.checkpoint import save_model_folder
from rv_train.plan import dry_run
from rv_train.policies import build_encoder, build_policy
from rv_train.train import main
from tests.tiny import ACTION_STATS, make_tiny_base, tiny_cfg, tiny_recipe


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tokenizer_of_other_ids_than_the_weights_know_is_refused(name, tmp_path):
    recipe = tiny_recipe(tmp_path, name)
    weights = make_tiny_base(tmp_path, 0, recipe)
    other = make_tiny_base(tmp_path, 1, recipe, MODEL__VOCAB_CUT=600)
    opts = {"MODEL__INIT": "pretrained", "MODEL__PATH": str(weights), "MODEL__VOCAB_CUT": 0}
    cfg = tiny_cfg(recipe, MODEL__TOKENIZER=str(weights), **opts)
    build_policy(cfg, build_encoder(cfg, ACTION_STATS))
    cfg = tiny_cfg(recipe, MODEL__TOKENIZER=str(other), **opts)
    with pytest.raises(ValueError, match=rf"MODEL\.TOKENIZER: {other} writes .* know it as"):
        build_policy(cfg, build_encoder(cfg, ACTION_STATS))
    with pytest.raises(ValueError, match=r"MODEL\.TOKENIZER: .* know it as"):
        dry_run(cfg, nproc=1)


def test_weights_are_found_in_a_run_and_in_a_step(tmp_path):
    recipe = tiny_recipe(tmp_path, "smolvlm")
    weights = make_tiny_base(tmp_path, 0, recipe)
    run = tmp_path / "run"
    (run / "step_7").mkdir(parents=True)
    (run / "config.json").write_text("{}")  # the run's own
    (run / "last").symlink_to("step_7")
    weights.rename(run / "step_7/model")
    opts = {"MODEL__INIT": "pretrained", "MODEL__VOCAB_CUT": 0}
    loaded = []
    for path in (run, run / "step_7", run / "step_7/model"):
        assert type_of_weights(path) == "smolvlm"
        cfg = tiny_cfg(recipe, MODEL__PATH=str(path), **opts)
        loaded.append(build_policy(cfg, build_encoder(cfg, ACTION_STATS)).state_dict())
    for other in loaded[1:]:
        assert all((other[name] == value).all() for name, value in loaded[0].items())


def make_run(tmp_path):
    """A run folder whose last step is 7; opts that train its weights further."""
    run = tmp_path / "run"
    (run / "step_7").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (run / "config.yaml").write_text("")
    (run / "last").symlink_to("step_7")
    return run, {"MODEL__INIT": "pretrained", "MODEL__VOCAB_CUT": 0, "MODEL__PATH": str(run)}


def test_a_new_run_stays_with_the_step_that_it_began_with(tmp_path, monkeypatch):
    recipe = tiny_recipe(tmp_path, "smolvlm")
    run, _ = make_run(tmp_path)
    make_tiny_base(tmp_path, 0, recipe).rename(run / "step_7/model")
    shutil.copytree(run / "step_7", run / "step_9")

    def prepare(cfg, *_):
        seen.append(cfg.MODEL.PATH)
        raise SystemExit

    def began_with(path):
        with pytest.raises(SystemExit):
            opts = ["MODEL.INIT", "pretrained", "MODEL.VOCAB_CUT", "0", "MODEL.PATH", path]
            main(["--cfg", str(recipe), "--nproc", "1", *opts])
        return seen[-1]

    seen = []
    monkeypatch.setattr("rv_train.train.prepare_run", prepare)

    for name in ("", "last", "last/model", "step_7"):
        assert began_with(str(run / name)) == str(run / "step_7/model")
    monkeypatch.chdir(tmp_path)
    assert began_with("run") == "run/step_7/model"
    (run / "last").unlink()
    (run / "last").symlink_to("step_9")
    assert began_with("run/step_7/model") == "run/step_7/model" and began_with("run") == "run/step_9/model"
    (run / "step_7/model").rename(tmp_path / "weights")
    assert began_with("weights") == "weights"


@pytest.mark.package("peft")
def test_a_run_that_holds_no_whole_model_is_told_so(tmp_path, capsys):
    recipe = tiny_recipe(tmp_path, "smolvlm")
    run, opts = make_run(tmp_path)
    cfg = tiny_cfg(recipe, **opts)
    with pytest.raises(ValueError, match=r"run holds no model, it lacks model\.safetensors"):
        check_weights(cfg, family_of(cfg))
    over = tiny_cfg(recipe, **opts | {"MODEL__PATH": str(make_tiny_base(tmp_path, 0, recipe)), "MODEL__LORA__RANK": 4})
    adapter = build_policy(over, build_encoder(over, ACTION_STATS))
    save_model_folder(run / "step_7/model", adapter, over, ACTION_STATS, {})
    what = "run/last/model holds no model, but what was trained over one: name that, which base.json there tells"
    with pytest.raises(ValueError, match=what):
        check_weights(cfg, family_of(cfg))
    dry_run(cfg, nproc=1)
    assert f"weights: {tmp_path}/{what}" in capsys.readouterr().out
