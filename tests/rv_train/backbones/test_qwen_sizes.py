"""Sizes of Qwen's families: what is refused, and that the published ones are what the library's class makes of them."""

import pytest
import torch

from rv_train.backbones import build_prompt, family_of
from rv_train.config import load_cfg
from tests.tiny import ROOT, tiny_cfg, tiny_recipe

WRONG = {
    "qwen3_vl": [
        ({"IMAGE__SIZE": 112}, "IMAGE.SIZE must be a multiple of 32, got 112"),
        ({"MODEL__TEXT__KV_HEADS": 3}, "MODEL.TEXT.HEADS must be a multiple of KV_HEADS, got 2, 3"),
        ({"MODEL__TEXT__HEAD_DIM": 7}, "MODEL.TEXT.HEAD_DIM must be even and at least 8, got 7"),
        ({"MODEL__VISION__HIDDEN": 36}, "MODEL.VISION.HIDDEN must be a multiple of 4 x HEADS, got 36 and 2 heads"),
        ({"MODEL__VISION__POSITIONS": 15}, "MODEL.VISION.POSITIONS must be the square of a whole number, got 15"),
        ({"MODEL__VISION__DEEPSTACK": [3]}, "MODEL.VISION.DEEPSTACK names layer 3 of 0 to 2"),
        ({"MODEL__VISION__DEEPSTACK": [1, 1]}, "MODEL.VISION.DEEPSTACK must rise, got [1, 1]"),
        ({"MODEL__TEXT__LAYERS": 1}, "MODEL.VISION.DEEPSTACK names 2 layers, one text layer each"),
        ({"MODEL__VISION__FULL_ATTENTION": [0]}, "unknown config key MODEL.VISION.FULL_ATTENTION"),
        ({"MODEL__VISION__DEEPSTACK": ["a"]}, "MODEL.VISION.DEEPSTACK"),
    ],
    "qwen3_5": [
        ({"MODEL__TEXT__ROTARY": 0.3}, "MODEL.TEXT.ROTARY x HEAD_DIM must be even, at least 6 and at most HEAD_DIM"),
        ({"MODEL__TEXT__ROTARY": 1.5}, "MODEL.TEXT.ROTARY x HEAD_DIM must be even, at least 6 and at most HEAD_DIM"),
        ({"MODEL__TEXT__LINEAR_KEY_HEADS": 5}, "LINEAR_VALUE_HEADS must be a multiple of LINEAR_KEY_HEADS, got 32, 5"),
        ({"MODEL__TEXT__ATTENDING": 4}, "MODEL.TEXT.ATTENDING 4 leaves no layer of 3 that attends to all tokens"),
        ({"MODEL__TEXT__LINEAR_KERNEL": 0}, "MODEL.TEXT.LINEAR_KERNEL must be at least 1, got 0"),
    ],
}


@pytest.mark.parametrize("name, opts, message", [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_sizes_that_make_no_model_are_refused(name, opts, message, tmp_path):
    with pytest.raises(ValueError) as refused:
        tiny_cfg(tiny_recipe(tmp_path, name), **opts)
    assert message in str(refused.value)


PUBLISHED = {  # parameters of the published weights; what the recipes say of the other sizes
    "2B": ("vla0_qwen3", [], 2_127_532_032),
    "4B": ("vla0_qwen3", ["HIDDEN", 2560, "LAYERS", 36, "HEADS", 32, "MLP", 9728], 4_437_815_808),
    "8B": ("vla0_qwen3", ["HIDDEN", 4096, "LAYERS", 36, "HEADS", 32, "MLP", 12288, "TIED", False], 8_767_123_696),
}
SEEN = {"8B": ["HIDDEN", 1152, "LAYERS", 27, "MLP", 4304, "DEEPSTACK", [8, 16, 24]]}


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_sizes_have_the_published_parameters(size):
    recipe, text, parameters = PUBLISHED[size]
    pairs = {
        f"MODEL.{tower}.{key}": value
        for tower, keys in (("TEXT", text), ("VISION", SEEN.get(size, [])))
        for key, value in zip(keys[::2], keys[1::2], strict=True)
    }
    cfg = load_cfg(ROOT / f"configs/{recipe}.yaml", [part for pair in pairs.items() for part in pair])
    family = family_of(cfg)
    config = family.random_config(cfg, build_prompt(cfg).tokenizer)
    with torch.device("meta"):
        model = family.model_class()._from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_qwen3s_vocabulary_goes_on_where_qwen2_5s_ends():
    tokenizer = build_prompt(load_cfg(ROOT / "configs/vla0_qwen3.yaml")).tokenizer
    names = ["<|image_pad|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
    assert tokenizer.convert_tokens_to_ids(names) == [151655, 151664, 151665, 151666, 151667, 151668]
    assert len(tokenizer) == 151669
