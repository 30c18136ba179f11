"""docs/adding_simulator.md: its code is that of the toy, and what the toy's demonstrations train plays in it."""

import re

import pytest
import yaml

from rv_eval.policy import Policy
from rv_train.checkpoint import save_model_folder
from rv_train.data.load import load_data
from rv_train.policies import build_encoder, build_policy
from tests.rv_eval.envs.toy import DESCRIPTION, ToyTask
from tests.rv_eval.envs.toy_demos import collect
from tests.tiny import ROOT, tiny_cfg

PAGE = (ROOT / "docs/adding_simulator.md").read_text()


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)


def test_the_example_is_that_of_the_docs():
    simulation, asked, demos = blocks("python")
    assert f"{simulation}\n\n{asked}" == (ROOT / "tests/rv_eval/envs/toy.py").read_text()
    assert demos == (ROOT / "tests/rv_eval/envs/toy_demos.py").read_text()


def test_what_is_collected_and_trained_by_the_page_fits_the_simulator(tmp_path):
    collect(tmp_path / "data/toy", ToyTask(), 2)
    (recipe,) = blocks("yaml")
    tree = yaml.safe_load(recipe.replace("data/toy", str(tmp_path / "data/toy")))
    cfg = tiny_cfg(**{f"{name}__{key}": value for name, keys in tree.items() for key, value in keys.items()})
    data = load_data(cfg)
    assert data.train.facts.rate == DESCRIPTION.control_hz and data.info["num_demos"] == 2
    assert max(len(demo.actions) for demo in data.train.demos) <= ToyTask().max_steps
    model = build_policy(cfg, build_encoder(cfg, data.action_stats)).eval()
    save_model_folder(tmp_path / "model", model, cfg, data.action_stats, data.info)
    policy = Policy.from_checkpoint(tmp_path / "model")
    fits = DESCRIPTION.views, DESCRIPTION.action_dim, DESCRIPTION.reported_render, DESCRIPTION.proprio
    policy.check_environment(*fits)
    with pytest.raises(ValueError, match="render setting 'plain', the environment renders 'dark'"):
        policy.check_environment(*fits[:2], "dark", fits[3])
