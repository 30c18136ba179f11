"""Which family of backbones a config means, and which tokenizer."""

import json
import shutil
import sys
import types

import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from libs.errors import BadInput
from rv_train import backbones
from rv_train.backbones import FAMILIES, build_prompt, family_of
from rv_train.backbones.folders import check_source
from rv_train.backbones.qwen2_5_vl.family import Qwen2_5VL
from rv_train.backbones.tokenizer import FILES, character_ids, load_tokenizer
from rv_train.checkpoint import load_model_folder
from rv_train.config import load_cfg
from tests.tiny import ROOT, make_tiny_base, tiny_cfg, tiny_recipe


class Toy(Qwen2_5VL):
    name, model_type = "toy", "toy_vl"
    defaults = Qwen2_5VL.defaults | {"MODEL.VISION": {"HIDDEN": 48}, "MODEL.PATH": "lab/toy", "IMAGE.SIZE": 112}

    def check(self, cfg):
        pass


@pytest.fixture
def toy(monkeypatch):
    module = types.ModuleType("toy_backbone")
    module.FAMILY = Toy()
    monkeypatch.setitem(sys.modules, "toy_backbone", module)
    monkeypatch.setitem(backbones.FAMILIES, "toy", "toy_backbone")
    return module.FAMILY


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_base(tmp_path_factory.mktemp("choice"))


def recipe(folder, **model):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"MODEL": model}))
    return path


def test_a_family_brings_its_own_defaults(toy, tmp_path):
    cfg = load_cfg(recipe(tmp_path, BACKBONE="toy", INIT="random"))
    assert (cfg.MODEL.PATH, cfg.IMAGE.SIZE, dict(cfg.MODEL.VISION)) == ("lab/toy", 112, {"HIDDEN": 48})
    assert cfg.MODEL.TEXT.HIDDEN == 2048 and family_of(cfg) is toy
    assert load_cfg(recipe(tmp_path), ["MODEL.BACKBONE", "toy"]).MODEL.BACKBONE == "toy"
    assert load_cfg(recipe(tmp_path)).MODEL.BACKBONE == "qwen2_5_vl"


def test_a_key_that_the_family_does_not_read_is_refused(toy, tmp_path):
    with pytest.raises(ValueError, match=r"unknown config key MODEL\.VISION\.FULL_ATTENTION"):
        load_cfg(recipe(tmp_path, BACKBONE="toy", VISION={"FULL_ATTENTION": [1]}))
    with pytest.raises(ValueError, match=r"MODEL\.BACKBONE is 'none'; choose one of qwen2_5_vl, .*toy"):
        load_cfg(recipe(tmp_path, BACKBONE="none"))
    with pytest.raises(ValueError, match=r"MODEL\.VISION\.HIDDEN must be at least 1, got 0"):
        load_cfg(recipe(tmp_path, BACKBONE="toy", VISION={"HIDDEN": 0}))


def test_a_default_that_is_no_config_key_is_named(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "defaults", Toy.defaults | {"IMAGE.SIDE": 1})
    with pytest.raises(AssertionError, match=r"`defaults` of toy names IMAGE\.SIDE, which is no config key"):
        load_cfg(recipe(tmp_path, BACKBONE="toy", INIT="random"))


def test_pretrained_weights_say_their_family(toy, base, tmp_path):
    other = tmp_path / "weights"
    shutil.copytree(base, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "toy_vl"}))
    assert load_cfg(recipe(tmp_path, PATH=str(other))).MODEL.BACKBONE == "toy"
    assert load_cfg(recipe(tmp_path), ["MODEL.PATH", str(other)]).MODEL.BACKBONE == "toy"
    assert load_cfg(recipe(tmp_path, PATH=str(base))).MODEL.BACKBONE == "qwen2_5_vl"
    assert load_cfg(recipe(tmp_path, PATH=str(other), INIT="random")).MODEL.BACKBONE == "qwen2_5_vl"
    said = load_cfg(recipe(tmp_path, PATH=str(other), BACKBONE="qwen2_5_vl"))
    with pytest.raises(ValueError, match=r"config\.json has model_type 'toy_vl', MODEL\.BACKBONE qwen2_5_vl needs"):
        check_source(said.MODEL.PATH, family_of(said))


def test_a_checkpoint_from_before_there_was_the_key_loads(base, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(base, folder)
    tree = yaml.safe_load((folder / "vla_config.yaml").read_text())
    del tree["MODEL"]["BACKBONE"]
    (folder / "vla_config.yaml").write_text(yaml.safe_dump(tree))
    assert load_model_folder(folder)[1] == load_model_folder(base)[1]


def test_pretrained_weights_bring_their_tokenizer(base, tmp_path):
    opts = {"MODEL__INIT": "pretrained", "MODEL__VOCAB_CUT": 0}
    theirs = build_prompt(tiny_cfg(MODEL__PATH=str(base), **opts)).tokenizer
    assert len(theirs) == 512 + 22
    bare = tmp_path / "bare"
    shutil.copytree(base, bare, ignore=shutil.ignore_patterns(*FILES))
    shipped = build_prompt(tiny_cfg(MODEL__PATH=str(bare), **opts)).tokenizer
    assert len(shipped) == 151_665 and shipped.chat_template == theirs.chat_template


def bpe(merges):
    """Byte-level BPE that does not split numbers into digits."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*letters, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("merges", [[("1", "0")], [("\u0120", "1")]])
def test_a_tokenizer_that_joins_characters_is_refused_with_an_example(merges):
    assert len(set(character_ids(bpe([])))) == 11
    with pytest.raises(ValueError, match=r"writes the action text '0 1 2 .* 1000' as \[.*'\s?10?'"):
        character_ids(bpe(merges))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_with_tokens_that_have_no_row_is_refused(family, tmp_path):
    """The first prompt with one would end the run, on a GPU with a line about an assertion in a kernel."""
    cfg = tiny_cfg(tiny_recipe(tmp_path, family), MODEL__VOCAB_CUT=0, MODEL__TEXT__VOCAB=49000)
    tokenizer = load_tokenizer(cfg, family_of(cfg))
    with pytest.raises(BadInput, match=rf"MODEL\.TEXT\.VOCAB is 49000, .* has {len(tokenizer)} tokens: .*VOCAB_CUT"):
        family_of(cfg).random_config(cfg, tokenizer)


def test_the_recipes_load_and_name_their_backbone():
    for path in (ROOT / "configs").glob("*.yaml"):
        cfg = load_cfg(path)
        assert family_of(cfg).name == cfg.MODEL.BACKBONE
