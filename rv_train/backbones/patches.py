"""Pictures on the model's device: cut into patches, put into their places among the words, and given positions."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from libs.errors import BadInput

if TYPE_CHECKING:
    from rv_train.backbones.base import Pictures


@dataclass(frozen=True)
class Patches:
    """How a family cuts pictures. side: pixels of a patch; merge: patches per side of an image token; frames: equal
    ones that a still picture counts as; mean, std: of red, green and blue, by which pixels in 0..1 are normalised."""

    side: int
    merge: int
    frames: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def values(self) -> int:
        """Numbers of a patch."""
        return 3 * self.frames * self.side**2

    def grid(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, columns of image tokens, patches) of a picture; BadInput where a side is no multiple of a token's."""
        unit = self.side * self.merge
        if height % unit or width % unit or min(height, width) < unit:
            size = height if height == width else f"{height} x {width}"
            raise BadInput(f"IMAGE.SIZE must be a multiple of {unit}, got {size}")
        rows, columns = height // unit, width // unit
        return rows, columns, rows * columns * self.merge**2


def image_patches(
    images: torch.Tensor, kind: Patches, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures → normalised patches, those of an image token one after another: a fixed reshape, no resizing.

    Args:
        images: (P, H, W, 3) uint8, H and W multiples of side x merge.
        kind: a Patches.

    Returns:
        (P * H/side * W/side, values) in `dtype`, and on the CPU the grid (P, 3) int64: one frame, H/side, W/side.
    """
    side, merge = kind.side, kind.merge
    number, height, width, _ = images.shape
    rows, columns = height // (side * merge), width // (side * merge)
    patches = images.new_empty(number, rows * columns * merge**2, 3, kind.frames, side, side, dtype=dtype)
    mean, std = _pixel_statistics(kind, images.device)
    at_once = 1 if images.device.type == "cpu" else number  # a CPU keeps one picture in its cache
    for part, into in zip(images.split(at_once), patches.split(at_once), strict=True):
        # The bytes are put in order first, they are a quarter of the numbers.
        x = part.reshape(-1, rows, merge, side, columns, merge, side, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
        x = x.reshape(*into.shape[:3], 1, side, side).float()
        into.copy_(x.div_(255).sub_(mean).div_(std))
    grid = torch.tensor([[1, rows * merge, columns * merge]]).expand(number, 3)
    return patches.flatten(0, 1).flatten(1), grid


@functools.lru_cache
@torch.inference_mode(False)  # what is kept may be met by a training step next
def _pixel_statistics(kind, device):
    """mean and std, (3, 1, 1, 1) each. Copied once: the host would wait for the device every time."""
    return tuple(torch.tensor(values, device=device).view(3, 1, 1, 1) for values in (kind.mean, kind.std))


def true_places(mask: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, columns), (number,) int64 each, of the `number` True values of a mask (B, L), in order.

    Their number is known, so a sort finds them; selecting by the mask asks the device for it.
    """
    places = mask.flatten().int().argsort(descending=True, stable=True)[:number]
    return places // mask.shape[1], places % mask.shape[1]


def place_pictures(
    embeds: torch.Tensor, input_ids: torch.Tensor, image_id: int, features: torch.Tensor, shown: "Pictures"
) -> torch.Tensor:
    """Embedded words (B, L, D) with the features (image tokens, D) of the pictures in their places; shown: Pictures of
    a prompt. Prompts have as many image tokens, see `PromptEncoder`: were there fewer features, those of one row would
    stand in another."""
    wanted = len(input_ids) * shown.number * shown.tokens
    assert len(features) == wanted, (
        f"{len(features)} features for the {wanted} image tokens of {len(input_ids)} prompts"
    )
    places = true_places(input_ids == image_id, len(features))
    return embeds.index_put(places, features.to(embeds.dtype))


def mrope_position_ids(input_ids: torch.Tensor, image_id: int, rows: int, columns: int) -> torch.Tensor:
    """The three-dimensional positions of Qwen's models for prompts whose pictures all have the same size.

    Text advances all three coordinates by one per token; a picture keeps the temporal coordinate of its start, spreads
    rows and columns over the other two, and the text behind it goes on after max(rows, columns). Computed explicitly,
    because without them the library falls back to one-dimensional positions without a word.

    Args:
        input_ids: (B, L) int64.
        image_id: id of the image token.
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
