"""Qwen3-VL's own modules: its vision tower's attention and patches, and where the text tower adds deep features.

All have the library's weights and names, see `rv_train.backbones.qwen.vision`.
"""

from transformers.models.qwen3_vl import modeling_qwen3_vl as library

from rv_train.backbones.patches import true_places
from rv_train.backbones.qwen.vision import PatchProduct, PiecesAtOnce


class VisionAttention(PiecesAtOnce, library.Qwen3VLVisionAttention):
    """All pictures in one call, where they are equally large."""

    rotate = staticmethod(library.apply_rotary_pos_emb_vision)
    eager = staticmethod(library.eager_attention_forward)


class PatchEmbed(PatchProduct, library.Qwen3VLVisionPatchEmbed):
    """By a product."""


class TextModel(library.Qwen3VLTextModel):
    """Features of deeper vision layers are added without asking the device where pictures are, six times a pass."""

    def _deepstack_process(self, hidden_states, visual_pos_masks, visual_embeds):
        """hidden_states (B, L, D) with visual_embeds (image tokens, D) added where visual_pos_masks (B, L) is True."""
        places = true_places(visual_pos_masks, len(visual_embeds))
        return hidden_states.index_put(places, visual_embeds.to(hidden_states.dtype), accumulate=True)


OWN = {
    VisionAttention: library.Qwen3VLVisionAttention,
    PatchEmbed: library.Qwen3VLVisionPatchEmbed,
    TextModel: library.Qwen3VLTextModel,
}
