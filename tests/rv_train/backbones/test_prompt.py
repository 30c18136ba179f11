import copy
import json
import pickle

import numpy as np
import pytest

from rv_train.backbones import build_prompt
from rv_train.backbones.prompt import IGNORE, DigitMask, PromptEncoder
from rv_train.config import load_cfg
from tests.tiny import ROOT, tiny_cfg


@pytest.fixture(scope="module")
def published():
    return build_prompt(load_cfg(ROOT / "configs/vla0.yaml"))


@pytest.fixture(scope="module")
def golden():
    return json.loads((ROOT / "tests/golden/vla0_collator.json").read_text())


def test_action_text_is_tokenized_as_the_tokenizer_does(published, golden):
    direct = published.tokenizer(golden["action_text"])["input_ids"]
    assert published._action_ids(golden["action_text"]).tolist() == direct


def test_action_text_with_letters_is_refused(published):
    with pytest.raises(ValueError, match="digits and spaces"):
        published.encode("x", "12 a4")


def test_an_instruction_with_a_mark_is_refused(published):
    with pytest.raises(ValueError, match=r"may not hold.*pick <\|image_pad\|>"):
        published.encode("pick <|image_pad|> up")


@pytest.mark.parametrize("times", [0, 2])
def test_a_chat_that_writes_more_or_fewer_image_tokens_than_there_are_is_refused(published, times):
    """Pictures would be put into wrong places without a word."""
    chat, whole = copy.copy(published.chat), published.pictures.number * published.pictures.tokens
    chat.prompt = lambda *asked: published.chat.prompt(*asked).replace(chat.image, times * chat.image, 1)
    prompt = PromptEncoder(published.tokenizer, chat, published.pictures)
    with pytest.raises(ValueError, match=rf"has {whole + times - 1} tokens .*image_pad.* for pictures of {whole}: "):
        prompt.encode("go")


def test_digit_masking_hides_digits_only_and_drops_their_labels(published, golden):
    assert published.mask == DigitMask(low=0.0, high=0.4, none=0.1, char="?", learned=False)
    plain = published.encode(golden["instruction"], golden["action_text"])
    digits = sum(character.isdigit() for character in golden["action_text"])
    shares, untouched = [], 0
    for seed in range(400):
        masked = published.mask_digits(plain, np.random.default_rng(seed))
        changed = (masked["input_ids"] != plain["input_ids"]).numpy()
        assert (masked["input_ids"].numpy()[changed] == published.mask_id).all()
        assert (masked["labels"].numpy()[changed] == IGNORE).all()
        assert np.isin(plain["input_ids"].numpy()[changed], published.digit_ids).all()
        assert (masked["labels"] == plain["labels"]).numpy()[~changed].all()
        assert not changed[:226].any()
        shares.append(changed.sum() / digits)
        untouched += masked is plain
    assert 0.06 < untouched / 400 < 0.15  # 10 % stay whole
    assert max(shares) < 0.5 and 0.15 < np.mean(shares) < 0.21  # 0.9 x 0.2 on average


def test_every_digit_may_be_hidden_with_one_probability_and_the_mark_learned(published, golden):
    """The document of the LoRA recipe: 0.3 per digit, `_` in the text that is learned."""
    opts = {"ACTION__MASK_MIN": 0.3, "ACTION__MASK_MAX": 0.3, "ACTION__MASK_NONE": 0.0, "ACTION__MASK_CHAR": "_"}
    text, shares = golden["action_text"], {}
    for style in ("learned", "dropped"):
        prompt = build_prompt(tiny_cfg(ACTION__MASK_STYLE=style, **opts))
        plain, shares[style] = prompt.encode("go", text), []
        for seed in range(100):
            masked = prompt.mask_digits(plain, np.random.default_rng(seed))
            hidden = masked["input_ids"] != plain["input_ids"]
            assert (masked["labels"][hidden] == (prompt.mask_id if style == "learned" else IGNORE)).all()
            assert (masked["labels"] == plain["labels"])[~hidden].all()
            shares[style].append(int(hidden.sum()) / sum(character.isdigit() for character in text))
    assert prompt.tokenizer.convert_ids_to_tokens(prompt.mask_id) == "_"
    assert set(prompt.tokenizer.decode(masked["input_ids"][hidden])) == {"_"}
    assert shares["learned"] == shares["dropped"] and abs(np.mean(shares["dropped"]) - 0.3) < 0.01


def test_digits_that_somebody_else_has_hidden_are_shown_masked_and_not_learned():
    """Manifests written by others hold `X` for them, whatever the own style of masking is."""
    for style in ("dropped", "learned"):
        prompt = build_prompt(tiny_cfg(ACTION__MASK_STYLE=style, ACTION__MASK_CHAR="_"))
        known, partly = prompt.encode("go", "509 500"), prompt.encode("go", "5X9 X00")
        changed = (known["input_ids"] != partly["input_ids"]).nonzero().flatten().tolist()
        first = len(prompt.encode("go")["input_ids"])
        assert changed == [first + 1, first + 4]
        assert partly["input_ids"][changed].tolist() == [prompt.mask_id] * 2
        assert partly["labels"][changed].tolist() == [IGNORE] * 2
        assert ((known["labels"] == partly["labels"]).nonzero().numel()) == len(known["labels"]) - 2


def test_small_vocabulary_keeps_digit_ids_and_round_trips():
    prompt = build_prompt(tiny_cfg())
    assert prompt.digit_ids == list(range(15, 25)) and prompt.space_id == 220 and prompt.mask_id == 30
    assert len(prompt.tokenizer) == 512 + 22
    ids = prompt.tokenizer("pick up the tomato sauce")["input_ids"]
    assert prompt.tokenizer.decode(ids) == "pick up the tomato sauce"


def test_one_picture_token_block_per_view_when_not_tiled():
    prompt = build_prompt(tiny_cfg(IMAGE__TILE=False, PROMPT__VISION_ID=True))
    ids = prompt.encode("go")["input_ids"]
    assert int((ids == prompt.image_id).sum()) == 2 * 4
    assert "Picture 2: " in prompt.tokenizer.decode(ids)


def test_travels_to_a_loader_process():
    prompt = build_prompt(tiny_cfg())
    copy = pickle.loads(pickle.dumps(prompt))
    assert copy.encode("go", "1 2")["input_ids"].tolist() == prompt.encode("go", "1 2")["input_ids"].tolist()


def test_a_system_prompt_that_asks_for_an_unknown_number_is_refused():
    with pytest.raises(ValueError, match="cannot fill in 'foo'; there are horizon"):
        build_prompt(tiny_cfg(PROMPT__SYSTEM="{foo}"))
