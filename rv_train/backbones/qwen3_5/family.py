"""Qwen3.5 as a family of backbones."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rv_train.backbones.qwen.family import QwenFamily
from rv_train.backbones.qwen3_5 import cost, sizes
from rv_train.backbones.qwen3_5.chat import ThinkingChat
from rv_train.backbones.qwen3_5.vocabulary import NAME, load_vocabulary
from rv_train.backbones.qwen3_vl.sizes import PATCHES

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Qwen3_5(QwenFamily):
    """See `rv_train.backbones.base.Family` for every name."""

    name, model_type = "qwen3_5", "qwen3_5"
    vocabulary_name = NAME
    chat = ThinkingChat()
    library = "Qwen3_5ForConditionalGeneration", "Qwen3VLProcessor", "Qwen3VLVideoProcessor"
    patches = PATCHES
    defaults, tiny = sizes.DEFAULTS, sizes.TINY
    adapted = "(self_attn|linear_attn|attn|mlp)"

    check = staticmethod(sizes.check)
    vocabulary = staticmethod(load_vocabulary)
    random_config = staticmethod(sizes.random_config)
    towers = staticmethod(cost.towers)

    def own(self) -> Mapping[type[object], type]:
        from rv_train.backbones.qwen3_5.modules import OWN

        return OWN

    def layer_parts(self, model: "PreTrainedModel") -> None:
        """None: most layers carry a state from token to token, the others have a gate and other norms."""
        return None

    def compiled(self, model: "PreTrainedModel") -> "list[nn.Module]":
        """Of both towers only the MLPs: linear attention runs over chunks of the sequence, whose number a graph would
        be compiled for."""
        return [layer.mlp for tower in (self.text(model).layers, model.model.visual.blocks) for layer in tower]


FAMILY = Qwen3_5()
