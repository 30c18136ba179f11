"""What Qwen's families of backbones answer alike; each adds its sizes, its modules and its cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from rv_train.backbones.base import Embedded, Pictures
from rv_train.backbones.patches import image_patches, mrope_position_ids, place_pictures
from rv_train.backbones.qwen.chat import QwenChat

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils import ModelOutput

    from rv_train.backbones.patches import Patches


class QwenFamily:
    """See `rv_train.backbones.base.Family` for most names.

    A family adds

        patches                              the Patches that all of its sizes cut pictures into
        library                              names in the library of the model, the processor of pictures and chat, and
                                             the processor of videos, which it insists on
        own()                                {class of ours: the library's that it stands for}, see `prepare`
    """

    patches: "Patches"
    library: tuple[str, str, str]
    chat = QwenChat()
    text_layers, vision_layers = r"language_model\.layers", r"visual\.blocks"
    adapted, vision_tower = "(self_attn|attn|mlp)", "visual"
    reference_packages = ("torchvision", "qwen_vl_utils")

    def own(self) -> Mapping[type[object], type]:
        """See above."""
        raise NotImplementedError

    def grid(self, vision: CfgNode, height: int, width: int) -> tuple[int, int, int]:
        return self.patches.grid(height, width)

    def processor_files(self, shown: Pictures) -> dict[str, dict[str, Any]]:
        pixels = shown.height * shown.width
        settings = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": self.library[1],
            "patch_size": self.patches.side,
            "merge_size": self.patches.merge,
            "temporal_patch_size": self.patches.frames,
            "image_mean": list(self.patches.mean),
            "image_std": list(self.patches.std),
            "min_pixels": pixels,
            "max_pixels": pixels,
        }
        return {"preprocessor_config.json": settings}

    def processor(self, tokenizer: "PreTrainedTokenizerBase", shown: Pictures) -> Any:
        import transformers

        settings = self.processor_files(shown)["preprocessor_config.json"]
        settings = {key: settings[key] for key in settings if not key.endswith(("_type", "_class"))}
        processor, videos = (getattr(transformers, name) for name in self.library[1:])
        return processor(
            image_processor=transformers.Qwen2VLImageProcessor(**settings),
            tokenizer=tokenizer,
            video_processor=videos(),
            chat_template=self.chat.template,
        )

    def read_images(self, messages: Sequence[Mapping[str, Any]], shown: Pictures) -> Sequence[Any]:
        """By qwen-vl-utils, told not to resize: the pixels of a message's picture stand beside it."""
        from qwen_vl_utils import process_vision_info

        pixels = {key: shown.height * shown.width for key in ("min_pixels", "max_pixels")}
        told = [
            {**message, "content": [part | pixels if part["type"] == "image" else part for part in message["content"]]}
            for message in messages
        ]
        return process_vision_info(told, image_patch_size=self.patches.side)[0]

    def model_class(self) -> "type[PreTrainedModel]":
        import transformers

        return getattr(transformers, self.library[0])

    def prepare(self, model: "PreTrainedModel") -> "PreTrainedModel":
        from rv_train.backbones.running import use_own

        return use_own(model, self.own())

    def text(self, model: "PreTrainedModel") -> "PreTrainedModel":
        return model.model.language_model

    def see(self, visual: "PreTrainedModel", patches: "torch.Tensor", rows: int, columns: int) -> "ModelOutput":
        """What a vision tower with learned positions makes of pictures of one size, see `qwen.vision.see`."""
        from rv_train.backbones.qwen.vision import see

        return see(visual, patches, rows, columns)

    def deeper(self, seen: "ModelOutput", is_image: "torch.Tensor") -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
        """({keyword: (B, L, ...)}, {keyword: value}) that the text tower takes of what was seen beside its embeddings,
        see `rv_train.backbones.base.Embedded`; is_image: (B, L) bool."""
        return {}, {}

    def embed(
        self, model: "PreTrainedModel", batch: "Mapping[str, torch.Tensor]", image_id: int, shown: Pictures
    ) -> Embedded:
        visual, ids = model.model.visual, batch["input_ids"]
        if "pixel_values" in batch:  # DATA.PREPROCESS reference: cut into patches by the library's processor
            patches = batch["pixel_values"].to(visual.dtype)
        else:
            patches, _ = image_patches(batch["images"].flatten(0, 1), self.patches, visual.dtype)
        merge = self.patches.merge
        seen = self.see(visual, patches, merge * shown.rows, merge * shown.columns)
        embeds = place_pictures(self.text(model).embed_tokens(ids), ids, image_id, seen.pooler_output, shown)
        positions = mrope_position_ids(ids, image_id, shown.rows, shown.columns)
        return Embedded(embeds, positions, *self.deeper(seen, ids == image_id))

    def compiled(self, model: "PreTrainedModel") -> "list[nn.Module]":
        """All of a text layer; of the vision tower only the MLPs, two thirds of its work: its attention reads the
        lengths of its pieces back into Python, which cuts a graph apart and compiles it again for every number of
        pictures."""
        return [*self.text(model).layers, *(block.mlp for block in model.model.visual.blocks)]
