"""Policies by name. What one is, is written in `base.py`; each lives in a folder of its own."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones import family_of
from rv_train.backbones.loading import build_backbone, outline_backbone

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from rv_train.policies.base import Encoder, Policy


POLICIES = {  # what MODEL.NAME says: the package with its POLICY and its ENCODER
    "vla0": "rv_train.policies.text",
    "flow_expert": "rv_train.policies.flow",
}


def _room(cfg):
    if cfg.MODEL.NAME not in POLICIES:
        raise BadInput(f"MODEL.NAME is {cfg.MODEL.NAME!r}; choose one of {', '.join(POLICIES)}")
    return importlib.import_module(POLICIES[cfg.MODEL.NAME])


def policy_class(cfg: CfgNode) -> "type[Policy]":
    """The class of the policy of a config tree, see `rv_train.policies.base.Policy`."""
    return _room(cfg).POLICY


def build_encoder(
    cfg: CfgNode, stats: Mapping[str, Any] | None = None, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> "Encoder":
    """What turns samples and observations into batches for the policy of MODEL.NAME.

    Args:
        cfg: the config tree.
        stats: of the data, see `rv_train.data.stats`; None where nothing is to be learned.
        tokenizer: None loads MODEL.TOKENIZER.
    """
    return _room(cfg).ENCODER.from_cfg(cfg, tokenizer, stats)


def build_policy(
    cfg: CfgNode,
    encoder: "Encoder",
    weights: Path | None = None,
    device: "torch.device | str" = "cpu",
    mapped: bool = False,
) -> "Policy":
    """The policy of MODEL.NAME over the backbone of MODEL.BACKBONE.

    Args:
        cfg: the config tree.
        encoder: from `build_encoder`, with statistics.
        weights: folder to load from instead of what MODEL.INIT says (a checkpoint's model folder).
        device: that it goes to.
        mapped: leave it on the CPU, what was loaded in its files, see `build_backbone`.
    """
    backbone = build_backbone(cfg, family_of(cfg), encoder.prompt.tokenizer, weights, device, mapped)
    policy = policy_class(cfg).from_cfg(cfg, encoder, backbone, weights)
    return policy if mapped else policy.to(device)


def outline_policy(cfg: CfgNode, encoder: "Encoder", missing: list[str]) -> "tuple[Policy, str]":
    """The same on the meta device, where numbers have a shape and no bytes: needs no weights and no statistics.

    Returns:
        (policy, where the backbone's sizes are from); weights that are not there get a line in the list `missing`.
    """
    import torch

    backbone, origin = outline_backbone(cfg, family_of(cfg), encoder.prompt.tokenizer, missing)
    with torch.device("meta"):
        return policy_class(cfg).from_cfg(cfg, encoder, backbone), origin
