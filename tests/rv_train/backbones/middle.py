"""Sizes of the families that test_flops.py and test_memory.py do not measure, at which what the formulas leave out is
small; and models of them with adapters."""

import torch

from rv_train.backbones.lora import attach
from tests.tiny import tiny_cfg, tiny_model

SIZES = {
    "IMAGE__SIZE": 128,
    "TRAIN__batch_size": 4,
    "MODEL__TEXT__HIDDEN": 128,
    "MODEL__TEXT__LAYERS": 6,
    "MODEL__TEXT__HEADS": 4,
    "MODEL__TEXT__KV_HEADS": 2,
    "MODEL__TEXT__MLP": 512,
    "MODEL__VISION__HIDDEN": 64,
    "MODEL__VISION__LAYERS": 6,
    "MODEL__VISION__HEADS": 4,
    "MODEL__VISION__MLP": 256,
}
MIDDLE = {
    "qwen3_vl": {**SIZES, "MODEL__TEXT__HEAD_DIM": 48, "MODEL__VISION__DEEPSTACK": [1, 3]},
    "qwen3_5": {
        **{**SIZES, "MODEL__TEXT__LAYERS": 8, "MODEL__TEXT__ATTENDING": 4, "MODEL__TEXT__HEAD_DIM": 64},
        **{"MODEL__TEXT__LINEAR_KEY_HEADS": 2, "MODEL__TEXT__LINEAR_VALUE_HEADS": 2},
        **{"MODEL__TEXT__LINEAR_KEY_DIM": 64, "MODEL__TEXT__LINEAR_VALUE_DIM": 64},
    },
    "smolvlm": SIZES,
}
# What makes the samples of a family's tiny recipe other ones, whose operations are counted, too: pictures that are not
# beside each other, larger ones, or fewer ({"DATA__VIEWS": ["agentview"]}) where a family sees them in one size only.
OTHER = {"qwen3_vl": {"IMAGE__TILE": False}, "smolvlm": {"IMAGE__SIZE": 128}}
LORA = {"MODEL__INIT": "pretrained", "MODEL__TOKENIZER": "of the model", "MODEL__LORA__RANK": 8}


def adapted(recipe, sizes, **opts):
    """(cfg, model) with adapters, without going over the disk."""
    model = tiny_model(tiny_cfg(recipe, **sizes, **{k: v for k, v in opts.items() if k == "MODEL__ATTENTION"}))
    cfg = tiny_cfg(recipe, **sizes, **LORA, **opts)
    model.backbone.to(getattr(torch, cfg.AMP.frozen_dtype))
    attach(model.backbone, cfg, model.family, {"path": "memory", "weights_sha256": ""})
    if cfg.TRAIN.grad_checkpoint:
        model.recompute_activations()
    return cfg, model.train()
