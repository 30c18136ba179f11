"""The backbone: the library's own Qwen2.5-VL class, pretrained or random at any size, and what surrounds it.

Pictures become patches here, on the model's device; positions are computed explicitly, because without them the
library falls back to one-dimensional positions without a word.
"""

import contextlib
import importlib.util
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from rv_train.data.prompt import MERGE, PATCH
from rv_train.data.tokenizer import token_id
from rv_train.models.lora import attach, has_adapter, save_adapter, weights_sha256
from rv_train.optim import resolve_amp

TEMPORAL_PATCH = 2  # a still picture counts as two equal frames
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # the normalisation Qwen2.5-VL was trained with (that of CLIP)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
FLASH = "flash_attention_2"
BASE_VARIABLE = "VLA0_BASE"  # of the environment: where the weights below a saved adapter lie on this machine
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_backbone(cfg, tokenizer, weights=None):
    """`Qwen2_5_VLForConditionalGeneration` in the dtype of the config, with MODEL.LORA frozen and with adapters.

    Args:
        cfg: the config tree (MODEL, AMP).
        tokenizer: gives vocabulary size and special ids for a random model.
        weights: folder with saved weights, or with a saved adapter; None follows MODEL.INIT.
    Raises:
        ValueError: weights that cannot be found, or not those that an adapter was trained over.
    """
    attention = cfg.MODEL.ATTENTION
    if weights and attention == FLASH and not has_flash():
        attention = "sdpa"  # a saved model answers on any machine; training was refused by check_attention before
    if cfg.MODEL.LORA.RANK:
        path = base_path(cfg, weights)
        model = _load(path, attention, DTYPES[cfg.AMP.frozen_dtype])
        attach(model, cfg, {"path": path, "weights_sha256": weights_sha256(find_weights(path)[0])}, adapter=weights)
        return model
    dtype = DTYPES[cfg.AMP.param_dtype]
    if weights is None and cfg.MODEL.INIT == "random":
        from transformers import Qwen2_5_VLForConditionalGeneration

        config = random_config(cfg, tokenizer)
        return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=attention, dtype=dtype)
    return _load(weights or cfg.MODEL.PATH, attention, dtype)


def base_path(cfg, adapter=None):
    """Where the frozen weights of MODEL.LORA are: MODEL.PATH; for a saved adapter VLA0_BASE may name another place.

    Raises:
        ValueError: a saved adapter's are nowhere; without one `check_weights` has looked.
    """
    if adapter is None:
        return cfg.MODEL.PATH
    path = os.environ.get(BASE_VARIABLE) or cfg.MODEL.PATH
    try:
        check_source(path)
    except ValueError as error:
        raise ValueError(
            f"{adapter} is an adapter and needs the weights it was trained over; {error}. Put them there, or let the "
            f"environment variable {BASE_VARIABLE} name their folder"
        ) from error
    return path


def save_weights(backbone, folder):
    """What a training changes, into an existing folder: the model, or its adapter."""
    if has_adapter(backbone):
        save_adapter(backbone, folder)
        return
    with without_progress_bars():
        backbone.save_pretrained(folder, safe_serialization=True)


