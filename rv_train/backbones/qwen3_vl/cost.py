"""What Qwen3-VL's towers cost, see `rv_train.backbones.base.TextTower` and `VisionTower`."""

from dataclasses import replace
from typing import TYPE_CHECKING

from rv_train.backbones.base import Pictures, TextTower, VisionTower
from rv_train.backbones.cost import gated_text_tower

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def towers(config: "PretrainedConfig", pictures: Pictures) -> tuple[TextTower, VisionTower]:
    """config: Qwen3VLConfig; pictures: a Pictures."""
    deepstack = len(config.vision_config.deepstack_visual_indexes)
    text = replace(gated_text_tower(config.text_config), head_norms=True)
    return text, vision_tower(config.vision_config, pictures, deepstack)


def vision_tower(vision: "PretrainedConfig", pictures: Pictures, deepstack: int = 0) -> VisionTower:
    """deepstack: number of mergers beside the one behind the last layer."""
    unit, hidden = vision.spatial_merge_size**2, vision.hidden_size  # patches per image token
    merger = (hidden * unit) ** 2 + hidden * unit * vision.out_hidden_size
    return VisionTower(
        layers=vision.depth,
        hidden=hidden,
        heads=vision.num_heads,
        mlp=vision.intermediate_size,
        matrices=vision.depth * (4 * hidden**2 + 2 * hidden * vision.intermediate_size),
        merger=(1 + deepstack) * merger,
        values=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        pairs=vision.depth * pictures.patches**2,
        linear=("qkv", "proj", "linear_fc1", "linear_fc2"),
        last="linear_fc2",
        products=2,
        gated=False,
        merged=3 + 4 * deepstack,  # those beside the last keep their norm's input, too
        layer_norms=True,
    )
