"""The library's vision tower over pictures that all have one size: the same numbers, with less around them.

The library reads the sizes of the pictures back from the device in every pass, finds the windows anew, and attends to
one window after the other: 64 of them in 28 layers for a batch of 8 of the published recipe. Here what follows from the
sizes is computed once and kept, and windows of one length are a batch. Patches are embedded by a matrix product, which
is what a convolution with the patch as its kernel is. Both are the library's numbers up to the order of sums, which
differs on some processors.
"""

import functools

import torch
import torch.nn.functional as F
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as library
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

from rv_train.backbones.running import FLASH


class VisionAttention(library.Qwen2_5_VLVisionAttention):
    """All windows in one call, where they are equally long and the kernel is not one that takes their lengths."""

    def forward(self, hidden_states, cu_seqlens, position_embeddings=None, max_seqlen=None, **kwargs):
        """As in the library; hidden_states (patches, D), cu_seqlens the ends of the windows."""
        kind = self.config._attn_implementation
        lengths = {} if kind == FLASH else set(cu_seqlens.diff().tolist())
        if len(lengths) != 1:
            return super().forward(hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs)
        number = len(hidden_states)
        qkv = self.qkv(hidden_states).reshape(number, 3, self.num_heads, -1).permute(1, 0, 2, 3)
        query, key = library.apply_rotary_pos_emb_vision(qkv[0], qkv[1], *position_embeddings)
        windows = (
            x.unflatten(0, (-1, *lengths)).transpose(1, 2) for x in (query, key, qkv[2])
        )  # (windows, heads, w, d)
        attend = library.ALL_ATTENTION_FUNCTIONS.get_interface(kind, library.eager_attention_forward)
        attended, _ = attend(
            self, *windows, attention_mask=None, scaling=self.scaling, dropout=0.0, is_causal=False, **kwargs
        )
        return self.proj(attended.reshape(number, -1))


class PatchEmbed(library.Qwen2_5_VisionPatchEmbed):
    """A three-dimensional convolution costs several times the product that it is here, on a CPU."""

    def forward(self, hidden_states):
        """As in the library; hidden_states (patches, 1176) → (patches, D)."""
        weight = self.proj.weight
        return F.linear(hidden_states.to(weight.dtype), weight.flatten(1))


def use_own_vision(backbone, own=True):
    """Give the vision tower of a Qwen2_5_VLForConditionalGeneration these modules, or its own ones back, in place.

    They have no weights of their own, and no names that a checkpoint would know. Returns the backbone.
    """
    for ours in (VisionAttention, PatchEmbed):
        theirs = ours.__base__
        for module in backbone.model.visual.modules():
            if isinstance(module, theirs):
                module.__class__ = ours if own else theirs
    return backbone


def picture_features(visual, patches, rows, columns):
    """What the tower makes of pictures of one size: (image tokens, D).

    Args:
        visual: Qwen2_5_VisionTransformerPretrainedModel.
        patches: (P * rows * columns, 1176) of P pictures.
        rows, columns: patches of a picture, vertically and horizontally.
    """
    number, config = len(patches) // (rows * columns), visual.config
    sizes = (config.spatial_merge_size, config.window_size, config.patch_size)
    flash = config._attn_implementation == FLASH
    layout = _layout(number, rows, columns, *sizes, patches.device, flash)
    grid = torch.tensor([[1, rows, columns]]).expand(number, 3)
    return visual(patches, grid_thw=grid, **layout).pooler_output


@functools.lru_cache(maxsize=16)  # a run has one size of batch, an evaluation one for each number of rows
@torch.inference_mode(False)  # what is kept may be met by a training step next
def _layout(number, rows, columns, merge, window, patch, device, flash):
    """What the tower would compute from the sizes of the pictures, by the library's own functions.

    Ends of windows stay on the CPU, where the library's loop and `VisionAttention` read them without waiting for the
    device; the kernels of flash-attn want them there, and their longest as a number.
    """
    grid = torch.tensor([[1, rows, columns]]).expand(number, 3)
    index, window_ends = get_vision_window_index(grid, spatial_merge_size=merge, window_size=window, patch_size=patch)
    ends = get_vision_cu_seqlens(grid)
    layout = {
        "position_ids": get_vision_position_ids(grid, merge).to(device),
        "window_index": index.to(device),
        "cu_seqlens": ends.to(device) if flash else ends,
        "cu_window_seqlens": window_ends.to(device) if flash else window_ends,
    }
    if flash:
        longest = {"max_seqlen": ends, "max_window_seqlen": window_ends}
        layout |= {name: int(of.diff().max()) for name, of in longest.items()}
    return layout
