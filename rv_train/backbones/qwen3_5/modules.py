"""Qwen3.5's own modules, of its vision tower: with the library's weights and names, see
`rv_train.backbones.qwen.vision`."""

from transformers.models.qwen3_5 import modeling_qwen3_5 as library

from rv_train.backbones.qwen.vision import PatchProduct, PiecesAtOnce


class VisionAttention(PiecesAtOnce, library.Qwen3_5VisionAttention):
    """All pictures in one call, where they are equally large."""

    rotate = staticmethod(library.apply_rotary_pos_emb_vision)
    eager = staticmethod(library.eager_attention_forward)


class PatchEmbed(PatchProduct, library.Qwen3_5VisionPatchEmbed):
    """By a product."""


OWN = {VisionAttention: library.Qwen3_5VisionAttention, PatchEmbed: library.Qwen3_5VisionPatchEmbed}
