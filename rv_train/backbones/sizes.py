"""What families with the usual keys of MODEL.TEXT and MODEL.VISION have in common: sizes that attention can divide, and
what the library's config is told of them."""

from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones.tokenizer import token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_heads(cfg: CfgNode, text: int, vision: int) -> None:
    """BadInput where heads do not divide a tower's width, in pieces that positions can turn; or share their keys.

    text, vision: numbers of a head that a position turns together, in each tower.
    """
    check_width(cfg, "TEXT", text)
    check_width(cfg, "VISION", vision)
    check_shared_keys(cfg.MODEL.TEXT)


def check_width(cfg: CfgNode, name: str, unit: int) -> None:
    """BadInput where the heads of MODEL.<name> do not divide its width into multiples of `unit` numbers."""
    tower = cfg.MODEL[name]
    if tower.HIDDEN % (unit * tower.HEADS):
        raise BadInput(
            f"MODEL.{name}.HIDDEN must be a multiple of {unit} x HEADS, got {tower.HIDDEN} and {tower.HEADS} heads"
        )


def check_shared_keys(text: CfgNode) -> None:
    """BadInput where heads of queries cannot share those of keys evenly."""
    if text.HEADS % text.KV_HEADS:
        raise BadInput(f"MODEL.TEXT.HEADS must be a multiple of KV_HEADS, got {text.HEADS}, {text.KV_HEADS}")


def check_layers(cfg: CfgNode, key: str) -> None:
    """BadInput where MODEL.VISION.<key> names a layer that there is not."""
    vision = cfg.MODEL.VISION
    beyond = [layer for layer in vision[key] if not 0 <= layer < vision.LAYERS]
    if beyond:
        raise BadInput(f"MODEL.VISION.{key} names layer {beyond[0]} of 0 to {vision.LAYERS - 1}")


def text_config(cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase", end: str) -> dict[str, Any]:
    """The text tower's part of a library's config for a random model: its sizes, and no token but the end.

    end: the name of the token that ends an answer. BadInput: there are tokens without a row in the embedding.
    """
    text = cfg.MODEL.TEXT
    rows = -(-len(tokenizer) // 64) * 64 if cfg.MODEL.VOCAB_CUT else text.VOCAB
    if rows < len(tokenizer):
        raise BadInput(
            f"MODEL.TEXT.VOCAB is {rows}, the tokenizer {cfg.MODEL.TOKENIZER} has {len(tokenizer)} tokens: give each "
            "a row, or make the vocabulary small with MODEL.VOCAB_CUT"
        )
    return {
        "vocab_size": rows,
        "hidden_size": text.HIDDEN,
        "intermediate_size": text.MLP,
        "num_hidden_layers": text.LAYERS,
        "num_attention_heads": text.HEADS,
        "num_key_value_heads": text.KV_HEADS,
        "tie_word_embeddings": text.TIED,
        "bos_token_id": None,
        "eos_token_id": token_id(tokenizer, end),
        "pad_token_id": None,
    }
