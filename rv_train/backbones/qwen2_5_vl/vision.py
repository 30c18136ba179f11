"""Qwen2.5-VL's vision tower over pictures that all have one size, see `rv_train.backbones.qwen.vision`: most of its
layers attend in windows, 64 of them in 28 layers for a batch of 8 of the published recipe."""

import functools
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as library
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

from rv_train.backbones.qwen.vision import PatchProduct, PiecesAtOnce
from rv_train.backbones.running import FLASH

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

ALIGNED = 8  # numbers of 16 bits: 16 bytes


class VisionAttention(PiecesAtOnce, library.Qwen2_5_VLVisionAttention):
    """All windows in one call, where they are equally long."""

    rotate = staticmethod(library.apply_rotary_pos_emb_vision)
    eager = staticmethod(library.eager_attention_forward)


class PatchEmbed(PatchProduct, library.Qwen2_5_VisionPatchEmbed):
    """By a product."""


class AlignedMLP(library.Qwen2_5_VLMLP):
    """3,420 numbers wide: in 16 bits its rows begin where a GPU's fast products cannot read. There with zeros up to
    3,424, which change no sum."""

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """As in the library; (..., D) → (..., D)."""
        dtype = self.gate_proj.weight.dtype
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
        plain = all(type(module) is nn.Linear for module in (self.gate_proj, self.up_proj, self.down_proj))
        if hidden_state.is_cuda and plain and dtype.itemsize == 2 and self.intermediate_size % ALIGNED:
            return self.padded(hidden_state, dtype)
        return super().forward(hidden_state)

    def padded(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The same, multiplied in `dtype`."""
        more = -self.intermediate_size % ALIGNED
        gate, up = (
            F.linear(x, F.pad(part.weight.to(dtype), (0, 0, 0, more)), F.pad(part.bias.to(dtype), (0, more)))
            for part in (self.gate_proj, self.up_proj)
        )
        down = self.down_proj
        return F.linear(self.act_fn(gate) * up, F.pad(down.weight.to(dtype), (0, more)), down.bias.to(dtype))


OWN = {
    VisionAttention: library.Qwen2_5_VLVisionAttention,
    PatchEmbed: library.Qwen2_5_VisionPatchEmbed,
    AlignedMLP: library.Qwen2_5_VLMLP,
}


def see(visual: "PreTrainedModel", patches: torch.Tensor, rows: int, columns: int) -> "ModelOutput":
    """What the tower makes of pictures of one size: the library's output, (image tokens, D) its `pooler_output`.

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
    return visual(patches, grid_thw=grid, **layout)


@functools.lru_cache(maxsize=16)  # a run has one size of batch, an evaluation one for each number of rows
@torch.inference_mode(False)  # what is kept may be met by a training step next
def _layout(number, rows, columns, merge, window, patch, device, flash):
    """What the tower would compute from the sizes of the pictures, by the library's own functions.

    Ends of windows stay on the CPU, where the library's loop and `PiecesAtOnce` read them without waiting for the
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
