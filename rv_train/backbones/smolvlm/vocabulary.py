"""SmolLM2's vocabulary with SmolVLM2's marks behind it, whole or cut to a small one; from a file beside this one.

`merges.txt.xz` is merges.txt of HuggingFaceTB/SmolVLM-256M-Instruct (Apache-2.0): sha256 0b54e8aa4e53d538… unpacked.
What else there is follows from it: 17 marks, the bytes that occur in it, and a token for each merge are vocab.json of
the same folder, sha256 82b84012e3add4d0….
"""

from pathlib import Path

from rv_train.backbones.tokenizer import read_merges

MERGES = Path(__file__).with_name("merges.txt.xz")
MARKS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
)
UNUSED = "ÀÁñòõö÷øùúûüýþÿĄĆēĔĖĝ"  # bytes, as byte-level BPE writes them, that SmolLM2 was never shown
SPLIT = 6  # a picture may be cut into so many rows and columns, whose tokens have marks; here none is
ADDED = (
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, SPLIT + 1) for column in range(1, SPLIT + 1)),
    "<fake_token_around_image>",
    "<image>",
    *(f"<|reserved_special_token_{number}|>" for number in range(88)),
    "<end_of_utterance>",
)


def read_vocabulary(vocab_cut=0):
    """({token: id}, [merges]); vocab_cut: keep only the first so many entries (0: all)."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(set(ByteLevel.alphabet()) - set(UNUSED))
    merges = read_merges(MERGES, vocab_cut - len(MARKS) - len(letters) if vocab_cut else None)
    tokens = [*MARKS, *letters, *("".join(pair) for pair in merges)]
    return {token: index for index, token in enumerate(tokens)}, merges


def load_vocabulary(vocab_cut=0):
    """SmolVLM2's tokenizer; of a cut one the marks follow the entries that are left."""
    from transformers import GPT2Tokenizer

    vocab, merges = read_vocabulary(vocab_cut)
    named = {"bos_token": "<|im_start|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    tokenizer = GPT2Tokenizer(vocab=vocab, merges=merges, eos_token="<|endoftext|>", **named)
    tokenizer.add_special_tokens({"additional_special_tokens": [*MARKS, *ADDED]})
    tokenizer.eos_token = "<end_of_utterance>"
    return tokenizer
