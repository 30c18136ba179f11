"""SmolVLM2's words: the vocabulary that is shipped is the published one, and prompts are the library's."""

import hashlib
import json
import lzma

import pytest
import torch

from rv_train.backbones import build_prompt
from rv_train.backbones.prompt import IGNORE
from rv_train.backbones.smolvlm.chat import SmolChat
from rv_train.backbones.smolvlm.vocabulary import MERGES, load_vocabulary, read_vocabulary
from rv_train.backbones.tokenizer import read_tokenizer
from rv_train.config import load_cfg
from tests.rv_train.backbones.smolvlm.tiny_smol import smol_cfg
from tests.tiny import ROOT

RECIPE = ROOT / "configs/vla0_smol.yaml"


@pytest.fixture(scope="module")
def published():
    return build_prompt(load_cfg(RECIPE))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_the_vocabulary_is_the_published_one():
    """Hashes of merges.txt and vocab.json of HuggingFaceTB/SmolVLM-256M-Instruct, revision 7e3e67ed."""
    merges = lzma.decompress(MERGES.read_bytes())
    assert sha256(merges) == "0b54e8aa4e53d5383e2e4bc635a56b43f9647f7b13832d5d9ecd8f82dac4f510"
    vocab = json.dumps(read_vocabulary()[0], ensure_ascii=False, separators=(",", ":"))
    assert sha256(vocab.encode()) == "82b84012e3add4d01d12ba14442026e49b8cbbaead1f79ecf3d919784f82dc79"


def test_the_chat_template_is_the_published_one():
    """chat_template.json of the same folder; what the library has for folders with videos says one word more, and its
    newest versions take a message that is a text alone, too."""
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    written = json.dumps({"chat_template": SmolChat.template}, indent=2)
    assert sha256(written.encode()) == "a68ad1a42681ae44eacd109ff8dd56a840f761c03d72f4ff4c515d092f882168"
    library = DEFAULT_CHAT_TEMPLATE.replace("{% elif line['type'] == 'video' %}{{ '<video>' }}", "")
    if (alone := "{% if message['content'] is string %}{{': ' + message['content']}}{% else %}") in library:
        library = library.replace(alone, "").replace("{% endfor %}{% endif %}<end", "{% endfor %}<end")
    assert SmolChat.template == library


def test_ids_are_those_that_others_saw_with_the_published_folder():
    """A prompt printed by another project that ran the published tokenizer."""
    tokenizer = load_vocabulary()
    ids = tokenizer("<|im_start|>User: What is in<image> this image?<end_of_utterance>\nAssistant:")["input_ids"]
    assert ids == [1, 11126, 42, 1812, 314, 281, 49190, 451, 2443, 47, 49279, 198, 9519, 9531, 42]
    marks = ["<|endoftext|>", "<|im_end|>", "<global-img>", "<row_1_col_1>", "<row_6_col_6>"]
    assert tokenizer.convert_tokens_to_ids(marks) == [0, 2, 49152, 49153, 49188]
    assert tokenizer.convert_tokens_to_ids("<fake_token_around_image>") == 49189
    assert len(tokenizer) == 49280


def test_prompts_are_the_librarys(published):
    """Its chat template, its words for a picture, and the tokenizer over the whole text."""
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    text, actions = "put the white mug on the left plate", "474 479 0 1000"
    pictures = [{"type": "image"}] * 2
    chat = [
        {"role": "system", "content": [{"type": "text", "text": published.system}]},
        {"role": "user", "content": [*pictures, {"type": "text", "text": text}]},
    ]
    answered = [*chat, {"role": "assistant", "content": [{"type": "text", "text": actions}]}]
    words = ("<fake_token_around_image>", "<image>", "<global-img>")
    picture = get_image_prompt_string(0, 0, 64, *words)

    def library(messages, **more):
        written = published.tokenizer.apply_chat_template(messages, tokenize=False, **more)
        return written.replace("<image>", picture)

    ours = published.encode(text)["input_ids"]
    assert ours.tolist() == published.tokenizer(library(chat, add_generation_prompt=True) + " ")["input_ids"]
    encoded = published.encode(text, actions)
    assert encoded["input_ids"].tolist() == published.tokenizer(library(answered))["input_ids"]
    assert encoded["labels"][: len(ours)].eq(IGNORE).all()
    assert published.tokenizer.decode(encoded["labels"][len(ours) :]) == f"{actions}<end_of_utterance>\n"
    assert int((ours == published.image_id).sum()) == 128


def test_a_saved_tokenizer_is_the_same(published, tmp_path):
    published.tokenizer.save_pretrained(tmp_path)
    again = read_tokenizer(tmp_path)
    for text in (SmolChat.template, published.system, "Assistant: 474 1000 5", "Blätter <image>\n<|im_end|>"):
        assert again(text)["input_ids"] == published.tokenizer(text)["input_ids"]
    assert (again.pad_token_id, again.eos_token_id, again.chat_template) == (2, 49279, SmolChat.template)


def test_a_cut_vocabulary_keeps_ids_and_writes_the_same_letters(published, tmp_path):
    small = build_prompt(smol_cfg(tmp_path))
    assert (small.digit_ids, small.space_id, small.mask_id) == (list(range(32, 42)), 216, 47)
    assert (published.digit_ids, published.space_id, published.mask_id) == (list(range(32, 42)), 216, 47)
    assert len(small.tokenizer) == 512 + 128 and small.image_id == 512 + 38
    ids = small.tokenizer("pick up the tomato sauce")["input_ids"]
    assert small.tokenizer.decode(ids) == "pick up the tomato sauce" and max(ids) < 512


@pytest.mark.parametrize("mark", ["<image>", "<end_of_utterance>", "<|im_end|>", "<row_1_col_1>"])
def test_an_instruction_with_a_mark_is_refused(published, mark):
    with pytest.raises(ValueError, match="where marks of the model begin"):
        published.encode(f"pick {mark} up")


def test_state_stands_in_the_users_turn(published):
    ids = published.encode("go", "5", state_text="12 700")["input_ids"]
    assert published.tokenizer.decode(ids[-24:]).endswith(
        ">go\nState: 12 700<end_of_utterance>\nAssistant: 5<end_of_utterance>\n"
    )
    assert torch.equal(published.encode("go", "5", state_text="1")["input_ids"][:60], ids[:60])


def test_pictures_have_no_numbers():
    with pytest.raises(ValueError, match=r"vla0_smol\.yaml: PROMPT\.VISION_ID"):
        load_cfg(RECIPE, ["PROMPT.VISION_ID", True])
