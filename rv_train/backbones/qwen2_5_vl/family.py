"""Qwen2.5-VL as a family of backbones."""

from rv_train.backbones.base import Embedded
from rv_train.backbones.patches import mrope_position_ids, place_pictures
from rv_train.backbones.qwen2_5_vl import cost, pictures, sizes
from rv_train.backbones.qwen2_5_vl.chat import QwenChat
from rv_train.backbones.qwen2_5_vl.vocabulary import load_vocabulary


class Qwen2_5VL:
    """See `rv_train.backbones.base.Family` for every name."""

    name, model_type = "qwen2_5_vl", "qwen2_5_vl"
    vocabulary_name = "qwen2.5"
    chat = QwenChat()
    defaults, tiny = sizes.DEFAULTS, sizes.TINY
    text_layers, vision_layers = r"language_model\.layers", r"visual\.blocks"
    adapted, vision_tower = "(self_attn|mlp)", "visual"

    check = staticmethod(sizes.check)
    vocabulary = staticmethod(load_vocabulary)
    grid = staticmethod(pictures.PATCHES.grid)
    processor_settings = staticmethod(pictures.processor_settings)
    random_config = staticmethod(sizes.random_config)
    towers = staticmethod(cost.towers)

    def processor(self, tokenizer, shown):
        return pictures.processor(tokenizer, shown, self.chat.template)

    def read_images(self, messages, shown):
        return pictures.read_images(messages, shown)

    def model_class(self):
        from transformers import Qwen2_5_VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration

    def prepare(self, model):
        from rv_train.backbones.qwen2_5_vl.vision import use_own_vision

        return use_own_vision(model)

    def text(self, model):
        return model.model.language_model

    def embed(self, model, batch, image_id, shown):
        from rv_train.backbones.qwen2_5_vl.vision import picture_features

        visual, ids = model.model.visual, batch["input_ids"]
        if "pixel_values" in batch:  # DATA.PREPROCESS reference: cut into patches by the library's processor
            patches = batch["pixel_values"].to(visual.dtype)
        else:
            patches, _ = pictures.image_patches(batch["images"].flatten(0, 1), visual.dtype)
        merge = pictures.PATCHES.merge
        features = picture_features(visual, patches, merge * shown.rows, merge * shown.columns)
        embeds = place_pictures(self.text(model).embed_tokens(ids), ids, image_id, features)
        return Embedded(embeds, mrope_position_ids(ids, image_id, shown.rows, shown.columns))

    def layer_parts(self, model):
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

    def compiled(self, model):
        """All of a text layer; of the vision tower only the MLPs, two thirds of its work: its attention reads the
        lengths of the windows back into Python, which cuts a graph apart and compiles it again for every number of
        pictures."""
        return [*self.text(model).layers, *(block.mlp for block in model.model.visual.blocks)]


FAMILY = Qwen2_5VL()
