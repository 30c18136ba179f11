"""Pictures as SmolVLM2 sees them: square, whole, cut into patches whose tokens are then shuffled into fewer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from libs.errors import BadInput
from rv_train.backbones import patches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rv_train.backbones.base import Pictures


HALF = (0.5, 0.5, 0.5)  # mean and deviation that pixels in 0..1 are normalised by: -1..1


def grid(patch: int, shuffle: int, largest: int, height: int, width: int) -> tuple[int, int, int]:
    """(rows, columns of image tokens, patches) of a picture.

    Args:
        patch: pixels of a patch's side.
        shuffle: patches per side of an image token.
        largest: side of the picture that the positions were learned for; of it alone a rest smaller than a patch may be
            left over, which nobody sees.
        height, width: of the picture.

    Raises:
        BadInput: a picture that the model cannot see without resizing.
    """
    if height != width:
        raise BadInput(
            f"MODEL.BACKBONE smolvlm sees square pictures, not {height} x {width}: set IMAGE.TILE False, which gives "
            "each view a picture of its own"
        )
    side, unit = height // patch, patch * shuffle
    if side % shuffle or not 0 < height <= largest or (height % patch and height != largest):
        raise BadInput(
            f"IMAGE.SIZE must be {largest} or a multiple of {unit} below it (MODEL.VISION.PICTURE, PATCH x SHUFFLE), "
            f"got {height}"
        )
    return side // shuffle, side // shuffle, side**2


def image_patches(images: torch.Tensor, patch: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(P, S, S, 3) uint8 → (P * patches, 3 * patch**2) in `dtype`, normalised, in the order of the patch embedding's
    weights."""
    seen = images.shape[1] // patch * patch
    kind = patches.Patches(side=patch, merge=1, frames=1, mean=HALF, std=HALF)
    return patches.image_patches(images[:, :seen, :seen], kind, dtype)[0]


def cut(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """(P, 3, S, S), normalised → (P * patches, 3 * patch**2), as `image_patches`."""
    seen = pixels.shape[-1] // patch * patch
    pieces = pixels[..., :seen, :seen].unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))
    return pieces.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)


def image_processor_settings(pictures: "Pictures") -> dict[str, Any]:
    """For the library's image processor: nothing is resized, nothing cut into several pictures."""
    side = {"longest_edge": pictures.height}
    return {
        "do_image_splitting": False,
        "size": side,
        "max_image_size": side,
        "image_mean": list(HALF),
        "image_std": list(HALF),
    }


def processor_files(pictures: "Pictures") -> dict[str, dict[str, Any]]:
    """See `rv_train.backbones.base.Family.processor_files`."""
    name = {"processor_class": "SmolVLMProcessor"}
    settings = {"image_processor_type": "SmolVLMImageProcessor", **name, **image_processor_settings(pictures)}
    return {
        "preprocessor_config.json": settings,
        "processor_config.json": {**name, "image_seq_len": pictures.tokens},
    }


def processor(tokenizer: "PreTrainedTokenizerBase", pictures: "Pictures", template: str) -> Any:
    """The library's processor of pictures and chat. Needs torchvision and num2words."""
    from transformers import SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    try:
        return SmolVLMProcessor(
            image_processor=SmolVLMImageProcessor(**image_processor_settings(pictures)),
            tokenizer=tokenizer,
            video_processor=SmolVLMVideoProcessor(),  # the class insists on one
            image_seq_len=pictures.tokens,
            chat_template=template,
        )
    except ImportError as error:
        raise BadInput(
            "DATA.PREPROCESS reference of MODEL.BACKBONE smolvlm needs the package num2words: pip install num2words"
        ) from error


def read_images(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Pictures of a chat, each a PIL image; the library's examples hand them over as they are."""
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
