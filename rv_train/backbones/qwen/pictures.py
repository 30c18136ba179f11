"""The library's image processor for Qwen's families, told not to resize, and how their examples read pictures."""


def processor_settings(pictures, patches, processor):
    """`preprocessor_config.json`: the library's image processor, told not to resize further.

    Args:
        pictures: the Pictures of a prompt.
        patches: the family's Patches.
        processor: name of the library's class for pictures and chat.
    """
    pixels = pictures.height * pictures.width
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": processor,
        "patch_size": patches.side,
        "merge_size": patches.merge,
        "temporal_patch_size": patches.frames,
        "image_mean": list(patches.mean),
        "image_std": list(patches.std),
        "min_pixels": pixels,
        "max_pixels": pixels,
    }


def build_processor(processor, video_processor, settings, tokenizer, template):
    """The library's processor of pictures and chat. Needs torchvision.

    Args:
        processor, video_processor: the library's classes.
        settings: see `processor_settings`.
        tokenizer, template: of the chat.
    """
    from transformers import Qwen2VLImageProcessor

    settings = {key: settings[key] for key in settings if not key.endswith(("_type", "_class"))}
    return processor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=video_processor(),  # the class insists on one
        chat_template=template,
    )


def read_images(messages, pictures, patches):
    """By qwen-vl-utils, told not to resize: the pixels of a message's picture stand beside it."""
    from qwen_vl_utils import process_vision_info

    pixels = {key: pictures.height * pictures.width for key in ("min_pixels", "max_pixels")}
    told = [
        {**message, "content": [part | pixels if part["type"] == "image" else part for part in message["content"]]}
        for message in messages
    ]
    return process_vision_info(told, image_patch_size=patches.side)[0]
