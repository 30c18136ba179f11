"""Qwen2.5-VL as a family of backbones."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rv_train.backbones.qwen.family import QwenFamily
from rv_train.backbones.qwen.vocabulary import load_vocabulary
from rv_train.backbones.qwen2_5_vl import cost, pictures, sizes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from rv_train.backbones.base import LayerParts


class Qwen2_5VL(QwenFamily):
    """See `rv_train.backbones.base.Family` for every name."""

    name, model_type = "qwen2_5_vl", "qwen2_5_vl"
    vocabulary_name = "qwen2.5"
    library = "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"
    patches = pictures.PATCHES
    defaults, tiny = sizes.DEFAULTS, sizes.TINY
    adapted = "(self_attn|mlp)"

    check = staticmethod(sizes.check)
    vocabulary = staticmethod(load_vocabulary)
    random_config = staticmethod(sizes.random_config)
    towers = staticmethod(cost.towers)

    def own(self) -> Mapping[type[object], type]:
        from rv_train.backbones.qwen2_5_vl.vision import OWN

        return OWN

    def see(self, visual: "PreTrainedModel", patches: "torch.Tensor", rows: int, columns: int) -> "ModelOutput":
        from rv_train.backbones.qwen2_5_vl.vision import see

        return see(visual, patches, rows, columns)

    def layer_parts(self, model: "PreTrainedModel") -> "list[LayerParts] | None":
        from transformers.activations import SiLUActivation
        from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as library

        from rv_train.backbones.layers import KnownClasses, read_layers

        known = KnownClasses(
            tower=library.Qwen2_5_VLTextModel,
            layer=library.Qwen2_5_VLDecoderLayer,
            attention=library.Qwen2_5_VLAttention,
            mlp=library.Qwen2MLP,
            norm=library.Qwen2_5_VLRMSNorm,
            rotary=library.Qwen2_5_VLRotaryEmbedding,
            act=(SiLUActivation,),
        )
        return read_layers(model, self.text(model), known)


FAMILY = Qwen2_5VL()
