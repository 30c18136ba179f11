"""What SmolVLM2's keys of the config tree mean, and what they are where nobody says: the 500M model."""

from typing import TYPE_CHECKING

from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones.sizes import check_heads, text_config
from rv_train.backbones.tokenizer import token_id

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


DEFAULTS = {
    "MODEL.PATH": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
    "MODEL.TOKENIZER": "smollm2",
    "MODEL.LORA.TARGETS": [
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        *("out_proj", "fc1", "fc2"),
    ],
    "MODEL.TEXT": {
        "HIDDEN": 960,
        "LAYERS": 32,
        "HEADS": 15,
        "KV_HEADS": 5,
        "MLP": 2560,
        "ROPE_THETA": 1.0e5,
        "VOCAB": 49280,  # rows of the embedding, where MODEL.VOCAB_CUT is 0
        "TIED": False,  # the head is the embedding
    },
    # How pictures are cut (PATCH, SHUFFLE, PICTURE) counts for pretrained weights, too, and must be theirs: of 256M and
    # 500M it is this; 2.2B has patches of 14, 3 x 3 of them per image token, and pictures of 384.
    "MODEL.VISION": {
        "HIDDEN": 768,
        "LAYERS": 12,
        "HEADS": 12,
        "MLP": 3072,
        "PATCH": 16,  # pixels of a patch's side
        "SHUFFLE": 4,  # patches per side of an image token
        "PICTURE": 512,  # side of the largest picture, pixels: every patch of it has a learned position
    },
    "IMAGE.SIZE": 512,
    "IMAGE.TILE": False,  # pictures are square
    "PROMPT.VISION_ID": False,  # and have no names
}
TINY = {
    "IMAGE.SIZE": 64,
    "MODEL.VOCAB_CUT": 512,
    "MODEL.TEXT": {"HIDDEN": 32, "LAYERS": 2, "HEADS": 2, "KV_HEADS": 1, "MLP": 64, "ROPE_THETA": 1.0e4},
    "MODEL.VISION": {"HIDDEN": 32, "LAYERS": 2, "HEADS": 2, "MLP": 64, "PATCH": 8, "SHUFFLE": 4, "PICTURE": 128},
}


def check(cfg: CfgNode) -> None:
    """What the attention of both towers can divide, and pictures without names."""
    check_heads(cfg, text=2, vision=1)
    if cfg.PROMPT.VISION_ID:
        raise BadInput(
            "PROMPT.VISION_ID names pictures, which the chat of MODEL.BACKBONE smolvlm does not: set it False"
        )


def random_config(cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase") -> "PretrainedConfig":
    """The library's config object for the sizes in MODEL.TEXT and MODEL.VISION."""
    from transformers import SmolVLMConfig

    text, vision = cfg.MODEL.TEXT, cfg.MODEL.VISION
    return SmolVLMConfig(
        text_config={
            "model_type": "llama",
            **text_config(cfg, tokenizer, "<end_of_utterance>"),
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": text.ROPE_THETA},
        },
        vision_config={
            "hidden_size": vision.HIDDEN,
            "intermediate_size": vision.MLP,
            "num_hidden_layers": vision.LAYERS,
            "num_attention_heads": vision.HEADS,
            "image_size": vision.PICTURE,
            "patch_size": vision.PATCH,
        },
        scale_factor=vision.SHUFFLE,
        image_token_id=token_id(tokenizer, "<image>"),
        pad_token_id=None,
        tie_word_embeddings=text.TIED,
    )
