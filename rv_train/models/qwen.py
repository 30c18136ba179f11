"""What surrounds the library's Qwen2.5-VL: pictures, positions, attention, and how its layers are run.

Pictures become patches here, on the model's device; positions are computed explicitly, because without them the
library falls back to one-dimensional positions without a word.
"""

import contextlib
import functools
import importlib.util
import os
import shutil

import torch

from libs.errors import BadInput
from rv_train.data.prompt import MERGE, PATCH
from rv_train.optim import resolve_amp

TEMPORAL_PATCH = 2  # a still picture counts as two equal frames
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # the normalisation Qwen2.5-VL was trained with (that of CLIP)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
FLASH = "flash_attention_2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
        BadInput: flash_attention_2 without its package, on a CPU, or without 16-bit numbers to multiply.
    """
    if cfg.MODEL.ATTENTION != FLASH:
        return
    instead = "or set MODEL.ATTENTION sdpa: PyTorch's own fused kernels, the same numbers"
    if not has_flash():
        raise BadInput(
            f"MODEL.ATTENTION {FLASH} needs flash-attn: pip install flash-attn --no-build-isolation, {instead}"
        )
    if device.type != "cuda":
        raise BadInput(f"MODEL.ATTENTION {FLASH} runs on GPUs only, this rank is on {device}; {instead}")
    if cfg.AMP.param_dtype == "float32" and (amp or resolve_amp(cfg.AMP.mode, device)) == "off":
        raise BadInput(
            f"MODEL.ATTENTION {FLASH} multiplies 16-bit numbers only, AMP.mode {cfg.AMP.mode} over float32 parameters "
            f"gives it float32: set AMP.mode bf16, {instead}"
        )


def check_compiler(option="TRAIN.compile"):
    """BadInput if torch.compile finds no compiler for the C++ it writes (on a GPU: around its kernels)."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise BadInput(f"{option} needs a C++ compiler and finds no {compiler}: install it, or do without {option}")


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


def image_patches(images, dtype=torch.float32):
    """Pictures → normalised patches in the order Qwen2.5-VL expects: a fixed reshape, no resizing.

    Args:
        images: (P, H, W, 3) uint8, H and W multiples of 28.
    Returns:
        (P * H/14 * W/14, 1176) values in `dtype`, and on the CPU the grid (P, 3) int64: one frame, H/14, W/14.
    """
    number, height, width, _ = images.shape
    rows, columns = height // (PATCH * MERGE), width // (PATCH * MERGE)
    patches = images.new_empty(number, rows * columns * MERGE**2, 3, TEMPORAL_PATCH, PATCH, PATCH, dtype=dtype)
    mean, std = _pixel_statistics(images.device)
    at_once = 1 if images.device.type == "cpu" else number  # a CPU keeps one picture in its cache
    for part, into in zip(images.split(at_once), patches.split(at_once), strict=True):
        # The bytes are put in order first, they are a quarter of the numbers.
        x = part.reshape(-1, rows, MERGE, PATCH, columns, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
        x = x.reshape(*into.shape[:3], 1, PATCH, PATCH).float()
        into.copy_(x.div_(255).sub_(mean).div_(std))
    grid = torch.tensor([[1, rows * MERGE, columns * MERGE]]).expand(number, 3)
    return patches.flatten(0, 1).flatten(1), grid


@functools.lru_cache
@torch.inference_mode(False)  # what is kept may be met by a training step next
def _pixel_statistics(device):
    """IMAGE_MEAN and IMAGE_STD, (3, 1, 1, 1) each. Copied once: the host would wait for the device every time."""
    return tuple(torch.tensor(values, device=device).view(3, 1, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))


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


def embed_prompt(backbone, batch, image_id, picture):
    """Token embeddings of a batch with the pictures in their places (B, L, D), and positions (3, B, L).

    Args:
        backbone: Qwen2_5_VLForConditionalGeneration.
        batch: images (or pixel_values) and input_ids, see `rv_train.data.features`.
        image_id: id of `<|image_pad|>`.
        picture: (rows, columns) of image tokens per picture.
    """
    from rv_train.models.vision import picture_features

    model, ids = backbone.model, batch["input_ids"]
    if "pixel_values" in batch:  # DATA.PREPROCESS reference: cut into patches by the library's processor
        patches = batch["pixel_values"].to(model.visual.dtype)
    else:
        patches, _ = image_patches(batch["images"].flatten(0, 1), model.visual.dtype)
    features = picture_features(model.visual, patches, *(MERGE * side for side in picture))
    embeds = model.language_model.embed_tokens(ids)
    # Their number is known, so a sort finds the places of image tokens; selecting by a mask asks the device for it.
    places = (ids == image_id).flatten().int().argsort(descending=True, stable=True)[: len(features)]
    rows, columns = places // ids.shape[1], places % ids.shape[1]
    embeds = embeds.index_put((rows, columns), features.to(embeds.dtype))
    return embeds, mrope_position_ids(ids, image_id, *picture)


def hidden_states(backbone, batch, image_id, picture):
    """Final hidden states of the text tower (B, L, D); arguments as in `embed_prompt`."""
    embeds, position_ids = embed_prompt(backbone, batch, image_id, picture)
    # Padding stands on the right and attention is causal, so no mask is needed: no token before it sees it.
    text = backbone.model.language_model
    return text(inputs_embeds=embeds, position_ids=position_ids, use_cache=False).last_hidden_state


def last_of(hidden, lengths):
    """(B, L, D) and lengths (B,) → each row's last real token (B, D)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]


def recompute_layers(backbone):
    """Gradient checkpointing: layers keep their inputs only and compute the rest again in the backward pass."""
    backbone.gradient_checkpointing_enable({"use_reentrant": False})
    # The library asks for gradients of pixels and words then, for reentrant checkpoints of adapted models. Others need
    # none, and with them the backward pass would go through what is frozen, the whole vision tower.
    backbone.disable_input_require_grads()


def compile_layers(backbone):
    """Compile the towers' layers, in place; names of weights stay as they are.

    Layer by layer, not the whole: the decoder layers run the same code, so one of them is compiled and all use it (a
    minute or two instead of many for 36 layers in one graph), gradient checkpointing stays outside around each layer,
    and DDP still sends the gradients of one layer while those of the next are computed. Sizes of batch and sequence are
    symbols: batches of other lengths run the same code. What does compile again is bounded: a batch of one sample, and
    validation, where no gradient is wanted. Of the vision tower only the MLPs are compiled, two thirds of its work: its
    attention reads the lengths of the windows back into Python, which cuts a graph apart and compiles it again for
    every number of pictures.

    Raises:
        BadInput: no C++ compiler.
    """
    check_compiler()
    # Dynamo would cut each layer into DDP's buckets of 25 MB; the layers are the pieces already.
    torch._dynamo.config.optimize_ddp = False
    model = backbone.model
    for module in (*model.language_model.layers, *(block.mlp for block in model.visual.blocks)):
        module.compile(dynamic=True)  # not fullgraph: a kernel that breaks the graph costs speed, not the run
