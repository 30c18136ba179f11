"""What policies share, so that each writes what is its own: a backbone that looks and reads, and weights beside it.

Nobody has to use it; what a policy must do is written in `rv_train.policies.base`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones.cost import TrainingFlops
from rv_train.backbones.folders import EXPERT
from rv_train.backbones.loading import save_weights
from rv_train.backbones.lora import adapter_sizes
from rv_train.backbones.running import compile_layers, hidden_states, last_of, recompute_layers, without_flash
from rv_train.data.sources import SOURCES, find_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rv_train.backbones.base import Family
    from rv_train.backbones.prompt import PromptEncoder


class OverBackbone(nn.Module):
    """A backbone, and the methods of a Policy that concern it alone. A policy adds what it has beside the backbone, and
    overrides `condition` where its answer is computed from more than the prompt's last hidden state.

    learns_to_see: something of the backbone is trained. compiled: the training step is.

    Args:
        backbone: the library's model; what of it takes gradients is trained.
        family: of the backbone.
        prompt: a PromptEncoder; only its ids are used here.
        writes: the answer is written by the backbone's head; False: an untied head is then not trained.
    """

    def __init__(
        self, backbone: "PreTrainedModel", family: "Family", prompt: "PromptEncoder", writes: bool = False
    ) -> None:
        super().__init__()
        self.backbone, self.family, self.prompt = backbone, family, prompt
        if not writes and not backbone.config.tie_word_embeddings:  # a tied head is the input's embedding
            backbone.get_output_embeddings().requires_grad_(False)
        self.learns_to_see = any(p.requires_grad for p in backbone.parameters())
        self.compiled = False

    def save(self, folder: Path | str) -> None:
        """Write what a training changes of the backbone into an existing folder, for `weights` of `from_cfg`."""
        save_weights(self.backbone, folder)

    def hidden(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Final hidden states of the text tower, (B, L, D)."""
        return hidden_states(self.family, self.backbone, batch, self.prompt)

    @torch.no_grad()
    def condition(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What an answer is computed from: the hidden state behind the open prompt, (B, D) float32."""
        with without_flash(self.backbone):
            return last_of(self.hidden(batch), batch["lengths"]).float()

    def recompute_activations(self) -> None:
        """Gradient checkpointing in the backbone, where it is trained."""
        if self.learns_to_see:
            recompute_layers(self.backbone)

    def compile(self) -> None:
        """Compile the training step, in place: call it before DDP wraps the model. `predict` runs uncompiled.

        Raises:
            BadInput: no C++ compiler.
        """
        compile_layers(self.family, self.backbone)
        self.compiled = True

    def backbone_flops(self) -> TrainingFlops:
        """Operations of the backbone alone, for `flops`."""
        towers = self.family.towers(self.backbone.config, self.prompt.pictures)
        adapters = adapter_sizes(self.backbone.named_parameters(), self.family)
        return TrainingFlops(towers, self.prompt.pictures, adapters, frozen=not self.learns_to_see)


def check_numbers(cfg: CfgNode, instead: str = "") -> None:
    """BadInput where a policy that learns from numbers is given what is made for integers.

    Args:
        cfg: the config tree.
        instead: what this policy has in place of ACTION.RANGE, to be told.
    """
    name = cfg.MODEL.NAME
    if not find_source(cfg.DATA.SOURCE).NUMBERS:
        able = " or ".join(source for source in SOURCES if find_source(source).NUMBERS)
        raise BadInput(
            f"DATA.SOURCE {cfg.DATA.SOURCE} holds actions as integers; MODEL.NAME {name} trains on DATA.SOURCE {able}"
        )
    if cfg.ACTION.RANGE != "min_max":
        raise BadInput(
            f"ACTION.RANGE {cfg.ACTION.RANGE} is what integers are spread over, and MODEL.NAME {name} writes none: "
            f"leave it min_max{instead}"
        )


def save_own(module: nn.Module, folder: Path | str) -> None:
    """Weights beside the backbone's, into an existing folder: the file by which a checkpoint is known to have some."""
    state: dict[str, Any] = {name: value.detach().contiguous() for name, value in module.state_dict().items()}
    save_file(state, Path(folder) / EXPERT, {"format": "pt"})


def load_own(module: nn.Module, folder: Path | str, what: str) -> None:
    """Weights that `save_own` wrote; BadInput, saying `what` is missing, where they cannot be read or are of other
    sizes."""
    path = Path(folder) / EXPERT
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInput(f"{path} is no {what}: {str(error).splitlines()[-1].strip()}") from None
