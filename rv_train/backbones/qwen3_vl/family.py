"""Qwen3-VL as a family of backbones."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rv_train.backbones.qwen.family import QwenFamily
from rv_train.backbones.qwen3_vl import cost, sizes
from rv_train.backbones.qwen3_vl.vocabulary import NAME, load_vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from rv_train.backbones.base import LayerParts


class Qwen3VL(QwenFamily):
    """See `rv_train.backbones.base.Family` for every name."""

    name, model_type = "qwen3_vl", "qwen3_vl"
    vocabulary_name = NAME
    library = "Qwen3VLForConditionalGeneration", "Qwen3VLProcessor", "Qwen3VLVideoProcessor"
    patches = sizes.PATCHES
    defaults, tiny = sizes.DEFAULTS, sizes.TINY

    check = staticmethod(sizes.check)
    vocabulary = staticmethod(load_vocabulary)
    random_config = staticmethod(sizes.random_config)
    towers = staticmethod(cost.towers)

    def own(self) -> Mapping[type[object], type]:
        from rv_train.backbones.qwen3_vl.modules import OWN

        return OWN

    def deeper(self, seen: "ModelOutput", is_image: "torch.Tensor") -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
        return {"visual_pos_masks": is_image}, {"deepstack_visual_embeds": seen.deepstack_features}

    def layer_parts(self, model: "PreTrainedModel") -> "list[LayerParts] | None":
        from transformers.activations import SiLUActivation
        from transformers.models.qwen3_vl import modeling_qwen3_vl as library

        from rv_train.backbones.layers import KnownClasses, read_layers
        from rv_train.backbones.qwen3_vl.modules import TextModel

        known = KnownClasses(
            tower=TextModel,
            layer=library.Qwen3VLTextDecoderLayer,
            attention=library.Qwen3VLTextAttention,
            mlp=library.Qwen3VLTextMLP,
            norm=library.Qwen3VLTextRMSNorm,
            rotary=library.Qwen3VLTextRotaryEmbedding,
            act=(SiLUActivation,),
        )
        return read_layers(model, self.text(model), known)


FAMILY = Qwen3VL()
