"""DATA.PREPROCESS reference: the same pictures and words through qwen-vl-utils and the library's own processor.

Nothing here is looked up, spliced or reshaped by this project: a chat in Qwen's message format goes through the chat
template, `process_vision_info` and `Qwen2_5_VLProcessor`. It gives what the fast path gives (same ids and labels,
pixels within 1e-6) at about a quarter of the speed, and is there to be compared with.
"""

import torch

from libs.errors import BadInput
from rv_train.data.prompt import HIDDEN, IGNORE
from rv_train.data.tokenizer import CHAT_TEMPLATE


class ReferenceEncoder:
    """Pictures, instruction and action text → ids, labels and patches, as the library makes them.

    Args:
        tokenizer: Qwen2.5's, whole or cut.
        system: text of the system turn, "" for none.
        vision_id: write "Picture i: " before each picture.
        settings: keywords of the library's image processor.
    Raises:
        BadInput: torchvision or qwen-vl-utils cannot be imported.
    """

    def __init__(self, tokenizer, system, vision_id, settings):
        _check_packages()
        from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

        self.system, self.vision_id = system, vision_id
        self.pixels = {key: settings[key] for key in ("min_pixels", "max_pixels")}
        self.processor = Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(**settings),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(),  # the class insists on one
            chat_template=CHAT_TEMPLATE,
        )

    @classmethod
    def from_cfg(cls, cfg, prompt):
        """From the config tree and the PromptEncoder whose words are to be written."""
        from rv_train.models.weights import image_processor_settings

        settings = image_processor_settings(cfg)
        settings = {key: settings[key] for key in settings if not key.endswith(("_type", "_class"))}
        return cls(prompt.tokenizer, prompt.system, prompt.vision_id, settings)

    def encode(self, pictures, instruction, action_text=None, mask_id=None):
        """One sample or observation.

        Args:
            pictures: (N, H, W, 3) uint8, H and W multiples of 28.
            instruction, action_text: see `PromptEncoder.encode`.
            mask_id: shown where the action text has an X.
        Returns:
            {"input_ids": (L,) int64, "labels": (L,) int64, "pixel_values": (N * H/14 * W/14, 1176) float32}.
        """
        from PIL import Image

        images = [{"type": "image", "image": Image.fromarray(picture), **self.pixels} for picture in pictures]
        chat = [{"role": "system", "content": self.system}] if self.system else []
        chat.append({"role": "user", "content": [*images, {"type": "text", "text": instruction}]})
        prompt = self._process(chat, add_generation_prompt=True)
        prompt_ids = prompt["input_ids"][0]
        if action_text is None:
            ids, labels = prompt_ids, torch.full_like(prompt_ids, IGNORE)
        else:
            # A hidden digit is put in afterwards: tokenized, it could become one with its neighbours.
            answered = [*chat, {"role": "assistant", "content": action_text.replace(HIDDEN, "0")}]
            ids = self._process(answered, add_generation_prompt=False)["input_ids"][0]
            labels = ids.clone()
            labels[: len(prompt_ids)] = IGNORE  # learned: what the answer adds to the open prompt
            hidden = [len(prompt_ids) + place for place, character in enumerate(action_text) if character == HIDDEN]
            ids[hidden], labels[hidden] = mask_id, IGNORE
        return {"input_ids": ids, "labels": labels, "pixel_values": prompt["pixel_values"]}

    def _process(self, chat, add_generation_prompt):
        from qwen_vl_utils import process_vision_info

        text = self.processor.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=add_generation_prompt, add_vision_id=self.vision_id
        )
        images, _ = process_vision_info(chat)
        return self.processor(text=[text], images=images, return_tensors="pt")


def _check_packages():
    try:
        import qwen_vl_utils  # noqa: F401
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise BadInput(
            f"DATA.PREPROCESS reference needs the packages torchvision and qwen-vl-utils, and they cannot be imported "
            f"here ({str(error).splitlines()[0]}): pip install -e '.[reference]' on a machine whose torch is the CUDA "
            "build, or set DATA.PREPROCESS fast, which gives the same"
        ) from error
