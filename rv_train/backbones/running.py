"""How the library's models are run, whatever their family: attention, compiling, recomputing, hidden states."""

import contextlib
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from yacs.config import CfgNode

from libs.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rv_train.backbones.base import Embedded, Family
    from rv_train.backbones.prompt import PromptEncoder


FLASH = "flash_attention_2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def has_flash() -> bool:
    """Whether the package behind MODEL.ATTENTION flash_attention_2 is installed."""
    return importlib.util.find_spec("flash_attn") is not None


def check_attention(cfg: CfgNode, device: torch.device, amp: str) -> None:
    """Whether MODEL.ATTENTION can train here: found out before anything is started.

    flash_attention_2 needs nothing from the caller. The text tower gets no mask (padding stands on the right, attention
    is causal), so the plain causal kernel runs; the vision tower hands its windows over as cumulative lengths. The
    library looks for packed sequences (positions that start again within a row) only in *text* positions, which it
    expects as a fourth row in front of the three of `mrope_position_ids`; given three it looks for none. A fourth row
    must not be added: positions of a picture do not rise by one, and a batch of one sample would be taken for several.

    Args:
        device: torch.device of a rank.
        amp: AMP.mode as it is resolved for the device.

    Raises:
        BadInput: flash_attention_2 without its package, on a CPU, or without 16-bit numbers to multiply.
    """
    if cfg.MODEL.ATTENTION != FLASH:
        return
    instead = "or set MODEL.ATTENTION sdpa: PyTorch's own fused kernels, the same numbers"
    if not has_flash():
        raise BadInput(
            f"MODEL.ATTENTION {FLASH} needs flash-attn: pip install flash-attn --no-build-isolation, {instead}"
        )
    if device.type != "cuda":
        raise BadInput(f"MODEL.ATTENTION {FLASH} runs on GPUs only, this rank is on {device}; {instead}")
    if cfg.AMP.param_dtype == "float32" and amp == "off":
        raise BadInput(
            f"MODEL.ATTENTION {FLASH} multiplies 16-bit numbers only, AMP.mode {cfg.AMP.mode} over float32 parameters "
            f"gives it float32: set AMP.mode bf16, {instead}"
        )


def check_compiler(option: str = "TRAIN.compile") -> None:
    """BadInput if torch.compile finds no compiler for the C++ it writes; where there is a GPU, if Triton, which writes
    its kernels there, is missing or lacks what it builds its launchers with: a C compiler and Python's headers."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise BadInput(f"{option} needs a C++ compiler and finds no {compiler}: install it, or do without {option}")
    if not torch.cuda.is_available():
        return
    headers, missing = os.path.join(sysconfig.get_path("include"), "Python.h"), None
    if importlib.util.find_spec("triton") is None:
        missing = "the package triton (pip install triton)"
    elif not any(name and shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang")):
        missing = "a C compiler for Triton (apt-get install gcc)"
    elif not os.path.isfile(headers):
        missing = f"Python's headers for Triton, {headers} (apt-get install python3-dev)"
    if missing:
        raise BadInput(f"{option} on a GPU needs {missing}: install it, or do without {option}")


@contextlib.contextmanager
def without_flash(backbone: "PreTrainedModel") -> Iterator[None]:
    """Inside, flash_attention_2 gives way to sdpa, which takes float32, too: answering knows no autocast."""
    config = backbone.config
    flash = config._attn_implementation == FLASH
    if flash:
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        if flash:
            config._attn_implementation = FLASH


@contextlib.contextmanager
def answering(backbone: "PreTrainedModel", compiled: bool) -> Iterator[None]:
    """Inside, a model that may be in training is asked: without autocast, so `without_flash`, and eagerly. Layers that
    are `compiled` for training would be compiled once more for answering, with its cache; a run answers rarely."""
    eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    with without_flash(backbone), eager:
        yield


def embed(
    family: "Family", backbone: "PreTrainedModel", batch: Mapping[str, torch.Tensor], prompt: "PromptEncoder"
) -> "Embedded":
    """A batch `Embedded` for a prompt's PromptEncoder."""
    return family.embed(backbone, batch, prompt.image_id, prompt.pictures)


def hidden_states(
    family: "Family", backbone: "PreTrainedModel", batch: Mapping[str, torch.Tensor], prompt: "PromptEncoder"
) -> torch.Tensor:
    """Final hidden states of the text tower (B, L, D) for a batch of the prompt's PromptEncoder."""
    inputs = embed(family, backbone, batch, prompt).inputs
    # Padding stands on the right and attention is causal, so no mask is needed: no token before it sees it.
    return family.text(backbone)(**inputs, use_cache=False).last_hidden_state


def last_of(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(B, L, D) and lengths (B,) → each row's last real token (B, D)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]


def recompute_layers(backbone: "PreTrainedModel") -> None:
    """Gradient checkpointing: layers keep their inputs only and compute the rest again in the backward pass."""
    # As newer versions call it, which warn of the name before.
    renamed = getattr(backbone, "activation_checkpointing_enable", None)
    (renamed or backbone.gradient_checkpointing_enable)({"use_reentrant": False})
    # The library asks for gradients of pixels and words then, for reentrant checkpoints of adapted models. Others need
    # none, and with them the backward pass would go through what is frozen, the whole vision tower.
    backbone.disable_input_require_grads()


def compile_layers(family: "Family", backbone: "PreTrainedModel") -> None:
    """Compile the towers' layers, in place; names of weights stay as they are.

    Layer by layer, not the whole: the decoder layers run the same code, so one of them is compiled and all use it (a
    minute or two instead of many for 36 layers in one graph), gradient checkpointing stays outside around each layer,
    and DDP still sends the gradients of one layer while those of the next are computed. Sizes of batch and sequence are
    symbols: batches of other lengths run the same code. What does compile again is bounded: a batch of one sample, and
    validation, where no gradient is wanted.

    Raises:
        BadInput: no C++ compiler.
    """
    check_compiler()
    # Dynamo would cut each layer into DDP's buckets of 25 MB; the layers are the pieces already.
    torch._dynamo.config.optimize_ddp = False
    for module in family.compiled(backbone):
        module.compile(dynamic=True)  # not fullgraph: a kernel that breaks the graph costs speed, not the run


def use_own(model: "PreTrainedModel", kinds: Mapping[type[object], type], own: bool = True) -> "PreTrainedModel":
    """Let the modules of a model be of our classes, or of the library's again, in place; returns the model.

    Ours have no weights of their own, and no names that a checkpoint would know.

    Args:
        kinds: {our class: the library's}.
    """
    for ours, theirs in kinds.items():
        for module in model.modules():
            if type(module) in (ours, theirs):
                module.__class__ = ours if own else theirs
    return model
