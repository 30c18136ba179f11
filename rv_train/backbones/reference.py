"""DATA.PREPROCESS reference: the same pictures and words through the library's own processor.

Nothing here is looked up, spliced or reshaped by this project: a chat in the library's message format goes through the
chat template and the family's processor (those of Qwen's families also through qwen-vl-utils). It gives what the fast
path gives (same ids and labels, pixels within 1e-6) at about a quarter of the speed, and is there to be compared with.
"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from libs.errors import BadInput, first_line
from rv_train.backbones.prompt import HIDDEN, IGNORE, STATE, PromptEncoder

if TYPE_CHECKING:
    import numpy as np

    from rv_train.backbones.base import Family


class ReferenceEncoder:
    """Pictures, instruction and action text → ids, labels and patches, as the library makes them.

    Args:
        family: of the backbone.
        prompt: the PromptEncoder whose words are to be written.

    Raises:
        BadInput: a package that the family's processor needs cannot be imported.
    """

    def __init__(self, family: "Family", prompt: PromptEncoder) -> None:
        _check_packages(family.reference_packages)
        self.family, self.prompt = family, prompt
        self.processor = family.processor(prompt.tokenizer, prompt.pictures)

    def encode(
        self,
        pictures: "np.ndarray | Sequence[np.ndarray]",
        instruction: str,
        action_text: str | None = None,
        state_text: str = "",
    ) -> dict[str, torch.Tensor]:
        """One sample or observation.

        Args:
            pictures: (N, H, W, 3) uint8, of the prompt's size.
            instruction, action_text, state_text: see `PromptEncoder.encode`.

        Returns:
            {"input_ids": (L,) int64, "labels": (L,) int64, "pixel_values": as the library's model takes it}.
        """
        from PIL import Image

        images = [{"type": "image", "image": Image.fromarray(picture)} for picture in pictures]
        asked = instruction + (STATE + state_text if state_text else "")
        system = [{"type": "text", "text": self.prompt.system}]
        chat = [{"role": "system", "content": system}] if self.prompt.system else []
        chat.append({"role": "user", "content": [*images, {"type": "text", "text": asked}]})
        prompt = self._process(chat, add_generation_prompt=True)
        prompt_ids = prompt["input_ids"][0]
        if action_text is None:
            ids, labels = prompt_ids, torch.full_like(prompt_ids, IGNORE)
        else:
            # A hidden digit is put in afterwards: tokenized, it could become one with its neighbours.
            answer = [{"type": "text", "text": action_text.replace(HIDDEN, "0")}]
            answered = [*chat, {"role": "assistant", "content": answer}]
            ids = self._process(answered, add_generation_prompt=False)["input_ids"][0]
            labels = ids.clone()
            labels[: len(prompt_ids)] = IGNORE  # learned: what the answer adds to the open prompt
            hidden = [len(prompt_ids) + place for place, character in enumerate(action_text) if character == HIDDEN]
            ids[hidden], labels[hidden] = self.prompt.mask_id, IGNORE
        return {"input_ids": ids, "labels": labels, "pixel_values": prompt["pixel_values"]}

    def _process(self, chat, add_generation_prompt):
        text = self.processor.apply_chat_template(
            chat,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            add_vision_id=self.prompt.numbered,
        )
        text += self.prompt.chat.opening if add_generation_prompt else ""
        images = self.family.read_images(chat, self.prompt.pictures)
        return self.processor(text=[text], images=images, return_tensors="pt")


def _check_packages(packages):
    try:
        for package in packages:
            importlib.import_module(package)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        named = " and ".join(package.replace("_", "-") for package in packages)
        raise BadInput(
            f"DATA.PREPROCESS reference needs the packages {named}, and they cannot be imported here "
            f"({first_line(error)}): pip install -e '.[reference]' on a machine whose torch is the CUDA build, or set "
            "DATA.PREPROCESS fast, which gives the same"
        ) from error
