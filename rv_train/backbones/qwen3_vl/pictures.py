"""Pictures as Qwen3-VL sees them: patches of 16 pixels, normalised to -1..1."""

from rv_train.backbones import patches
from rv_train.backbones.qwen import pictures

PATCHES = patches.Patches(side=16, merge=2, frames=2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def processor_settings(shown):
    """`preprocessor_config.json`: the library's image processor, told not to resize further."""
    return pictures.processor_settings(shown, PATCHES, "Qwen3VLProcessor")


def processor(tokenizer, shown, template):
    """The library's processor of pictures and chat. Needs torchvision."""
    from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor

    kinds = Qwen3VLProcessor, Qwen3VLVideoProcessor
    return pictures.build_processor(*kinds, processor_settings(shown), tokenizer, template)
