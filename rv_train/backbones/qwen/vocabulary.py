"""Qwen's vocabulary, whole or cut to a small one; from a file beside this one, no hub.

Qwen2.5 and Qwen3 share it; what differs is how many tokens are added behind it. `merges.txt.xz` is merges.txt of
Qwen2.5 (Apache-2.0): sha256 b8e04af9c950e393… unpacked. vocab.json of the same folder, sha256 ca10d7e9fb3ed185…,
follows from it.
"""

from pathlib import Path

from rv_train.backbones.tokenizer import read_merges, token_id

MERGES = Path(__file__).with_name("merges.txt.xz")

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


def read_vocabulary(vocab_cut=0):
    """({token: id}, [merges]); vocab_cut: keep only the first so many entries (0: all)."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())  # the 256 bytes come first, then one entry per merge, in order
    merges = read_merges(MERGES, vocab_cut - len(letters) if vocab_cut else None)
    tokens = [*letters, *("".join(pair) for pair in merges)]
    return {token: index for index, token in enumerate(tokens)}, merges


def with_added_tokens(tokenizer, plain=PLAIN_TOKENS):
    """A tokenizer of such a vocabulary, the special tokens and these plain ones behind it in the order of their ids."""
    from transformers import AddedToken

    # Naming eos/pad in the constructor would shift the ids of the first special tokens: add in order, name afterwards.
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def load_vocabulary(vocab_cut=0, plain=PLAIN_TOKENS):
    """The tokenizer of Qwen2.5, or with more plain tokens that of Qwen3, see `read_vocabulary`."""
    from transformers import Qwen2Tokenizer

    vocab, merges = read_vocabulary(vocab_cut)
    return with_added_tokens(Qwen2Tokenizer(vocab=vocab, merges=merges), plain)


def picture_ids(tokenizer):
    """Of the marks around and in pictures, as the library's config names them."""
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    names |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    return {f"{name}_token_id": token_id(tokenizer, token) for name, token in names.items()}
