"""What the values of the config tree must satisfy, alone and together; the keys are in config.py."""

import math
import re

from yacs.config import CfgNode

from libs.config_tree import get_leaf
from libs.errors import BadInput
from rv_train.backbones import FAMILIES, family_named, family_of, pictures_of
from rv_train.data.forms import ABSOLUTE, ACTION, DELTA, STATE, check_form
from rv_train.data.images import FITS
from rv_train.data.mixture import check_mix
from rv_train.data.sources import SOURCES, find_source
from rv_train.policies import POLICIES, policy_class
from rv_train.run_pages import TRACKERS

PARALLEL = ("ddp", "zero1", "fsdp")  # the keys of `rv_train.parallel.PARALLEL`, which takes seconds to import

_CHOICES = {
    "DATA.SOURCE": SOURCES,
    "IMAGE.FIT": FITS,
    "DATA.SAMPLER": ("full", "sharded"),
    "DATA.PREPROCESS": ("fast", "reference"),
    "ACTION.RANGE": ("min_max", "q01_q99"),
    "ACTION.MASK_STYLE": ("dropped", "learned"),
    "ACTION.MODE": (ABSOLUTE, DELTA),
    "ACTION.DELTA_TO": (STATE, ACTION),
    "MODEL.NAME": POLICIES,
    "MODEL.BACKBONE": FAMILIES,
    "MODEL.INIT": ("pretrained", "random"),
    "MODEL.ATTENTION": ("sdpa", "eager", "flash_attention_2"),
    "MODEL.QUANTIZE": ("none", "nf4"),
    "FLOW.CONDITION": ("last", "all"),
    "FLOW.NORMALIZE": ("min_max", "mean_std"),
    "FLOW.TIMES": ("uniform", "beta"),
    "FLOW.SOLVER": ("euler", "heun"),
    "TRAIN.PARALLEL": PARALLEL,
    "TRAIN.schedule": ("none", "cosine"),
    "TRAIN.optimizer": ("adamw", "adam", "adamw_8bit"),
    "AMP.mode": ("off", "bf16", "fp16", "auto"),
    "AMP.param_dtype": ("float32", "bfloat16"),
    "AMP.frozen_dtype": ("float32", "bfloat16"),
}
_RANGES = {
    "EXP.SEED": (0, math.inf),
    "DATA.MAX_DEMOS": (0, math.inf),
    "DATA.CACHE_JPEG": (0, 100),
    "DATA.NUM_WORKERS": (0, math.inf),
    "DATA.VAL_SHARE": (0, 0.9),
    "IMAGE.CROP": (0.1, 1),
    "IMAGE.BRIGHTNESS": (0, 1),
    "IMAGE.CONTRAST": (0, 1),
    "IMAGE.SATURATION": (0, 1),
    "IMAGE.HUE": (0, 0.5),
    "ACTION.DIM": (1, math.inf),
    "ACTION.HORIZON": (1, math.inf),
    "ACTION.NUM_BINS": (1, math.inf),
    "ACTION.MASK_MIN": (0, 1),
    "ACTION.MASK_MAX": (0, 1),
    "ACTION.MASK_NONE": (0, 1),
    "MODEL.LORA.RANK": (0, math.inf),
    "MODEL.LORA.ALPHA": (1, math.inf),
    "MODEL.LORA.DROPOUT": (0, 0.9),
    **{f"FLOW.{name}": (1, math.inf) for name in ("PROJECTOR", "HIDDEN", "LAYERS", "HEADS", "MLP", "HEAD_LAYERS")},
    "FLOW.PROPRIO_DROPOUT": (0, 1),
    "FLOW.DRAWS": (1, math.inf),
    "FLOW.STEPS": (1, math.inf),
    "TRAIN.batch_size": (1, math.inf),
    "TRAIN.grad_accum": (1, math.inf),
    "TRAIN.epochs": (1, math.inf),
    "TRAIN.max_steps": (0, math.inf),
    "TRAIN.lr": (0, math.inf),
    "TRAIN.warmup": (0, math.inf),
    "TRAIN.lr_end": (0, 1),
    "TRAIN.weight_decay": (0, math.inf),
    "TRAIN.clip_grad": (0, math.inf),
    "TRAIN.ema": (0, 0.999999),
    "TRAIN.max_bad_steps": (1, math.inf),
    "TRAIN.peak_tflops": (0, math.inf),
    "TRAIN.log_every": (1, math.inf),
    "TRAIN.save_every": (1, math.inf),
    "TRAIN.save_every_epochs": (0, math.inf),
    "TRAIN.keep_last": (1, math.inf),
    "TRAIN.keep_every": (0, math.inf),
    "EVAL.ACTION_HORIZON": (0, math.inf),
    "EVAL.ENSEMBLE_PREDICTION": (1, math.inf),
    "EVAL.ENSEMBLE_VERSION": (1, 2),
    "EVAL.ENSEMBLE_WEIGHT": (0, math.inf),
    "VALID.loss_batches": (0, math.inf),
    "VALID.gen_samples": (1, math.inf),
}


