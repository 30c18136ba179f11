r"""How Qwen2.5-VL and Qwen3-VL write a conversation.

<|im_start|>system\n{system}<|im_end|>\n
<|im_start|>user\nPicture 1: <|vision_start|><|image_pad|>…<|vision_end|>{instruction}<|im_end|>\n
<|im_start|>assistant\n474 479 460 …<|im_end|>\n
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rv_train.backbones.base import Pictures


class QwenChat:
    """See `rv_train.backbones.base.Chat`."""

    pad, end, image = "<|endoftext|>", "<|im_end|>", "<|image_pad|>"
    tail = ("Ċ",)  # a newline, as byte-level BPE writes it
    reserved, opening = "<|", ""
    template = (
        "{% set pictures = namespace(count=0) %}{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% else %}{% set pictures.count = pictures.count + 1 %}"
        "{% if add_vision_id %}Picture {{ pictures.count }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    def prompt(self, system: str, pictures: "Pictures", text: str, numbered: bool) -> str:
        turn = f"<|im_start|>user\n{self.shown(pictures, numbered)}{text}<|im_end|>\n"
        return self.system_turn(system) + turn + "<|im_start|>assistant\n"

    def shown(self, pictures: "Pictures", numbered: bool) -> str:
        """The pictures of a user's turn."""
        picture = "<|vision_start|>" + self.image * pictures.tokens + "<|vision_end|>"
        return "".join((f"Picture {i + 1}: " if numbered else "") + picture for i in range(pictures.number))

    def system_turn(self, system: str) -> str:
        return f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
