"""Pictures as Qwen2.5-VL sees them."""

import torch

from rv_train.backbones import patches
from rv_train.backbones.qwen import pictures

# The normalisation is that of CLIP, which Qwen2.5-VL was trained with.
PATCHES = patches.Patches(
    side=14,
    merge=2,
    frames=2,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)


def image_patches(images, dtype=torch.float32):
    """(P, H, W, 3) uint8, sides multiples of 28 → (patches, 1176) in `dtype` and the grid, see
    `rv_train.backbones.patches.image_patches`."""
    return patches.image_patches(images, PATCHES, dtype)


def processor_settings(shown):
    """`preprocessor_config.json`: the library's image processor, told not to resize further."""
    return pictures.processor_settings(shown, PATCHES, "Qwen2_5_VLProcessor")


def processor(tokenizer, shown, template):
    """The library's processor of pictures and chat. Needs torchvision."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

    kinds = Qwen2_5_VLProcessor, Qwen2VLVideoProcessor
    return pictures.build_processor(*kinds, processor_settings(shown), tokenizer, template)
