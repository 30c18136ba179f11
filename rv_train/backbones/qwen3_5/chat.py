r"""How Qwen3.5 writes a chat: as Qwen2.5-VL, around turns without blanks at their ends, and before an answer that
no thought went into.

<|im_start|>system\n{system}<|im_end|>\n
<|im_start|>user\n<|vision_start|><|image_pad|>…<|vision_end|>{instruction}<|im_end|>\n
<|im_start|>assistant\n<think>\n\n</think>\n\n474 479 460 …<|im_end|>\n
"""

from typing import TYPE_CHECKING

from rv_train.backbones.qwen.chat import QwenChat

if TYPE_CHECKING:
    from rv_train.backbones.base import Pictures


class ThinkingChat(QwenChat):
    """See `rv_train.backbones.base.Chat`. Its tokenizer knows the marks of thinking as one token each."""

    thought = "<think>\n\n</think>\n\n"
    template = (
        "{% set pictures = namespace(count=0) %}{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% if message.role == 'assistant' and loop.last %}{{ '" + thought.replace("\n", "\\n") + "' }}{% endif %}"
        "{% set content %}{% if message.content is string %}{{ message.content }}{% else %}"
        "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}"
        "{% set pictures.count = pictures.count + 1 %}{% if add_vision_id %}Picture {{ pictures.count }}: {% endif %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}{% endset %}"
        "{{ content | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n" + thought.replace("\n", "\\n") + "' }}{% endif %}"
    )

    def prompt(self, system: str, pictures: "Pictures", text: str, numbered: bool) -> str:
        turn = f"<|im_start|>user\n{(self.shown(pictures, numbered) + text).strip()}<|im_end|>\n"
        return f"{self.system_turn(system)}{turn}<|im_start|>assistant\n{self.thought}"

    def system_turn(self, system: str) -> str:
        return super().system_turn(system.strip())