def _load(path, attention, dtype):
    """The library's model with the weights of a folder, or of a hub name that is cached or will be downloaded."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder, complete = find_weights(path)
    source = folder if complete else path
    try:
        with without_progress_bars():
            model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
                source, attn_implementation=attention, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"MODEL.PATH: cannot load weights from {source} ({reason}); give a folder that holds them, "
            "or train from scratch with MODEL.INIT random"
        ) from error
    # The library would fill what is missing with random numbers and say so in a warning.
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise ValueError(f"MODEL.PATH: {source} lacks {len(wrong)} weights of this model, the first is {wrong[0]}")
    return model


def has_flash():
    """Whether the package behind MODEL.ATTENTION flash_attention_2 is installed."""
    return importlib.util.find_spec("flash_attn") is not None


def check_attention(cfg, device, amp=None):
    """Whether MODEL.ATTENTION can train here: found out before anything is started.

    flash_attention_2 needs nothing from the caller. The text tower gets no mask (padding stands on the right, attention
    is causal), so the plain causal kernel runs; the vision tower hands its windows over as cumulative lengths. The
    library looks for packed sequences (positions that start again within a row) only in *text* positions, which it
    expects as a fourth row in front of the three of `mrope_position_ids`; given three it looks for none. A fourth row
    must not be added: positions of a picture do not rise by one, and a batch of one sample would be taken for several.

    Args:
        device: torch.device of a rank.
        amp: AMP.mode resolved for a device that is not here; None resolves it.
    Raises:
        ValueError: flash_attention_2 without its package, on a CPU, or without 16-bit numbers to multiply.
    """
    if cfg.MODEL.ATTENTION != FLASH:
        return
    instead = "or set MODEL.ATTENTION sdpa: PyTorch's own fused kernels, the same numbers"
    if not has_flash():
        raise ValueError(
            f"MODEL.ATTENTION {FLASH} needs flash-attn: pip install flash-attn --no-build-isolation, {instead}"
        )
    if device.type != "cuda":
        raise ValueError(f"MODEL.ATTENTION {FLASH} runs on GPUs only, this rank is on {device}; {instead}")
    if cfg.AMP.param_dtype == "float32" and (amp or resolve_amp(cfg.AMP.mode, device)) == "off":
        raise ValueError(
            f"MODEL.ATTENTION {FLASH} multiplies 16-bit numbers only, AMP.mode {cfg.AMP.mode} over float32 parameters "
            f"gives it float32: set AMP.mode bf16, {instead}"
        )


def check_compiler(option="TRAIN.compile"):
    """ValueError if torch.compile finds no compiler for the C++ it writes (on a GPU: around its kernels)."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ValueError(f"{option} needs a C++ compiler and finds no {compiler}: install it, or do without {option}")


@contextlib.contextmanager
def without_flash(backbone):
    """Inside, flash_attention_2 gives way to sdpa, which takes float32, too: answering knows no autocast."""
    config = backbone.config
    flash = config._attn_implementation == FLASH
    if flash:
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        if flash:
            config._attn_implementation = FLASH


@contextlib.contextmanager
def without_progress_bars():
    """The library draws a bar for every file it reads or writes; with several ranks they cut the console apart."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def check_weights(cfg):
    """ValueError if MODEL.INIT wants weights and MODEL.PATH has none: found out before anything is started."""
    if cfg.MODEL.INIT == "pretrained":
        check_source(cfg.MODEL.PATH)


def check_source(path):
    """ValueError unless a folder holds weights, or a hub name is in the cache or known to the hub."""
    if find_weights(path)[1]:
        return
    if Path(path).is_dir():
        raise ValueError(f"MODEL.PATH: {path} holds no model, it lacks {missing_files(path)[0]}")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:  # asks once; loading would try for half a minute
        get_hf_file_metadata(hf_hub_url(path, "config.json"))
    except Exception as error:  # of the network, the hub, or the name
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"MODEL.PATH: {path} is neither a folder with weights nor in the cache, nor to be had from the "
            f"Hugging Face hub ({reason})"
        ) from error


def find_weights(path):
    """Where MODEL.PATH lies on this machine: itself, or a hub name's place in the local cache. Asks no hub.

    Returns:
        (folder with its config.json or None, whether weights lie there, too).
    """
    from huggingface_hub import try_to_load_from_cache

    folder = Path(path)
    if not folder.is_dir():
        try:
            found = try_to_load_from_cache(path, "config.json")
        except ValueError:  # not the form of a hub name
            found = None
        folder = Path(found).parent if isinstance(found, str) else None
    if folder is None or not (folder / "config.json").is_file():
        return None, False
    return folder, is_model_folder(folder)


def random_config(cfg, tokenizer):
    """The library's config object for the sizes in MODEL.TEXT and MODEL.VISION."""
    from transformers import Qwen2_5_VLConfig

    text, vision = cfg.MODEL.TEXT, cfg.MODEL.VISION
    half = text.HIDDEN // text.HEADS // 2
    side = half * 3 // 8  # the 3B model splits 64 frequencies into 16 temporal, 24 vertical, 24 horizontal
    vocab_size = -(-len(tokenizer) // 64) * 64 if cfg.MODEL.VOCAB_CUT else 151936
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": text.HIDDEN,
            "intermediate_size": text.MLP,
            "num_hidden_layers": text.LAYERS,
            "num_attention_heads": text.HEADS,
            "num_key_value_heads": text.KV_HEADS,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": token_id(tokenizer, "<|im_end|>"),
            "pad_token_id": None,
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
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "window_size": 112,
            "out_hidden_size": text.HIDDEN,
            "fullatt_block_indexes": list(vision.FULL_ATTENTION),
        },
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=True,
    )


