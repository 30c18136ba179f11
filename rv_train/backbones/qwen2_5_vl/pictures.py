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


def image_patches(images, dtype=torch.float32):
    """(P, H, W, 3) uint8, sides multiples of 28 → (patches, 1176) in `dtype` and the grid, see
    `rv_train.backbones.patches.image_patches`."""
    return patches.image_patches(images, PATCHES, dtype)


def processor_settings(pictures):
    """`preprocessor_config.json`: the library's image processor, told not to resize further."""
    pixels = pictures.height * pictures.width
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": PATCHES.side,
        "merge_size": PATCHES.merge,
        "temporal_patch_size": PATCHES.frames,
        "image_mean": list(PATCHES.mean),
        "image_std": list(PATCHES.std),
        "min_pixels": pixels,
        "max_pixels": pixels,
    }


def processor(tokenizer, pictures, template):
    """The library's processor of pictures and chat. Needs torchvision."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    settings = processor_settings(pictures)
    settings = {key: settings[key] for key in settings if not key.endswith(("_type", "_class"))}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),  # the class insists on one
        chat_template=template,
    )


def read_images(messages, pictures):
    """By qwen-vl-utils, told not to resize: the pixels of a message's picture stand beside it."""
    from qwen_vl_utils import process_vision_info

    pixels = {key: pictures.height * pictures.width for key in ("min_pixels", "max_pixels")}
    told = [
        {**message, "content": [part | pixels if part["type"] == "image" else part for part in message["content"]]}
        for message in messages
    ]
    return process_vision_info(told)[0]
