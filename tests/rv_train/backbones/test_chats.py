"""What a family writes is what the published chat template writes.

The templates are not ours to keep here: `tests/golden/chat_NAME.json` has the prompts that a published one wrote, where
it was found and its SHA-256. Pictures have one token each there, as templates write them.
"""

import json

import pytest

from rv_train.backbones import family_named
from rv_train.backbones.base import Pictures
from rv_train.backbones.prompt import PromptEncoder
from tests.tiny import ROOT

GOLDEN = sorted((ROOT / "tests/golden").glob("chat_*.json"))
CASES = [(path.stem.removeprefix("chat_"), case) for path in GOLDEN for case in json.loads(path.read_text())["cases"]]


def picture(number):
    return Pictures(number, height=1, width=1, rows=1, columns=1, patches=4)


@pytest.mark.parametrize("name, case", CASES)
def test_a_prompt_is_the_published_templates(name, case):
    chat = family_named(name).chat
    system, text, numbered = case["system"], case["text"], case["numbered"]
    assert chat.prompt(system, picture(case["pictures"]), text, numbered) == case["prompt"]


@pytest.mark.parametrize("name, case", CASES)
def test_so_is_what_the_template_writes_that_is_saved(name, case):
    """With the tokenizer, for serving engines: open, and answered."""
    tokenizer = family_named(name).vocabulary(512)
    template = family_named(name).chat.template
    system = [{"role": "system", "content": [{"type": "text", "text": case["system"]}]}] if case["system"] else []
    shown = [{"type": "image"}] * case["pictures"]
    asked = [*system, {"role": "user", "content": [*shown, {"type": "text", "text": case["text"]}]}]
    answered = [*asked, {"role": "assistant", "content": [{"type": "text", "text": "474 479 0"}]}]
    for chat, opened, expected in ((asked, True, case["prompt"]), (answered, False, case["answered"])):
        told = {"add_vision_id": case["numbered"], "add_generation_prompt": opened}
        assert tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, **told) == expected


@pytest.mark.parametrize("name, case", CASES)
def test_ids_and_labels_are_those_of_the_answered_chat(name, case):
    family = family_named(name)
    tokenizer = family.vocabulary(512)
    prompt = PromptEncoder(tokenizer, family.chat, picture(case["pictures"]), case["system"], case["numbered"])
    encoded = prompt.encode(case["text"], "474 479 0")
    assert encoded["input_ids"].tolist() == tokenizer(case["answered"])["input_ids"]
    opened = len(tokenizer(case["prompt"])["input_ids"])
    assert encoded["labels"].tolist() == [-100] * opened + encoded["input_ids"].tolist()[opened:]


def test_every_golden_says_what_it_was_made_with():
    for path in GOLDEN:
        golden = json.loads(path.read_text())
        assert len(golden["sha256"]) == 64 and golden["template"] and len(golden["cases"]) == 4
