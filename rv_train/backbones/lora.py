"""LoRA (Hu et al. 2021, arXiv:2106.09685): pretrained weights stay as they are, small matrices beside them are trained.

    W x   becomes   W x + alpha / rank * B A dropout(x)        A (rank, in) random, B (out, rank) zero at first

The adapter itself is peft's. Here stands which layers get one, how the frozen weights are held, and what goes to disk:

    adapter_model.safetensors, adapter_config.json    peft's own format; peft loads it without this repository
    base.json                                         the weights it was trained over: where they lay, their SHA-256
"""

import hashlib
import importlib.util
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from yacs.config import CfgNode

from libs.errors import BadInput, first_line
from libs.files import read_json_object
from rv_train.backbones.folders import BASE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rv_train.backbones.base import Family


ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
NAME = "default"  # peft's name for an adapter that has none
PREFIX = "base_model.model."  # how peft's files call the model that it wraps
NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256  # QLoRA (Dettmers et al. 2023): values that share a scale, scales that share one
NF4_TABLES = 4 * (16 + 256 + 1)  # per tensor: the 16 values, the 256 of a scale, an offset; float32


def target_pattern(lora: CfgNode, family: "Family") -> str:
    """Regular expression for the whole name of every layer that gets an adapter.

    Bare names, as in `target_modules=["gate_proj", ...]`, match in the vision tower, too, where it calls its layers so;
    MODEL.LORA.VISION True is that.
    """
    towers = f"({family.text_layers}|{family.vision_layers})" if lora.VISION else family.text_layers
    return rf"model\.{towers}\.\d+\.{family.adapted}\.({'|'.join(lora.TARGETS)})"


def check_targets(backbone: "PreTrainedModel", lora: CfgNode, family: "Family") -> None:
    """BadInput where no layer has a name of MODEL.LORA.TARGETS: those of the vision tower alone, without VISION."""
    pattern = target_pattern(lora, family)
    if lora.RANK and not any(re.fullmatch(pattern, name) for name, _ in backbone.named_modules()):
        raise BadInput(
            f"MODEL.LORA.TARGETS {list(lora.TARGETS)} name no layer of the text tower: set MODEL.LORA.VISION True for "
            "the vision tower's, or name others"
        )


def check_packages(model: CfgNode) -> None:
    """BadInput if MODEL asks for a package that is not there: found out before anything is started."""
    if model.LORA.RANK and importlib.util.find_spec("peft") is None:
        raise BadInput("MODEL.LORA needs the package peft: pip install -e '.[lora]'")
    if model.QUANTIZE != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise BadInput(f"MODEL.QUANTIZE {model.QUANTIZE} needs the package bitsandbytes: pip install bitsandbytes")


def attach(
    backbone: "PreTrainedModel",
    cfg: CfgNode,
    family: "Family",
    base: Mapping[str, str],
    adapter: Path | str | None = None,
) -> None:
    """Freeze a model, quantize it where MODEL.QUANTIZE says so, and put MODEL.LORA beside its linear layers, in place.

    Quantized weights are packed when the model is moved to its device, `.to("cpu")` included; it does not run before.

    Args:
        backbone: the library's model with its weights, on the CPU; or an outline of it on the meta device.
        cfg: the config tree (MODEL, AMP.param_dtype: of the adapter).
        family: of the model.
        base: {"path", "weights_sha256"} of those weights.
        adapter: folder that `save_adapter` wrote; None starts one, drawn from PyTorch's generator.

    Raises:
        BadInput: a package is missing; no layer gets an adapter; the saved one was trained over other weights or does
            not fit this model.
    """
    check_packages(cfg.MODEL)
    check_targets(backbone, cfg.MODEL.LORA, family)
    if adapter:
        check_base(adapter, base)
    backbone.requires_grad_(False)
    backbone.frozen_base = dict(base)
    if cfg.MODEL.QUANTIZE == "nf4":
        quantize(backbone, family)
    if not cfg.MODEL.LORA.RANK:  # MODEL.FREEZE
        return
    quiet_bitsandbytes()  # peft imports it where it is installed
    import peft  # takes seconds, and brings others along

    lora = cfg.MODEL.LORA
    config = peft.LoraConfig(
        r=lora.RANK,
        lora_alpha=lora.ALPHA,
        lora_dropout=lora.DROPOUT,
        target_modules=target_pattern(lora, family),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base["path"],
    )
    peft.inject_adapter_in_model(config, backbone, NAME)
    dtype = getattr(torch, cfg.AMP.param_dtype)
    for parameter in backbone.parameters():
        if parameter.requires_grad:  # peft's only; they come in the dtype of the weights beside them
            parameter.data = parameter.data.to(dtype)
    if adapter:
        _load_adapter(backbone, Path(adapter))


def is_frozen(backbone: "PreTrainedModel") -> bool:
    """Whether the weights themselves stay as they are, with an adapter beside them or without."""
    return hasattr(backbone, "frozen_base")


def has_adapter(backbone: "PreTrainedModel") -> bool:
    return hasattr(backbone, "peft_config")


def is_adapter_folder(folder: Path | str) -> bool:
    return all((Path(folder) / name).is_file() for name in (ADAPTER, ADAPTER_CONFIG, BASE))


def save_adapter(backbone: "PreTrainedModel", folder: Path | str) -> None:
    """Write what was trained beside frozen weights, and which they are, into an existing folder."""
    folder = Path(folder)
    (folder / BASE).write_text(json.dumps(backbone.frozen_base, indent=1) + "\n")
    if not has_adapter(backbone):
        return
    state = {PREFIX + name: weight.detach().contiguous() for name, weight in _matrices(backbone).items()}
    save_file(state, folder / ADAPTER, {"format": "pt"})
    backbone.peft_config[NAME].save_pretrained(folder)


