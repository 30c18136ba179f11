"""Tokenizers: the one that a folder brings, or the vocabulary that lies beside its family's code (no hub)."""

import lzma
from pathlib import Path

from libs.errors import BadInput, first_line
from libs.files import kind_of
from rv_train.backbones.folders import find_weights

FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")  # one of them is in every folder with a tokenizer
EXAMPLE = "0 1 2 3 4 5 6 7 8 9 1000"


def load_tokenizer(cfg, family):
    """The tokenizer of MODEL.TOKENIZER: a folder's, or of the family's own vocabulary. Pretrained weights whose folder
    holds a tokenizer bring it along; the family's own serves only where there is none.

    Raises:
        BadInput: the folder has no tokenizer, or the vocabulary files are not where they should be.
    """
    source = cfg.MODEL.TOKENIZER
    if source == family.vocabulary_name:
        folder = find_weights(cfg.MODEL.PATH)[0] if cfg.MODEL.INIT == "pretrained" else None
        if folder is None or not any((folder / name).is_file() for name in FILES):
            return with_template(family.vocabulary(cfg.MODEL.VOCAB_CUT), family)
        source = folder
    elif kind_of(source) != "folder":
        raise BadInput(
            f"MODEL.TOKENIZER: {source} is neither {family.vocabulary_name!r} nor a folder with a saved tokenizer"
        )
    return with_template(read_tokenizer(source), family)


def with_template(tokenizer, family):
    """The same tokenizer, with the prompt of this project as its chat template."""
    tokenizer.chat_template = family.chat.template
    return tokenizer


def read_tokenizer(folder):
    """What `save_pretrained` wrote into a folder; BadInput where it cannot be read. Never runs code of the folder."""
    from transformers import AutoTokenizer  # a second and more, which the parent of ranks need not spend

    try:
        return AutoTokenizer.from_pretrained(Path(folder), trust_remote_code=False)
    except Exception as error:  # the library reads files there and nothing else, and raises whatever it stumbles over
        raise BadInput(
            f"MODEL.TOKENIZER: {folder} holds no tokenizer that can be read ({first_line(error)})"
        ) from error


def read_merges(path: Path, number: int | None = None) -> list[tuple[str, str]]:
    """The first `number` merges (None: all) of a merges.txt packed as .xz; its first line says a version."""
    lines = lzma.decompress(path.read_bytes()).decode().splitlines()[1:]
    return [tuple(line.split(" ")) for line in lines[:number]]


def token_id(tokenizer, token):
    """The id of one token of the vocabulary; BadInput when it is not there."""
    index = tokenizer.convert_tokens_to_ids(token)
    if index is None or tokenizer.convert_ids_to_tokens(index) != token:
        raise BadInput(f"the tokenizer has no token {token!r}")
    return index


def character_ids(tokenizer):
    """The ids of 0 to 9 and of the space in an action text: [eleven ids].

    Raises:
        BadInput: the tokenizer does not write such a text character by character; with an example.
    """
    ids = tokenizer(EXAMPLE, add_special_tokens=False)["input_ids"]
    found = dict(zip(EXAMPLE, ids, strict=False))
    if [found[character] for character in EXAMPLE if character in found] != ids or len(set(found.values())) != 11:
        pieces = [tokenizer.decode([index]) for index in ids]
        raise BadInput(
            f"the tokenizer writes the action text {EXAMPLE!r} as {pieces}: actions are read and hidden digit by "
            "digit, so every digit and every space must be a token of its own"
        )
    return [found[character] for character in "0123456789 "]