def image_patches(images, dtype=torch.float32):
    """Pictures → normalised patches in the order Qwen2.5-VL expects: a fixed reshape, no resizing.

    Args:
        images: (P, H, W, 3) uint8, H and W multiples of 28.
    Returns:
        (P * H/14 * W/14, 1176) values in `dtype`, and the grid (P, 3) int64: one frame, H/14, W/14.
    """
    number, height, width, _ = images.shape
    rows, columns = height // (PATCH * MERGE), width // (PATCH * MERGE)
    mean = torch.tensor(IMAGE_MEAN, device=images.device)
    std = torch.tensor(IMAGE_STD, device=images.device)
    x = (images.float() / 255 - mean) / std
    x = x.view(number, rows, MERGE, PATCH, columns, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, TEMPORAL_PATCH, -1, -1)
    grid = torch.tensor([[1, rows * MERGE, columns * MERGE]], device=images.device).expand(number, 3)
    return x.reshape(number * rows * columns * MERGE * MERGE, -1).to(dtype), grid


def mrope_position_ids(input_ids, image_id, rows, columns):
    """The three-dimensional positions of Qwen2.5-VL for prompts whose pictures all have the same size.

    Text advances all three coordinates by one per token; a picture keeps the temporal coordinate of its start, spreads
    rows and columns over the other two, and the text behind it goes on after max(rows, columns).

    Args:
        input_ids: (B, L) int64.
        image_id: id of `<|image_pad|>`.
        rows, columns: image tokens per picture, vertically and horizontally.
    Returns:
        (3, B, L) int64.
    """
    is_image = input_ids == image_id
    images_before = torch.cumsum(is_image, dim=1) - is_image.long()  # image tokens before this one
    text_before = torch.cumsum(~is_image, dim=1) - (~is_image).long()
    picture, inside = images_before // (rows * columns), images_before % (rows * columns)
    start = text_before + picture * max(rows, columns)
    vertical = torch.where(is_image, start + inside // columns, start)
    horizontal = torch.where(is_image, start + inside % columns, start)
    return torch.stack([start, vertical, horizontal])


def image_processor_settings(cfg):
    """`preprocessor_config.json` for the saved folder: the library's image processor, told not to resize further."""
    pixels = cfg.IMAGE.SIZE * cfg.IMAGE.SIZE * (len(cfg.DATA.VIEWS) if cfg.IMAGE.TILE else 1)
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "min_pixels": pixels,
        "max_pixels": pixels,
    }


def missing_files(folder):
    """Names of the files that a folder of saved weights lacks, such as a part that was not downloaded."""
    folder, index = Path(folder), Path(folder) / "model.safetensors.index.json"
    if index.is_file():
        weights = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        weights = [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]
    return [name for name in ("config.json", *weights) if not (folder / name).is_file()]


def is_model_folder(folder):
    """Whether a folder holds saved weights, all of them."""
    return not missing_files(folder)
