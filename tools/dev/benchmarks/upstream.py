"""What a training step does where the library's processor is part of it, written from the documents' descriptions.

Per sample: pictures as PIL images in a chat of Qwen's message format, the chat template, and `Qwen2_5_VLProcessor`
twice: the open prompt alone, whose length says which labels are masked, and the whole. The tokenizer pads the batch.
The model is given labels, so that the library computes the logits of every position, in float32.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from yacs.config import CfgNode

from rv_train.backbones import family_of
from rv_train.backbones.prompt import IGNORE, PromptEncoder

if TYPE_CHECKING:
    from rv_train.data.images import ImageTransform


class UpstreamEncoder:
    """Pictures, instruction and action text → ids, labels and patches; batches of them.

    Args:
        cfg: the config tree of the encoder that this one is compared with.
        prompt: that encoder's PromptEncoder, for the words of its prompt and its digit masking.
        backend: "pil" or "torchvision", what the library's image processor computes with.
    """

    def __init__(self, cfg: CfgNode, prompt: PromptEncoder, backend: str = "pil") -> None:
        settings = family_of(cfg).processor_files(prompt.pictures)["preprocessor_config.json"]
        settings = {key: settings[key] for key in settings if not key.endswith(("_type", "_class"))}
        self.prompt, self.processor = prompt, _processor(settings, prompt.tokenizer, backend)

    def encode(
        self, pictures: np.ndarray, instruction: str, action_text: str, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """(N, H, W, 3) uint8 and texts → features; `rng` draws which digits are hidden."""
        chat: list[dict[str, Any]] = [{"role": "system", "content": self.prompt.system}] if self.prompt.system else []
        images = [{"type": "image", "image": _to_pil(picture)} for picture in pictures]
        chat.append({"role": "user", "content": [*images, {"type": "text", "text": instruction}]})
        opened = self._process(chat, add_generation_prompt=True)
        whole = self._process([*chat, {"role": "assistant", "content": action_text}], add_generation_prompt=False)
        ids = whole["input_ids"][0]
        labels = ids.clone()
        labels[: opened["input_ids"].shape[1]] = IGNORE
        masked = self.prompt.mask_digits({"input_ids": ids, "labels": labels}, rng)
        return {**masked, "pixel_values": whole["pixel_values"], "image_grid_thw": whole["image_grid_thw"]}

    def _process(self, chat, add_generation_prompt):
        text = self.processor.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=add_generation_prompt, add_vision_id=self.prompt.numbered
        )
        # What qwen-vl-utils' process_vision_info does with pictures in memory; their size is right already.
        parts = [part for turn in chat if turn["role"] == "user" for part in turn["content"] if part["type"] == "image"]
        images = [part["image"].convert("RGB").resize(part["image"].size) for part in parts]
        return self.processor(text=[text], images=images, return_tensors="pt")

    def collate(self, features: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """A batch: keywords of `Qwen2_5_VLForConditionalGeneration.forward`."""
        ids = [f["input_ids"].tolist() for f in features]
        padded = self.prompt.tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt")
        labels = torch.nn.utils.rnn.pad_sequence([f["labels"] for f in features], True, IGNORE)
        return {
            "input_ids": padded["input_ids"],
            "attention_mask": padded["attention_mask"],
            # without these the library counts positions as in plain text
            "mm_token_type_ids": (padded["input_ids"] == self.prompt.image_id).int(),
            "pixel_values": torch.cat([f["pixel_values"] for f in features]),
            "image_grid_thw": torch.cat([f["image_grid_thw"] for f in features]),
            "labels": labels,
        }


def pil_pictures(views: np.ndarray, transform: "ImageTransform", rng: np.random.Generator | None) -> np.ndarray:
    """What an ImageTransform makes of a sample's views, done with PIL as torchvision does it for PIL images.

    The same crop and factors are drawn; pixels differ, bytes are cut off after every step.
    """
    from PIL import Image, ImageEnhance

    factors = transform._draw_jitter(rng)
    pictures = []
    for view in views:
        picture = Image.fromarray(np.ascontiguousarray(transform._cut(view, rng)))
        if picture.size != (transform.width, transform.height):
            picture = picture.resize((transform.width, transform.height), Image.Resampling.BILINEAR)
        if factors is not None:
            brightness, contrast, saturation, shift = factors
            picture = ImageEnhance.Brightness(picture).enhance(brightness)
            picture = ImageEnhance.Contrast(picture).enhance(contrast)
            picture = ImageEnhance.Color(picture).enhance(saturation)
            hue, *others = picture.convert("HSV").split()
            hue = Image.fromarray(np.array(hue) + np.uint8(round(shift * 255) % 256))
            picture = Image.merge("HSV", (hue, *others)).convert("RGB")
        pictures.append(np.asarray(picture))
    return np.concatenate(pictures, axis=1)[None] if transform.tile else np.stack(pictures)


def image_backends() -> list[str]:
    """What the library's image processor can compute with here."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return ["pil"]
    return ["pil", "torchvision"]


def _to_pil(picture):
    from PIL import Image

    return Image.fromarray(picture)


def _processor(settings, tokenizer, backend):
    from transformers import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class PictureProcessor(Qwen2_5_VLProcessor):
        """Without the part for videos, which needs torchvision."""

        def __init__(self, image_processor, tokenizer, chat_template):
            super().__init__(image_processor, tokenizer, chat_template=chat_template)

    kind = Qwen2VLImageProcessorPil
    if backend == "torchvision":
        from transformers import Qwen2VLImageProcessor

        kind = Qwen2VLImageProcessor
    return PictureProcessor(kind(**settings), tokenizer, chat_template=tokenizer.chat_template)