def check(cfg: CfgNode, origin: str) -> None:
    """BadInput, beginning with `origin`, where values are of the wrong kind or do not go together."""
    if cfg.AMP.param_dtype == "float16":
        raise BadInput(
            f"{origin}: AMP.param_dtype float16 cannot work: a gradient scaler refuses float16 gradients and an update "
            "of 5e-6 is lost in 10 bits; keep float32 (with AMP.mode fp16 the multiplications are in float16)"
        )
    check_values(cfg, origin)
    if not re.fullmatch(r"\w[\w.-]*", cfg.EXP.ID):
        raise BadInput(f"{origin}: EXP.ID names a folder: letters, digits, '_', '-' and '.', got {cfg.EXP.ID!r}")
    if not cfg.DATA.VIEWS:
        raise BadInput(f"{origin}: DATA.VIEWS needs at least one camera")
    _check_proprio(cfg, origin)
    if cfg.DATA.CACHE_JPEG and not cfg.DATA.CACHE:
        raise BadInput(f"{origin}: DATA.CACHE_JPEG {cfg.DATA.CACHE_JPEG} is for a frame cache: set DATA.CACHE, or 0")
    for key in ("VALID.loss_every", "VALID.gen_every"):
        if not 0 < get_leaf(cfg, key) < math.inf:
            raise BadInput(f"{origin}: {key} must be above 0 epochs, got {get_leaf(cfg, key)}")
    if len(cfg.TRAIN.betas) != 2 or not all(0 <= beta < 1 for beta in cfg.TRAIN.betas):
        raise BadInput(f"{origin}: TRAIN.betas are two numbers from 0 up to 1, got {cfg.TRAIN.betas}")
    unknown = [name for name in cfg.TRAIN.trackers if name not in TRACKERS]
    if unknown:
        raise BadInput(f"{origin}: TRAIN.trackers are some of {', '.join(TRACKERS)}; got {unknown[0]!r}")
    if cfg.ACTION.MASK_MIN > cfg.ACTION.MASK_MAX:
        raise BadInput(
            f"{origin}: ACTION.MASK_MIN {cfg.ACTION.MASK_MIN} is above ACTION.MASK_MAX {cfg.ACTION.MASK_MAX}"
        )
    if not re.fullmatch(r"[!-/:-~]", cfg.ACTION.MASK_CHAR):
        raise BadInput(
            f"{origin}: ACTION.MASK_CHAR is one ASCII character, neither digit nor space, got {cfg.ACTION.MASK_CHAR!r}"
        )
    if cfg.EVAL.ACTION_HORIZON > cfg.ACTION.HORIZON:
        raise BadInput(
            f"{origin}: EVAL.ACTION_HORIZON {cfg.EVAL.ACTION_HORIZON} is more than the ACTION.HORIZON "
            f"{cfg.ACTION.HORIZON} actions that are predicted at once"
        )
    size = cfg.IMAGE.SIZE
    if isinstance(size, list) and len(size) != 2:
        raise BadInput(f"{origin}: IMAGE.SIZE is a side or [height, width], got {size}")
    _check_sizes(cfg.MODEL, origin)
    _check_frozen(cfg.MODEL, cfg.TRAIN, cfg.AMP, origin)
    _check_fsdp(cfg, origin)
    try:
        check_mix(cfg)
        check_form(cfg)
        pictures_of(cfg)
        family_of(cfg).check(cfg)
        policy_class(cfg).check(cfg)
    except BadInput as error:
        raise BadInput(f"{origin}: {error}") from None
    if cfg.MODEL.VOCAB_CUT and cfg.MODEL.VOCAB_CUT < 256:
        raise BadInput(f"{origin}: MODEL.VOCAB_CUT must be 0 or at least 256 (the bytes), got {cfg.MODEL.VOCAB_CUT}")
    if cfg.MODEL.VOCAB_CUT and cfg.MODEL.INIT == "pretrained" and family_of(cfg).vocabulary_name == cfg.MODEL.TOKENIZER:
        raise BadInput(f"{origin}: MODEL.VOCAB_CUT gives other ids than pretrained weights know; set it to 0")
    if cfg.AMP.mode == "fp16" and cfg.AMP.param_dtype != "float32":
        raise BadInput(
            f"{origin}: AMP.mode fp16 scales gradients and needs float32 parameters, got {cfg.AMP.param_dtype}"
        )


