"""What Qwen2.5-VL's towers cost, see `rv_train.backbones.base.TextTower` and `VisionTower`."""

from typing import TYPE_CHECKING

from rv_train.backbones.base import Pictures, TextTower, VisionTower
from rv_train.backbones.cost import gated_text_tower

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def towers(config: "PretrainedConfig", pictures: Pictures) -> tuple[TextTower, VisionTower]:
    """config: Qwen2_5_VLConfig; pictures: a Pictures."""
    return gated_text_tower(config.text_config), vision_tower(config.vision_config, pictures)


def vision_tower(vision: "PretrainedConfig", pictures: Pictures) -> VisionTower:
    unit, hidden = vision.spatial_merge_size**2, vision.hidden_size  # patches per image token
    side = vision.window_size // vision.spatial_merge_size // vision.patch_size  # image tokens per side of a window
    rows, columns = (sum(n * n for n in _pieces(length, side)) for length in (pictures.rows, pictures.columns))
    in_windows = unit**2 * rows * columns
    full = len(set(vision.fullatt_block_indexes) & set(range(vision.depth)))
    return VisionTower(
        layers=vision.depth,
        hidden=hidden,
        heads=vision.num_heads,
        mlp=vision.intermediate_size,
        matrices=vision.depth * (4 * hidden**2 + 3 * hidden * vision.intermediate_size),
        merger=(hidden * unit) ** 2 + hidden * unit * vision.out_hidden_size,
        values=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        pairs=full * pictures.patches**2 + (vision.depth - full) * in_windows,
        linear=("gate_proj", "up_proj", "down_proj"),
        last="down_proj",
        products=3,
        gated=True,
        merged=3,
    )


def _pieces(length, side):
    """A length cut into windows; the last one holds what is left: (10, 4) → [4, 4, 2]"""
    return [min(side, length - start) for start in range(0, length, side)]
