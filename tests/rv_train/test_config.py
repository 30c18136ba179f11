import re

import pytest
import yaml

from libs.config_tree import to_dict
from rv_train.config import cfg_from_dict, load_cfg
from tests.tiny import ROOT


def load(tmp_path, text, opts=()):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_cfg(path, opts)


def test_recipe_over_defaults_and_command_line_over_recipe(tmp_path):
    cfg = load(tmp_path, "TRAIN: {lr: 5e-4, batch_size: 3}", ["TRAIN.batch_size", "4", "TRAIN.lr", "1"])
    assert cfg.TRAIN.batch_size == 4 and cfg.TRAIN.lr == 1.0 and cfg.TRAIN.epochs == 24
    with pytest.raises(AttributeError):
        cfg.TRAIN.lr = 2.0


@pytest.mark.parametrize(
    ("text", "opts", "message"),
    [
        ("TRAIN: {learning_rate: 1}", (), "unknown config key TRAIN.learning_rate"),
        ("TRAIN: {batchsize: 1}", (), "did you mean TRAIN.batch_size"),
        ("", ("TRAIN.batch_size", "two"), "TRAIN.batch_size must be int, got 'two'"),
        ("", ("TRAIN.batch_size", "0"), "at least 1"),
        ("", ("TRAIN.grad_checkpoint", "1"), "must be bool"),
        ("", ("TRAIN.lr",), "no value"),
        ("TRAIN: {warmup: .inf}", (), "TRAIN.warmup must be"),
        ("TRAIN: {lr: .nan}", (), "TRAIN.lr must be"),
        ("", ("DATA.SAMPLER", "half"), "choose one of full, sharded"),
        ("", ("IMAGE.SIZE", "100"), "multiple of 28"),
        ("AMP: {mode: fp16, param_dtype: bfloat16}", (), "needs float32 parameters"),
        ("TRAIN: [1, 2]", (), "unknown config key TRAIN"),
        ("TRAIN: {", (), "not valid YAML"),
        ("TRAIN:\n  lr: 1e-3\nTRAIN:\n  epochs: 2", (), "'TRAIN' stands there twice, in lines 1 and 3"),
        ("TRAIN: {lr: 1e-3, epochs: 2, lr: 1e-4}", (), "'lr' stands there twice, in lines 1 and 1"),
        ("AMP: {mode: off}", (), "AMP.mode must be str, got False (bool); YAML reads on, off, yes and no so: write"),
        ("", ("DATA.FILES", "[1]"), "DATA.FILES must be a list of str"),
        ("", ("DATA.VIEWS", "[]"), "at least one camera"),
        ("", ("TRAIN.betas", "[0.9]"), "two numbers"),
        ("", ("TRAIN.betas", "['a', 'b']"), "must be a list of float"),
        ("", ("ACTION.MASK_MAX", "1.5"), "at most 1"),
        ("", ("ACTION.MASK_MIN", "0.5"), "ACTION.MASK_MIN 0.5 is above ACTION.MASK_MAX 0.4"),
        ("", ("ACTION.MASK_CHAR", "??"), "ACTION.MASK_CHAR is one ASCII character"),
        ("", ("ACTION.MASK_CHAR", "7"), "neither digit nor space"),
        ("", ("TRAIN.lr", "nan"), "TRAIN.lr must be at least 0"),
        ("", ("DATA.NUM_WORKERS", "-1"), "at least 0"),
        ("", ("EXP.ID", "../data"), "EXP.ID names a folder"),
        ("MODEL: {VOCAB_CUT: 512}", (), "other ids than pretrained weights know"),
        ("", ("IMAGE.CROP", "0.001"), "IMAGE.CROP must be at least 0.1"),
        ("", ("MODEL.TEXT.HEADS", "0"), "MODEL.TEXT.HEADS must be at least 1"),
        ("", ("MODEL.TEXT.HIDDEN", "30"), "MODEL.TEXT.HIDDEN must be a multiple of 2 x HEADS, got 30 and 16 heads"),
        ("", ("MODEL.VISION.HEADS", "7"), "MODEL.VISION.HIDDEN must be a multiple of 4 x HEADS"),
        ("", ("MODEL.TEXT.KV_HEADS", "3"), "MODEL.TEXT.HEADS must be a multiple of KV_HEADS, got 16, 3"),
        ("", ("MODEL.VISION.FULL_ATTENTION", "[3, 99]"), "FULL_ATTENTION names layer 99 of 0 to 31"),
    ],
)
def test_wrong_input_is_named(tmp_path, text, opts, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(tmp_path, text, opts)


def test_missing_file():
    with pytest.raises(ValueError, match="does not exist"):
        load_cfg("no/such.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_recipes_load_and_survive_a_round_trip(path):
    cfg = load_cfg(path)
    again = cfg_from_dict(yaml.safe_load(yaml.safe_dump(to_dict(cfg))), "copy")
    assert cfg == again


def test_every_key_is_read_somewhere():
    """A config key that nothing reads is a bug."""
    tree = to_dict(load_cfg(ROOT / "configs/vla0.yaml"))
    sources = [
        path.read_text()
        for folder in ("rv_train", "rv_eval", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "config.py"
    ]
    for section, keys in tree.items():
        for key in keys:
            pattern = rf"\b{section}\.{key}\b|\b{section.lower()}\.{key}\b"
            assert any(re.search(pattern, source) for source in sources), f"{section}.{key} is read nowhere"
