"""What Qwen3.5's keys of the config tree mean, and what they are where nobody says: the 0.8B model.

Its sizes are those that configuration files and GGUF headers quote; the heads and the MLP of its vision tower are
inferred (heads of 64 numbers and four times the width, as usual).
"""

from typing import TYPE_CHECKING

from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones.qwen.vocabulary import picture_ids
from rv_train.backbones.qwen3_5.vocabulary import NAME
from rv_train.backbones.qwen3_vl import sizes

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


DEFAULTS = {
    "MODEL.PATH": "Qwen/Qwen3.5-0.8B",
    "MODEL.TOKENIZER": NAME,
    # Of attention, of linear attention, of MLPs, and of the vision tower, which MODEL.LORA.VISION adds
    "MODEL.LORA.TARGETS": [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"),
        *("gate_proj", "up_proj", "down_proj"),
        *("qkv", "proj", "linear_fc1", "linear_fc2"),
    ],
    "MODEL.TEXT": {
        "HIDDEN": 1024,
        "LAYERS": 24,
        "ATTENDING": 4,  # every so-many-th layer attends to all tokens, the others are linear attention
        "HEADS": 8,
        "KV_HEADS": 2,
        "HEAD_DIM": 256,
        "ROTARY": 0.25,  # share of a head's numbers that positions turn
        "ROPE_THETA": 1.0e7,
        # Linear attention keeps a matrix of KEY_DIM x VALUE_DIM numbers per head of values, for all tokens before
        "LINEAR_KEY_HEADS": 16,
        "LINEAR_VALUE_HEADS": 16,
        "LINEAR_KEY_DIM": 128,
        "LINEAR_VALUE_DIM": 128,
        "LINEAR_KERNEL": 4,  # tokens that its convolution sees
        "MLP": 3584,
        "VOCAB": 248320,  # rows of the embedding, where MODEL.VOCAB_CUT is 0
        "TIED": True,  # the head is the embedding
    },
    "MODEL.VISION": {
        "HIDDEN": 768,
        "LAYERS": 12,
        "HEADS": 12,
        "MLP": 3072,
        "POSITIONS": 2304,  # learned, a square of 48 x 48, interpolated to a picture's patches
    },
}
TINY = {
    "IMAGE.SIZE": 64,
    "MODEL.VOCAB_CUT": 512,
    "MODEL.TEXT": {
        **{"HIDDEN": 32, "LAYERS": 3, "ATTENDING": 2, "HEADS": 2, "KV_HEADS": 1, "HEAD_DIM": 32, "ROTARY": 0.5},
        # 32 heads: of fewer, numbers per head may not fill a CPU's vectors, and a row's last bit depends on its place
        **{"LINEAR_KEY_HEADS": 16, "LINEAR_VALUE_HEADS": 32, "LINEAR_KEY_DIM": 4, "LINEAR_VALUE_DIM": 8},
        **{"MLP": 64, "ROPE_THETA": 1.0e4},
    },
    "MODEL.VISION": {"HIDDEN": 32, "LAYERS": 2, "HEADS": 2, "MLP": 64, "POSITIONS": 16},
}


def check(cfg: CfgNode) -> None:
    """What attention of both kinds can divide."""
    text = cfg.MODEL.TEXT
    sizes.check_towers(cfg)
    turned = text.HEAD_DIM * text.ROTARY
    if not 0 < text.ROTARY <= 1 or turned % 2 or turned < 6:
        raise BadInput(
            f"MODEL.TEXT.ROTARY x HEAD_DIM must be even, at least 6 and at most HEAD_DIM, got {text.ROTARY:g} x "
            f"{text.HEAD_DIM}"
        )
    if text.LINEAR_VALUE_HEADS % text.LINEAR_KEY_HEADS:
        raise BadInput(
            f"MODEL.TEXT.LINEAR_VALUE_HEADS must be a multiple of LINEAR_KEY_HEADS, got {text.LINEAR_VALUE_HEADS}, "
            f"{text.LINEAR_KEY_HEADS}"
        )
    if text.ATTENDING > text.LAYERS:
        raise BadInput(
            f"MODEL.TEXT.ATTENDING {text.ATTENDING} leaves no layer of {text.LAYERS} that attends to all tokens"
        )


def sections(pairs: int) -> list[int]:
    """How many pairs of a head's numbers the three axes of positions turn: the published models' 32 are 11 temporal, 11
    vertical, 10 horizontal."""
    vertical, horizontal = (pairs + 1) // 3, pairs // 3
    return [pairs - vertical - horizontal, vertical, horizontal]


def random_config(cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase") -> "PretrainedConfig":
    """The library's config object for the sizes in MODEL.TEXT and MODEL.VISION."""
    from transformers import Qwen3_5Config

    text = cfg.MODEL.TEXT
    common = sizes.text_config(cfg, tokenizer, sections(int(text.HEAD_DIM * text.ROTARY) // 2))
    common["rope_parameters"]["partial_rotary_factor"] = text.ROTARY
    attends = [(layer + 1) % text.ATTENDING == 0 for layer in range(text.LAYERS)]
    linear = {
        "layer_types": ["full_attention" if whole else "linear_attention" for whole in attends],
        "linear_num_key_heads": text.LINEAR_KEY_HEADS,
        "linear_num_value_heads": text.LINEAR_VALUE_HEADS,
        "linear_key_head_dim": text.LINEAR_KEY_DIM,
        "linear_value_head_dim": text.LINEAR_VALUE_DIM,
        "linear_conv_kernel_dim": text.LINEAR_KERNEL,
    }
    return Qwen3_5Config(
        text_config={**common, **linear},
        vision_config=sizes.vision_config(cfg),
        **picture_ids(tokenizer),
        tie_word_embeddings=text.TIED,
    )
