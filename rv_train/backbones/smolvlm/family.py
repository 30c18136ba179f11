"""SmolVLM2 as a family of backbones."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones.base import Embedded, LayerParts, Pictures, TextTower, VisionTower
from rv_train.backbones.patches import place_pictures
from rv_train.backbones.smolvlm import cost, pictures, sizes
from rv_train.backbones.smolvlm.chat import SmolChat
from rv_train.backbones.smolvlm.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class SmolVLM:
    """See `rv_train.backbones.base.Family` for every name."""

    name, model_type = "smolvlm", "smolvlm"
    vocabulary_name = "smollm2"
    chat = SmolChat()
    defaults, tiny = sizes.DEFAULTS, sizes.TINY
    text_layers, vision_layers = r"text_model\.layers", r"vision_model\.encoder\.layers"
    adapted, vision_tower = "(self_attn|mlp)", "vision_model"
    reference_packages = ("torchvision", "num2words")

    check = staticmethod(sizes.check)
    vocabulary = staticmethod(load_vocabulary)
    processor_files = staticmethod(pictures.processor_files)
    random_config = staticmethod(sizes.random_config)

    def grid(self, vision: CfgNode, height: int, width: int) -> tuple[int, int, int]:
        return pictures.grid(vision.PATCH, vision.SHUFFLE, vision.PICTURE, height, width)

    def processor(self, tokenizer: "PreTrainedTokenizerBase", shown: Pictures) -> Any:
        return pictures.processor(tokenizer, shown, self.chat.template)

    def read_images(self, messages: Sequence[Mapping[str, Any]], shown: Pictures) -> Sequence[Any]:
        return pictures.read_images(messages)

    def model_class(self) -> "type[PreTrainedModel]":
        from transformers import SmolVLMForConditionalGeneration

        return SmolVLMForConditionalGeneration

    def prepare(self, model: "PreTrainedModel") -> "PreTrainedModel":
        from rv_train.backbones.running import use_own
        from rv_train.backbones.smolvlm.modules import OWN

        return use_own(model, OWN)

    def text(self, model: "PreTrainedModel") -> "PreTrainedModel":
        return model.model.text_model

    def embed(
        self, model: "PreTrainedModel", batch: Mapping[str, torch.Tensor], image_id: int, shown: Pictures
    ) -> Embedded:
        from rv_train.backbones.smolvlm.vision import picture_features

        _check_cut(model.config, shown)
        ids, patch = batch["input_ids"], model.config.vision_config.patch_size
        dtype = model.model.vision_model.dtype
        if "pixel_values" in batch:  # DATA.PREPROCESS reference: (B, N, 3, S, S)
            patches = pictures.cut(batch["pixel_values"].flatten(0, 1), patch).to(dtype)
        else:
            patches = pictures.image_patches(batch["images"].flatten(0, 1), patch, dtype)
        features = picture_features(model.model, patches, shown.height // patch)
        embeds = place_pictures(self.text(model).embed_tokens(ids), ids, image_id, features, shown)
        return Embedded(embeds, torch.arange(ids.shape[1], device=ids.device).expand_as(ids))

    def layer_parts(self, model: "PreTrainedModel") -> list[LayerParts] | None:
        from transformers.activations import SiLUActivation
        from transformers.models.llama import modeling_llama as library

        from rv_train.backbones.layers import KnownClasses, read_layers
        from rv_train.backbones.smolvlm.modules import TextModel

        known = KnownClasses(
            tower=TextModel,
            layer=library.LlamaDecoderLayer,
            attention=library.LlamaAttention,
            mlp=library.LlamaMLP,
            norm=library.LlamaRMSNorm,
            rotary=library.LlamaRotaryEmbedding,
            act=(SiLUActivation,),
        )
        return read_layers(model, self.text(model), known)

    def compiled(self, model: "PreTrainedModel") -> list[nn.Module]:
        return [*self.text(model).layers, *model.model.vision_model.encoder.layers]

    def towers(self, config: "PretrainedConfig", shown: Pictures) -> tuple[TextTower, VisionTower]:
        _check_cut(config, shown)
        return cost.towers(config, shown)


def _check_cut(config, shown):
    """BadInput where the weights cut pictures differently from MODEL.VISION."""
    vision = config.vision_config
    patch, shuffle, picture = vision.patch_size, config.scale_factor, vision.image_size
    keys = {"PATCH": patch, "SHUFFLE": shuffle, "PICTURE": picture}
    try:
        seen = pictures.grid(patch, shuffle, picture, shown.height, shown.width)
        same = seen == (shown.rows, shown.columns, shown.patches)
    except BadInput:
        same = False
    if not same:
        raise BadInput(
            "the weights at MODEL.PATH cut pictures differently: set "
            + " ".join(f"MODEL.VISION.{name} {value}" for name, value in keys.items())
            + f" and IMAGE.SIZE {vision.image_size}"
        )


FAMILY = SmolVLM()
