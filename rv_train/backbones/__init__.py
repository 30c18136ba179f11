"""Backbones by name. What one is, is written in `base.py`; a family lives in a folder of its own."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from yacs.config import CfgNode

from libs.config_tree import pair
from libs.errors import BadInput
from rv_train.backbones.base import Family, Pictures
from rv_train.backbones.folders import find_weights, model_type
from rv_train.backbones.prompt import DigitMask, PromptEncoder, system_prompt
from rv_train.backbones.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


FAMILIES = {  # what MODEL.BACKBONE says: the package with its FAMILY
    "qwen2_5_vl": "rv_train.backbones.qwen2_5_vl",
    "qwen3_vl": "rv_train.backbones.qwen3_vl",
    "qwen3_5": "rv_train.backbones.qwen3_5",
    "smolvlm": "rv_train.backbones.smolvlm",
}
DEFAULT = "qwen2_5_vl"


def family_named(name: str) -> Family:
    """The family that MODEL.BACKBONE names."""
    if name not in FAMILIES:
        raise BadInput(f"MODEL.BACKBONE is {name!r}; choose one of {', '.join(FAMILIES)}")
    return importlib.import_module(FAMILIES[name]).FAMILY


def family_of(cfg: CfgNode) -> Family:
    """The family of a config tree."""
    return family_named(cfg.MODEL.BACKBONE)


def type_of_weights(path: Path | str) -> str | None:
    """The name of the family whose weights MODEL.PATH names, where they lie on this machine and are of one."""
    folder, _ = find_weights(path)
    try:
        found = model_type(folder) if folder else None
    except BadInput:  # whoever loads it says what is wrong
        return None
    return next((name for name in FAMILIES if family_named(name).model_type == found), None)


def pictures_of(cfg: CfgNode) -> Pictures:
    """The pictures of one prompt; BadInput where the backbone cannot see such without resizing."""
    views, (height, width) = len(cfg.DATA.VIEWS), pair(cfg.IMAGE.SIZE)
    number, width = (1, width * views) if cfg.IMAGE.TILE else (views, width)
    rows, columns, patches = family_of(cfg).grid(cfg.MODEL.VISION, height, width)
    return Pictures(number, height, width, rows, columns, patches)


def build_prompt(cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase | None" = None) -> PromptEncoder:
    """What writes the prompts of a config tree; the tokenizer is loaded from MODEL.TOKENIZER unless given.

    `build_prompt(cfg).encode(instruction, action_text=None)` gives {"input_ids": (L,), "labels": (L,)}.
    """
    family = family_of(cfg)
    return PromptEncoder(
        tokenizer or load_tokenizer(cfg, family),
        family.chat,
        pictures_of(cfg),
        system=system_prompt(cfg),
        numbered=cfg.PROMPT.VISION_ID,
        mask=DigitMask.from_cfg(cfg),
    )
