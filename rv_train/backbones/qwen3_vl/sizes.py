"""What Qwen3-VL's keys of the config tree mean, and what they are where nobody says: the 2B model."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones import sizes
from rv_train.backbones.patches import Patches
from rv_train.backbones.qwen.vocabulary import picture_ids

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


PATCHES = Patches(side=16, merge=2, frames=2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
DEFAULTS = {
    "MODEL.PATH": "Qwen/Qwen3-VL-2B-Instruct",
    "MODEL.TOKENIZER": "qwen3",
    # The last four are names of the vision tower's layers, which MODEL.LORA.VISION adds
    "MODEL.LORA.TARGETS": [
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        *("qkv", "proj", "linear_fc1", "linear_fc2"),
    ],
    "MODEL.TEXT": {
        "HIDDEN": 2048,
        "LAYERS": 28,
        "HEADS": 16,
        "KV_HEADS": 8,
        "HEAD_DIM": 128,
        "MLP": 6144,
        "ROPE_THETA": 5.0e6,
        "VOCAB": 151936,  # rows of the embedding, where MODEL.VOCAB_CUT is 0
        "TIED": True,  # the head is the embedding (the 8B model has one of its own)
    },
    "MODEL.VISION": {
        "HIDDEN": 1024,
        "LAYERS": 24,
        "HEADS": 16,
        "MLP": 4096,
        "POSITIONS": 2304,  # learned, a square of 48 x 48, interpolated to a picture's patches
        # Layers whose result is added to that of the first, second, ... text layer, too, at the pictures' places
        "DEEPSTACK": [5, 11, 17],
    },
}
TINY = {
    "IMAGE.SIZE": 64,
    "MODEL.VOCAB_CUT": 512,
    "MODEL.TEXT": {
        **{"HIDDEN": 32, "LAYERS": 3, "HEADS": 2, "KV_HEADS": 1, "HEAD_DIM": 24, "MLP": 64, "ROPE_THETA": 1.0e4}
    },
    "MODEL.VISION": {"HIDDEN": 32, "LAYERS": 3, "HEADS": 2, "MLP": 64, "POSITIONS": 16, "DEEPSTACK": [0, 1]},
}


def check(cfg: CfgNode) -> None:
    """What the attention of both towers can divide, and layers that there are."""
    text, vision = cfg.MODEL.TEXT, cfg.MODEL.VISION
    check_towers(cfg)
    sizes.check_layers(cfg, "DEEPSTACK")
    if sorted(set(vision.DEEPSTACK)) != list(vision.DEEPSTACK):
        raise BadInput(f"MODEL.VISION.DEEPSTACK must rise, got {vision.DEEPSTACK}")
    if len(vision.DEEPSTACK) > text.LAYERS:
        raise BadInput(
            f"MODEL.VISION.DEEPSTACK names {len(vision.DEEPSTACK)} layers, one text layer each, and MODEL.TEXT.LAYERS "
            f"is {text.LAYERS}"
        )


def check_towers(cfg: CfgNode) -> None:
    """BadInput where positions of three axes cannot share a head's pairs of numbers, or those of vision are no square;
    and what `sizes` checks."""
    text, vision = cfg.MODEL.TEXT, cfg.MODEL.VISION
    sizes.check_shared_keys(text)
    sizes.check_width(cfg, "VISION", 4)
    if text.HEAD_DIM % 2 or text.HEAD_DIM < 8:
        raise BadInput(f"MODEL.TEXT.HEAD_DIM must be even and at least 8, got {text.HEAD_DIM}")
    if math.isqrt(vision.POSITIONS) ** 2 != vision.POSITIONS:
        raise BadInput(f"MODEL.VISION.POSITIONS must be the square of a whole number, got {vision.POSITIONS}")


def random_config(cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase") -> "PretrainedConfig":
    """The library's config object for the sizes in MODEL.TEXT and MODEL.VISION."""
    from transformers import Qwen3VLConfig

    text, vision = cfg.MODEL.TEXT, cfg.MODEL.VISION
    return Qwen3VLConfig(
        text_config=text_config(cfg, tokenizer, sections(text.HEAD_DIM // 2)),
        vision_config={**vision_config(cfg), "deepstack_visual_indexes": list(vision.DEEPSTACK)},
        **picture_ids(tokenizer),
        tie_word_embeddings=text.TIED,
    )


def sections(pairs: int) -> list[int]:
    """How many pairs of a head's numbers the three axes of positions turn: the published models' 64 are 24 temporal, 20
    vertical, 20 horizontal."""
    side = pairs * 5 // 16
    return [pairs - 2 * side, side, side]


def text_config(cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase", mrope_section: Sequence[int]) -> dict[str, Any]:
    """What the text towers since Qwen3 have in common."""
    text = cfg.MODEL.TEXT
    return {
        **sizes.text_config(cfg, tokenizer, "<|im_end|>"),
        "head_dim": text.HEAD_DIM,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": text.ROPE_THETA,
            "mrope_section": mrope_section,
            "mrope_interleaved": True,
        },
    }


def vision_config(cfg: CfgNode) -> dict[str, Any]:
    """The same of their vision towers."""
    vision = cfg.MODEL.VISION
    return {
        "depth": vision.LAYERS,
        "hidden_size": vision.HIDDEN,
        "intermediate_size": vision.MLP,
        "num_heads": vision.HEADS,
        "num_position_embeddings": vision.POSITIONS,
        "patch_size": PATCHES.side,
        "spatial_merge_size": PATCHES.merge,
        "temporal_patch_size": PATCHES.frames,
        "out_hidden_size": cfg.MODEL.TEXT.HIDDEN,
    }
