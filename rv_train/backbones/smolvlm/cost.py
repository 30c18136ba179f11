"""What SmolVLM2's towers cost, see `rv_train.backbones.base.TextTower` and `VisionTower`."""

from typing import TYPE_CHECKING

from rv_train.backbones.base import Pictures, TextTower, VisionTower
from rv_train.backbones.cost import gated_text_tower

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def towers(config: "PretrainedConfig", pictures: Pictures) -> tuple[TextTower, VisionTower]:
    """config: SmolVLMConfig; pictures: a Pictures."""
    return gated_text_tower(config.text_config), vision_tower(config, pictures)


def vision_tower(config: "PretrainedConfig", pictures: Pictures) -> VisionTower:
    vision = config.vision_config
    hidden, layers = vision.hidden_size, vision.num_hidden_layers
    return VisionTower(
        layers=layers,
        hidden=hidden,
        heads=vision.num_attention_heads,
        mlp=vision.intermediate_size,
        matrices=layers * (4 * hidden**2 + 2 * hidden * vision.intermediate_size),
        merger=hidden * config.scale_factor**2 * config.text_config.hidden_size,
        values=vision.num_channels * vision.patch_size**2,
        pairs=layers * pictures.patches**2,
        linear=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        last="fc2",
        products=4,
        gated=False,
        merged=1,
        learned_places=True,
        layer_norms=True,
    )