def read_base(adapter: Path | str) -> dict[str, str]:
    """{"path", "weights_sha256"} of the weights that a saved adapter was trained over."""
    path = Path(adapter) / BASE
    base = read_json_object(path)
    missing = [key for key in ("path", "weights_sha256") if not isinstance(base.get(key), str)]
    if missing:
        raise BadInput(f"{path} does not say which weights the adapter was trained over (no {missing[0]!r})")
    return {key: base[key] for key in ("path", "weights_sha256")}


def check_base(adapter: Path | str, base: Mapping[str, str]) -> None:
    """BadInput where a saved adapter was trained over other weights than these."""
    wanted = read_base(adapter)
    if wanted["weights_sha256"] != base["weights_sha256"]:
        raise BadInput(
            f"{adapter} was trained over weights of sha256 {wanted['weights_sha256'][:16]}…, then at {wanted['path']}; "
            f"those at {base['path']} have {base['weights_sha256'][:16]}…: MODEL.PATH must name the ones it belongs to"
        )


def weights_sha256(folder: Path | str) -> str:
    """SHA-256 over the weights of a folder, its *.safetensors one after another."""
    total = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                total.update(block)
    return total.hexdigest()


def merge(backbone: "PreTrainedModel") -> None:
    """Add the adapters to the weights beside them, in place: an ordinary model again. Not for quantized weights."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(backbone.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)  # a NaN is an error
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, module.get_base_layer())
    del backbone.peft_config, backbone.frozen_base


# ------------------------------------------------------------------------------------------------ four bits


def quiet_bitsandbytes() -> None:
    """Call before bitsandbytes is imported: on some CPUs it warns that a package for fast 4-bit products is missing."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def is_quantized(name: str, parameter: torch.Tensor, family: "Family") -> bool:
    """Whether MODEL.QUANTIZE covers a parameter: weights of the linear layers of the text tower, whatever they are
    called. Embeddings (the 3B model's head), norms, biases, adapters and the vision tower stay as they are."""
    inside = re.search(rf"{family.text_layers}\.\d+\..+\.weight$", name)
    return inside is not None and parameter.dim() == 2 and ".lora_" not in name


def quantize(backbone: "PreTrainedModel", family: "Family") -> None:
    """Replace the linear layers of the text tower by bitsandbytes' 4-bit ones, in place."""
    import bitsandbytes as bnb

    text = family.text(backbone)
    for name, module in list(text.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        options: dict[str, Any] = {"compress_statistics": True, "quant_type": "nf4"}
        dtype, has_bias = module.weight.dtype, module.bias is not None
        layer = bnb.nn.Linear4bit(module.in_features, module.out_features, has_bias, dtype, **options, device="meta")
        layer.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, **options, module=layer)
        layer.bias = module.bias
        # Where a CPU has AVX512-BF16, bitsandbytes 0.50 packs the weights anew at the first answer, coarser scales
        # included; the model answers differently then, and no gradient goes through it any more.
        layer.support_avx512bf16_for_cpu = False
        parent, _, child = name.rpartition(".")
        setattr(text.get_submodule(parent), child, layer)
    backbone.is_loaded_in_4bit = True  # peft asks


def nf4_bytes(numbers: int) -> int:
    """Bytes of a quantized tensor: half a byte per value, a byte per scale, float32 for the scales of the scales."""
    blocks = -(-numbers // NF4_BLOCK)
    return -(-numbers // 2) + blocks + 4 * -(-blocks // NF4_NESTED_BLOCK) + NF4_TABLES


# ------------------------------------------------------------------------------------------------ counting


def num_values(parameter: torch.Tensor) -> int:
    """Values that a parameter stands for: a packed one has fewer bytes than values."""
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else parameter.numel()


def is_seen(name: str, family: "Family") -> bool:
    """Whether a parameter belongs to the vision tower."""
    return f"model.{family.vision_tower}." in name


def adapter_sizes(parameters: Iterable[tuple[str, nn.Parameter]], family: "Family") -> tuple[int, int] | None:
    """(text, vision) weights of the adapters among (name, parameter) pairs; None where there are none."""
    found = [(is_seen(name, family), p.numel()) for name, p in parameters if ".lora_" in name]
    text, vision = (sum(count for seen, count in found if seen == wanted) for wanted in (False, True))
    return (text, vision) if found else None


# ------------------------------------------------------------------------------------------------ matrices


def _matrices(backbone):
    """{name as in peft's files, without its prefix: parameter} of the adapter."""
    named = ((name, parameter) for name, parameter in backbone.named_parameters() if ".lora_" in name)
    return {name.replace(f".{NAME}.", "."): parameter for name, parameter in named}


def _load_adapter(backbone, folder):
    try:
        state = load_file(folder / ADAPTER)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{folder / ADAPTER} cannot be read: {first_line(error)}") from error
    state = {name.removeprefix(PREFIX): value for name, value in state.items()}
    mine = _matrices(backbone)
    wrong = sorted(mine.keys() ^ state.keys()) or [name for name in mine if mine[name].shape != state[name].shape]
    if wrong:
        raise BadInput(f"{folder / ADAPTER} does not fit MODEL.LORA, as {wrong[0]} shows")
    with torch.no_grad():
        for name, weight in mine.items():
            weight.copy_(state[name])
