"""Qwen3-VL as a family of backbones."""

from rv_train.backbones.base import Embedded
from rv_train.backbones.patches import image_patches, mrope_position_ids, place_pictures
from rv_train.backbones.qwen.chat import QwenChat
from rv_train.backbones.qwen.pictures import read_images
from rv_train.backbones.qwen3_vl import cost, pictures, sizes
from rv_train.backbones.qwen3_vl.vocabulary import NAME, load_vocabulary


class Qwen3VL:
    """See `rv_train.backbones.base.Family` for every name."""

    name, model_type = "qwen3_vl", "qwen3_vl"
    vocabulary_name = NAME
    chat = QwenChat()
    defaults, tiny = sizes.DEFAULTS, sizes.TINY
    text_layers, vision_layers = r"language_model\.layers", r"visual\.blocks"
    adapted, vision_tower = "(self_attn|attn|mlp)", "visual"

    check = staticmethod(sizes.check)
    vocabulary = staticmethod(load_vocabulary)
    grid = staticmethod(pictures.PATCHES.grid)
    processor_settings = staticmethod(pictures.processor_settings)
    random_config = staticmethod(sizes.random_config)
    towers = staticmethod(cost.towers)

    def processor(self, tokenizer, shown):
        return pictures.processor(tokenizer, shown, self.chat.template)

    def read_images(self, messages, shown):
        return read_images(messages, shown, pictures.PATCHES)

    def model_class(self):
        from transformers import Qwen3VLForConditionalGeneration

        return Qwen3VLForConditionalGeneration

    def prepare(self, model):
        from rv_train.backbones.qwen3_vl.vision import use_own_modules

        return use_own_modules(model)

    def text(self, model):
        return model.model.language_model

    def embed(self, model, batch, image_id, shown):
        from rv_train.backbones.qwen.vision import seen

        visual, ids = model.model.visual, batch["input_ids"]
        if "pixel_values" in batch:  # DATA.PREPROCESS reference: cut into patches by the library's processor
            patches = batch["pixel_values"].to(visual.dtype)
        else:
            patches, _ = image_patches(batch["images"].flatten(0, 1), pictures.PATCHES, visual.dtype)
        merge = pictures.PATCHES.merge
        features = seen(visual, patches, merge * shown.rows, merge * shown.columns)
        embeds = place_pictures(self.text(model).embed_tokens(ids), ids, image_id, features.pooler_output)
        positions = mrope_position_ids(ids, image_id, shown.rows, shown.columns)
        deeper = {"deepstack_visual_embeds": features.deepstack_features}
        return Embedded(embeds, positions, {"visual_pos_masks": ids == image_id}, deeper)

    def layer_parts(self, model):
        from transformers.activations import SiLUActivation
        from transformers.models.qwen3_vl import modeling_qwen3_vl as library

        from rv_train.backbones.layers import KnownClasses, read_layers
        from rv_train.backbones.qwen3_vl.vision import TextModel

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

    def compiled(self, model):
        """All of a text layer; of the vision tower only the MLPs, as of Qwen2.5-VL."""
        return [*self.text(model).layers, *(block.mlp for block in model.model.visual.blocks)]


FAMILY = Qwen3VL()
