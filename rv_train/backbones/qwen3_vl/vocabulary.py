"""Qwen3's vocabulary: Qwen2.5's, with four more tokens behind it (151665 to 151668)."""

from rv_train.backbones.qwen import vocabulary

NAME = "qwen3"
PLAIN_TOKENS = (*vocabulary.PLAIN_TOKENS, "<tool_response>", "</tool_response>", "<think>", "</think>")


def load_vocabulary(vocab_cut=0):
    """Qwen3's tokenizer; vocab_cut: keep only the first so many entries (0: all), the added tokens follow them."""
    return vocabulary.load_vocabulary(vocab_cut, PLAIN_TOKENS)
