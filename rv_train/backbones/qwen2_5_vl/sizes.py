"""What Qwen2.5-VL's keys of the config tree mean, and what they are where nobody says: the 3B model."""

from typing import TYPE_CHECKING

from yacs.config import CfgNode

from rv_train.backbones.qwen.vocabulary import picture_ids
from rv_train.backbones.qwen2_5_vl.pictures import PATCHES
from rv_train.backbones.sizes import check_heads, check_layers, text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


WINDOW = 112  # pixels per side of the windows that most vision layers attend in

DEFAULTS = {
    "MODEL.PATH": "Qwen/Qwen2.5-VL-3B-Instruct",
    "MODEL.TOKENIZER": "qwen2.5",
    "MODEL.LORA.TARGETS": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "MODEL.TEXT": {
        "HIDDEN": 2048,
        "LAYERS": 36,
        "HEADS": 16,
        "KV_HEADS": 2,
        "MLP": 11008,
        "ROPE_THETA": 1.0e6,
        "VOCAB": 151936,  # rows of the embedding, where MODEL.VOCAB_CUT is 0
        "TIED": True,  # the head is the embedding (the 7B model has one of its own)
    },
    "MODEL.VISION": {
        "HIDDEN": 1280,
        "LAYERS": 32,
        "HEADS": 16,
        "MLP": 3420,
        "FULL_ATTENTION": [7, 15, 23, 31],  # layers that attend over the whole picture, the others in windows
    },
}
# What configs/tiny.yaml is, too.
TINY = {
    "IMAGE.SIZE": 56,
    "MODEL.VOCAB_CUT": 512,
    "MODEL.TEXT": {"HIDDEN": 32, "LAYERS": 2, "HEADS": 2, "KV_HEADS": 1, "MLP": 64, "ROPE_THETA": 1.0e4},
    "MODEL.VISION": {"HIDDEN": 32, "LAYERS": 2, "HEADS": 2, "MLP": 64, "FULL_ATTENTION": [0, 1]},
}


def check(cfg: CfgNode) -> None:
    """What the attention of both towers can divide; positions turn pairs of a head's numbers, of pictures in 2D."""
    check_heads(cfg, text=2, vision=4)
    check_layers(cfg, "FULL_ATTENTION")


def random_config(cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase") -> "PretrainedConfig":
    """The library's config object for the sizes in MODEL.TEXT and MODEL.VISION."""
    from transformers import Qwen2_5_VLConfig

    text, vision = cfg.MODEL.TEXT, cfg.MODEL.VISION
    half = text.HIDDEN // text.HEADS // 2
    side = half * 3 // 8  # the 3B model splits 64 frequencies into 16 temporal, 24 vertical, 24 horizontal
    return Qwen2_5_VLConfig(
        text_config={
            **text_config(cfg, tokenizer, "<|im_end|>"),
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": text.ROPE_THETA,
                "mrope_section": [half - 2 * side, side, side],
            },
        },
        vision_config={
            "depth": vision.LAYERS,
            "hidden_size": vision.HIDDEN,
            "intermediate_size": vision.MLP,
            "num_heads": vision.HEADS,
            "patch_size": PATCHES.side,
            "spatial_merge_size": PATCHES.merge,
            "temporal_patch_size": PATCHES.frames,
            "window_size": WINDOW,
            "out_hidden_size": text.HIDDEN,
            "fullatt_block_indexes": list(vision.FULL_ATTENTION),
        },
        **picture_ids(tokenizer),
        tie_word_embeddings=text.TIED,
    )
