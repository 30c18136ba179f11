"""The weights of a backbone: the library's own class, pretrained or random at any size, and its files."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import nn
from torch.distributed.tensor import DTensor
from yacs.config import CfgNode

from libs.errors import BadInput, first_line
from libs.files import kind_of, link_or_copy
from rv_train.backbones.folders import (
    check_model_type,
    check_source,
    fetch_weights,
    find_weights,
    is_model_folder,
    what_lacks,
)
from rv_train.backbones.lora import attach, check_targets, is_frozen, read_base, save_adapter, weights_sha256
from rv_train.backbones.running import DTYPES, FLASH, has_flash
from rv_train.backbones.tokenizer import token_id

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from rv_train.backbones.base import Family


BASE_COPY = "base"  # in a model folder: a copy of the frozen weights
BASE_VARIABLE = "VLA0_BASE"  # of the environment: where the weights below what was trained lie on this machine


def build_backbone(
    cfg: CfgNode,
    family: "Family",
    tokenizer: "PreTrainedTokenizerBase",
    weights: Path | None = None,
    device: torch.device | str | None = None,
    mapped: bool = False,
) -> "PreTrainedModel":
    """The library's model in the dtype of the config; frozen, with adapters or without, if it says so.

    Args:
        cfg: the config tree (MODEL, AMP).
        family: of MODEL.BACKBONE.
        tokenizer: gives vocabulary size and special ids for a random model.
        weights: folder that `save_weights` wrote; None follows MODEL.INIT.
        device: where weights of a folder go, tensor by tensor, so that the host never holds them all; None: the CPU.
        mapped: leave them in their files, in the dtype they have there: for `place`, module by module. Ranks of one
            machine share them so.

    Raises:
        BadInput: weights that cannot be found, or not those that something was trained over, or that know other ids
            than the tokenizer.
    """
    model = _build(cfg, family, tokenizer, weights, device, mapped)
    check_ids(cfg, family, tokenizer, model.config)
    return family.prepare(model)


def outline_backbone(
    cfg: CfgNode, family: "Family", tokenizer: "PreTrainedTokenizerBase", missing: list[str]
) -> "tuple[PreTrainedModel, str]":
    """The same without weights, on the meta device, where numbers have a shape and no bytes; and where its sizes are
    from.

    missing: list of lines, which gets one for weights that are not there.
    """
    config, origin = None, "MODEL.TEXT and MODEL.VISION"
    if cfg.MODEL.INIT == "pretrained":
        folder, has_weights = find_weights(cfg.MODEL.PATH)
        if not has_weights:
            nowhere = f"MODEL.PATH {cfg.MODEL.PATH} is neither a folder nor in the Hugging Face cache"
            here = folder or kind_of(cfg.MODEL.PATH) == "folder"
            missing.append(f"weights: {what_lacks(cfg.MODEL.PATH) if here else nowhere}")
        if folder:
            check_model_type(folder, family)
            config, origin = family.model_class().config_class.from_pretrained(folder), str(folder / "config.json")
    if config:
        check_ids(cfg, family, tokenizer, config)
    config = config or family.random_config(cfg, tokenizer)
    frozen = cfg.MODEL.LORA.RANK or cfg.MODEL.FREEZE
    dtype = DTYPES[cfg.AMP.frozen_dtype if frozen else cfg.AMP.param_dtype]
    attention = "sdpa" if cfg.MODEL.ATTENTION == FLASH else cfg.MODEL.ATTENTION
    with torch.device("meta"):
        model = family.model_class()._from_config(config, attn_implementation=attention, dtype=dtype)
        if frozen:
            check_targets(model, cfg.MODEL.LORA, family)
            try:
                attach(model, cfg, family, {"path": cfg.MODEL.PATH, "weights_sha256": ""})
            except BadInput:  # a package is missing, which the plan says
                model.requires_grad_(False)
    return family.prepare(model), origin


def _build(cfg, family, tokenizer, weights, device, mapped):
    attention = cfg.MODEL.ATTENTION
    if weights and attention == FLASH and not has_flash():
        attention = "sdpa"  # a saved model answers on any machine; training was refused by check_attention before
    if cfg.MODEL.LORA.RANK or cfg.MODEL.FREEZE:
        path = base_path(cfg, family, weights)
        if cfg.MODEL.QUANTIZE != "none":
            device = None  # packed layer by layer on the way there
        model = _load(path, family, attention, DTYPES[cfg.AMP.frozen_dtype], device, mapped)
        model.base_folder = find_weights(path)[0]
        of_a_copy = Path(path).name == BASE_COPY and weights
        origin = read_base(weights)["path"] if of_a_copy else path
        attach(model, cfg, family, {"path": origin, "weights_sha256": weights_sha256(model.base_folder)}, weights)
        return model
    dtype = DTYPES[cfg.AMP.param_dtype]
    if weights is None and cfg.MODEL.INIT == "random":
        config = family.random_config(cfg, tokenizer)
        return family.model_class()._from_config(config, attn_implementation=attention, dtype=dtype)
    return _load(weights or cfg.MODEL.PATH, family, attention, dtype, device, mapped)


def base_path(cfg: CfgNode, family: "Family", trained: Path | None = None) -> str:
    """Where the frozen weights are: MODEL.PATH. For a folder of what was trained over them its own copy (`copy_base`)
    comes first, and VLA0_BASE may name another place.

    Raises:
        BadInput: those of a saved folder are nowhere; without one `check_weights` has looked.
    """
    if trained is None:
        return cfg.MODEL.PATH
    copy = Path(trained) / BASE_COPY
    if is_model_folder(copy):
        return str(copy)
    path = os.environ.get(BASE_VARIABLE) or cfg.MODEL.PATH
    try:
        check_source(path, family)
    except BadInput as error:
        raise BadInput(
            f"{trained} needs the weights it was trained over; {error}. Put them there, or let the environment "
            f"variable {BASE_VARIABLE} name their folder"
        ) from error
    return path


def copy_base(backbone: "PreTrainedModel", folder: Path | str) -> None:
    """TRAIN.save_base: the files of the frozen weights go into a model folder, too; linked where that is possible."""
    target = Path(folder) / BASE_COPY
    target.mkdir()
    for path in (p for p in backbone.base_folder.iterdir() if p.suffix in (".json", ".safetensors")):
        link_or_copy(path, target / path.name)  # all checkpoints of a run share one copy


def save_weights(backbone: "PreTrainedModel", folder: Path | str) -> None:
    """What a training changes, into an existing folder: the model; of a frozen one its adapter and which it is."""
    if is_frozen(backbone):
        save_adapter(backbone, folder)
        return
    with without_progress_bars():
        backbone.save_pretrained(folder, safe_serialization=True)


def _load(path, family, attention, dtype, device, mapped):
    """The library's model with the weights of a folder, or of a hub name that is cached or will be downloaded.

    The library maps files into memory where nothing is to be cast: nothing is read then before it is used, and what is
    read all processes share. Weights to be cast are cast by `place`, except to bfloat16: some families want parts of
    theirs left alone there, which the library knows.
    """
    source = fetch_weights(path)
    if is_model_folder(source):
        check_model_type(source, family)
    try:
        with without_progress_bars():
            model, report = family.model_class().from_pretrained(
                source,
                attn_implementation=attention,
                dtype="auto" if dtype == torch.float32 else dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told, and refused below
            )
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"MODEL.PATH: cannot load weights from {source} ({first_line(error)}); give a folder that holds them, "
            "or train from scratch with MODEL.INIT random"
        ) from error
    # The library would fill what is missing with random numbers and say so in a warning.
    if missing := sorted(report["missing_keys"]):
        raise BadInput(f"MODEL.PATH: {source} lacks {len(missing)} weights of this model, the first is {missing[0]}")
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        raise BadInput(
            f"MODEL.PATH: {source} has {len(mismatched)} weights of other sizes than its config.json says, the first "
            f"is {name}: {tuple(stored)}, not {tuple(wanted)}"
        )
    model.dtype_in_use = dtype
    for config in (model.config, *(getattr(model.config, name) for name in model.config.sub_configs)):
        config.dtype = dtype
    return model if mapped else place(model, model, device)


def place(module: nn.Module, backbone: "PreTrainedModel", device: torch.device | str | None) -> nn.Module:
    """Bring a part of a backbone, or what is around it, to a device (None: leave it where it is), weights that were
    loaded in the dtype they are used in; in place, tensor by tensor. Returns the module."""
    dtype = getattr(backbone, "dtype_in_use", None)  # of random ones there is none: they are made as they are used
    loaded = {id(p) for p in backbone.parameters() if not (is_frozen(backbone) and p.requires_grad)} if dtype else set()
    for parameter in module.parameters():
        if isinstance(parameter, DTensor):  # placed before, with the layer that it belongs to
            continue
        wanted = dtype if id(parameter) in loaded and parameter.is_floating_point() else None
        parameter.data = parameter.data.to(device=device).to(dtype=wanted)  # cast there: the host never holds it wide
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device=device)
    return module


def check_ids(cfg: CfgNode, family: "Family", tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig") -> None:
    """BadInput where weights were trained with another vocabulary; they would train again, from worse than nothing.

    config: the library's, of the weights, which has the id of the image token.
    """
    known, given = config.image_token_id, token_id(tokenizer, family.chat.image)
    if known != given:
        raise BadInput(
            f"MODEL.TOKENIZER: {cfg.MODEL.TOKENIZER} writes {family.chat.image} as {given}, the weights of MODEL.PATH "
            f"{cfg.MODEL.PATH} know it as {known}: name the folder of the tokenizer that they were trained with"
        )


def check_weights(cfg: CfgNode, family: "Family") -> None:
    """BadInput if MODEL.INIT wants weights and MODEL.PATH has none: found out before anything is started."""
    if cfg.MODEL.INIT == "pretrained":
        check_source(cfg.MODEL.PATH, family)


def fetch_pretrained(cfg: CfgNode) -> None:
    """Download the weights of MODEL.INIT pretrained where MODEL.PATH is a name of the hub and they are not here yet.
    Before a tokenizer is loaded: theirs is found in the cache only, and another one might be taken meanwhile.

    Raises:
        BadInput: they cannot be had.
    """
    if cfg.MODEL.INIT == "pretrained":
        fetch_weights(cfg.MODEL.PATH)


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """The library draws a bar for every file it reads or writes; with several ranks they cut the console apart."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
