"""Weights and the tokenizer beside them."""

import pytest

from rv_train.backbones import FAMILIES, type_of_weights
from rv_train.plan import dry_run
from rv_train.policies import build_encoder, build_policy
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