def check_values(cfg: CfgNode, origin: str) -> None:
    """BadInput for a value outside its choices or its range."""
    for key, choices in _CHOICES.items():
        if get_leaf(cfg, key) not in choices:
            raise BadInput(f"{origin}: {key} is {get_leaf(cfg, key)!r}; choose one of {', '.join(choices)}")
    for key, (low, high) in _RANGES.items():
        if not low <= get_leaf(cfg, key) <= high or get_leaf(cfg, key) == math.inf:  # also refuses NaN
            raise BadInput(f"{origin}: {key} must be at least {low} and at most {high}, got {get_leaf(cfg, key)}")


def _check_proprio(cfg, origin):
    parts = cfg.DATA.PROPRIO
    twice = [part for part in parts if parts.count(part) > 1]
    if twice:
        raise BadInput(f"{origin}: DATA.PROPRIO names {twice[0]!r} twice")
    if parts and not find_source(cfg.DATA.SOURCE).PROPRIO:
        raise BadInput(f"{origin}: DATA.PROPRIO is {parts}, but DATA.SOURCE {cfg.DATA.SOURCE} holds none: set it to []")


def _check_frozen(model, train, amp, origin):
    known = family_named(model.BACKBONE).defaults["MODEL.LORA.TARGETS"]
    wrong = [name for name in model.LORA.TARGETS if name not in known]
    if wrong or not model.LORA.TARGETS:
        raise BadInput(f"{origin}: MODEL.LORA.TARGETS are some of {', '.join(known)}; got {wrong or 'none'}")
    if model.LORA.RANK and model.INIT != "pretrained":
        raise BadInput(f"{origin}: MODEL.LORA trains beside pretrained weights, MODEL.INIT is {model.INIT!r}")
    if model.FREEZE and model.INIT != "pretrained":
        raise BadInput(f"{origin}: MODEL.FREEZE keeps pretrained weights as they are, MODEL.INIT is {model.INIT!r}")
    frozen = model.FREEZE or model.LORA.RANK
    if train.save_base and not frozen:
        raise BadInput(f"{origin}: TRAIN.save_base is for frozen weights, MODEL.FREEZE and MODEL.LORA.RANK are off")
    if model.QUANTIZE != "none" and not frozen:
        raise BadInput(
            f"{origin}: MODEL.QUANTIZE {model.QUANTIZE} is for frozen weights: set MODEL.LORA.RANK or MODEL.FREEZE, or "
            "QUANTIZE none"
        )
    if model.QUANTIZE != "none" and (amp.mode, amp.frozen_dtype) == ("fp16", "bfloat16"):
        raise BadInput(
            f"{origin}: MODEL.QUANTIZE {model.QUANTIZE} multiplies in AMP.frozen_dtype bfloat16, which AMP.mode fp16 "
            "cannot mix: set AMP.mode bf16, or AMP.frozen_dtype float32"
        )


def _check_fsdp(cfg, origin):
    if cfg.TRAIN.PARALLEL != "fsdp":
        return
    for key, value in (("MODEL.QUANTIZE", "nf4"), ("TRAIN.optimizer", "adamw_8bit")):
        if get_leaf(cfg, key) == value:
            raise BadInput(
                f"{origin}: TRAIN.PARALLEL fsdp deals out rows, which {key} {value} packs into blocks: set "
                "TRAIN.PARALLEL zero1, or another value"
            )


def _check_sizes(model, origin):
    """Widths and numbers of layers are at least 1, whatever keys the family has."""
    for name in ("TEXT", "VISION"):
        for key, value in model[name].items():
            if type(value) is int and value < 1:
                raise BadInput(f"{origin}: MODEL.{name}.{key} must be at least 1, got {value}")
