"""The library's vision towers over pictures that all have one size: the same numbers, with less around them.

The library reads the sizes of the pictures back from the device in every pass and attends to one piece (a picture, or a
window of one) after the other. Here what follows from the sizes is computed once and kept, and pieces of one length are
a batch. Patches are embedded by a matrix product, which is what a convolution with the patch as its kernel is. Both are
the library's numbers up to the order of sums, which differs on some processors.

A family mixes these into the library's classes and lets the modules of a model be of them.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from rv_train.backbones.running import FLASH

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.utils import ModelOutput


class PiecesAtOnce:
    """Attention to all pieces in one call, where they are equally long and the kernel is not one that takes their
    lengths.

    rotate, eager: the library's functions for rotary embedding and attention, of the family's own module. The others
    are the library's class's.
    """

    rotate: Callable[..., Any]
    eager: Callable[..., Any]
    config: "PretrainedConfig"
    num_heads: int
    scaling: float
    qkv: nn.Module
    proj: nn.Module

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """As in the library; hidden_states (patches, D), cu_seqlens the ends of the pieces."""
        kind = self.config._attn_implementation
        lengths = set() if kind == FLASH else set(cu_seqlens.diff().tolist())
        if len(lengths) != 1:
            whole = super().forward  # type: ignore[misc]  # of the library's class, which comes behind
            return whole(hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs)
        number = len(hidden_states)
        qkv = self.qkv(hidden_states).reshape(number, 3, self.num_heads, -1).permute(1, 0, 2, 3)
        assert position_embeddings is not None, "the library's tower gives them"
        query, key = self.rotate(qkv[0], qkv[1], *position_embeddings)
        pieces = (x.unflatten(0, (-1, *lengths)).transpose(1, 2) for x in (query, key, qkv[2]))  # (pieces, heads, n, d)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(kind, self.eager)
        attended, _ = attend(
            self, *pieces, attention_mask=None, scaling=self.scaling, dropout=0.0, is_causal=False, **kwargs
        )
        return self.proj(attended.reshape(number, -1))


class PatchProduct:
    """A three-dimensional convolution costs several times the product that it is here, on a CPU."""

    proj: nn.Conv3d  # of the library's class

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """As in the library; hidden_states (patches, values of one) → (patches, D)."""
        weight = self.proj.weight
        return F.linear(hidden_states.to(weight.dtype), weight.flatten(1), self.proj.bias)


@functools.lru_cache(maxsize=16)  # a run has one size of batch, an evaluation one for each number of rows
@torch.inference_mode(False)  # what is kept may be met by a training step next
def interpolated_layout(
    number: int, rows: int, columns: int, merge: int, side: int, device: torch.device, flash: bool
) -> dict[str, Any]:
    """What a tower with learned positions would compute from the sizes of its pictures, by the library's own functions.

    Ends of pictures stay on the CPU, where the library's loop and `PiecesAtOnce` read them without waiting for the
    device; the kernels of flash-attn want them there, and their longest as a number.

    Args:
        number: of pictures.
        rows, columns: patches of a picture, vertically and horizontally.
        merge: patches per side of an image token.
        side: of the square of learned positions, which are interpolated between its corners.
    """
    grid = torch.tensor([[1, rows, columns]]).expand(number, 3)
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=side, mode="bilinear", align_corners=True, spatial_merge_size=merge
    )
    ends = get_vision_cu_seqlens(grid)
    layout = {
        "interp_indices": indices.to(device),
        "interp_weights": weights.to(device),
        "position_ids": get_vision_position_ids(grid, merge).to(device),
        "cu_seqlens": ends.to(device) if flash else ends,
    }
    return layout | {"max_seqlen": rows * columns} if flash else layout


def see(visual: "PreTrainedModel", patches: torch.Tensor, rows: int, columns: int) -> "ModelOutput":
    """What a tower with learned positions makes of pictures of one size: the library's output.

    Args:
        visual: Qwen3VLVisionModel or one that is called like it.
        patches: (P * rows * columns, values) of P pictures.
        rows, columns: patches of a picture, vertically and horizontally.
    """
    number, config = len(patches) // (rows * columns), visual.config
    flash = config._attn_implementation == FLASH
    merge, side = config.spatial_merge_size, visual.num_grid_per_side
    layout = interpolated_layout(number, rows, columns, merge, side, patches.device, flash)
    grid = torch.tensor([[1, rows, columns]]).expand(number, 3)
    return visual(patches, grid_thw=grid, **layout)
