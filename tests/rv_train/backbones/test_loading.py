"""Weights and the tokenizer beside them."""

import pytest

from rv_train.backbones import FAMILIES
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
