"""Pictures as Qwen2.5-VL sees them."""

import torch

from rv_train.backbones import patches

# The normalisation is that of CLIP, which Qwen2.5-VL was trained with.
PATCHES = patches.Patches(
    side=14,
    merge=2,
    frames=2,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)


def image_patches(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, H, W, 3) uint8, sides multiples of 28 → (patches, 1176) in `dtype` and the grid, see
    `rv_train.backbones.patches.image_patches`."""
    return patches.image_patches(images, PATCHES, dtype)
