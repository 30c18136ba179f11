r"""How SmolVLM2 writes a conversation.

<|im_start|>System: {system}<end_of_utterance>\n
User:<fake_token_around_image><global-img><image>…<fake_token_around_image>{instruction}<end_of_utterance>\n
Assistant: 474 479 460 …<end_of_utterance>\n
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rv_train.backbones.base import Pictures


class SmolChat:
    """See `rv_train.backbones.base.Chat`. Pictures are whole, never cut into several, and have no numbers."""

    pad, end, image = "<|im_end|>", "<end_of_utterance>", "<image>"
    tail = ("Ċ",)  # a newline, as byte-level BPE writes it
    reserved, opening = "<", " "
    # Of HuggingFaceTB/SmolVLM-256M-Instruct, revision 7e3e67ed: chat_template.json, sha256 a68ad1a42681ae44…; the text
    # in it 830005085ddd94ce…. What transformers 5.18 has in models/smolvlm/processing_smolvlm.py knows videos besides.
    template = (
        "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
        "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
        "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
        "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}"
        "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )

    def prompt(self, system: str, pictures: "Pictures", text: str, numbered: bool) -> str:
        assert not numbered, "refused when the config was read"
        picture = f"<fake_token_around_image><global-img>{self.image * pictures.tokens}<fake_token_around_image>"
        turn = f"User:{picture * pictures.number}{text}<end_of_utterance>\n"
        return f"<|im_start|>{self.system_turn(system)}{turn}Assistant:{self.opening}"

    def system_turn(self, system: str) -> str:
        return f"System: {system}<end_of_utterance>\n" if system else ""
