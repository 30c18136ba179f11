"""A stand-in for Qwen3.5's vocabulary of 248,320, which no package ships: the library's tokenizer class for it, over
Qwen2.5's entries. It writes action texts the same way, with other ids; pretrained weights need the tokenizer of their
folder, and are refused with this one."""

from rv_train.backbones.qwen.vocabulary import read_vocabulary, with_added_tokens
from rv_train.backbones.qwen3_vl.vocabulary import PLAIN_TOKENS

NAME = "qwen3.5-stand-in"


def load_vocabulary(vocab_cut=0):
    """The tokenizer; vocab_cut: keep only the first so many entries (0: all), the added tokens follow them."""
    from transformers import Qwen3_5Tokenizer

    vocab, merges = read_vocabulary(vocab_cut)
    return with_added_tokens(Qwen3_5Tokenizer(vocab=vocab, merges=merges), PLAIN_TOKENS)
