"""What Qwen3.5's towers cost, see `rv_train.backbones.base.TextTower` and `VisionTower`."""

from typing import TYPE_CHECKING

from rv_train.backbones.base import LinearAttention, Pictures, TextTower, VisionTower
from rv_train.backbones.qwen3_vl.cost import vision_tower

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def towers(config: "PretrainedConfig", pictures: Pictures) -> tuple[TextTower, VisionTower]:
    """config: Qwen3_5Config; pictures: a Pictures."""
    return text_tower(config.text_config), vision_tower(config.vision_config, pictures)


def text_tower(text: "PretrainedConfig") -> TextTower:
    attending = text.layer_types.count("full_attention")
    hidden, mlp = text.hidden_size, 3 * text.hidden_size * text.intermediate_size
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    attention = hidden * (3 * queries + 2 * keys)  # queries come with a gate
    values = text.linear_num_value_heads * text.linear_value_head_dim
    mixed = 2 * text.linear_num_key_heads * text.linear_key_head_dim + values
    linear = hidden * (mixed + 2 * values + 2 * text.linear_num_value_heads)  # its convolution is a few per mille
    recurrent = LinearAttention(
        layers=text.num_hidden_layers - attending,
        heads=text.linear_num_value_heads,
        key_dim=text.linear_key_head_dim,
        value_dim=text.linear_value_head_dim,
        mixed=mixed,
    )
    return TextTower(
        layers=text.num_hidden_layers,
        attending=attending,
        hidden=hidden,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        mlp=text.intermediate_size,
        vocabulary=text.vocab_size,
        matrices=attending * (attention + mlp) + recurrent.layers * (linear + mlp),
        linear=(
            *("q_proj", "k_proj", "v_proj", "o_proj"),
            *("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"),
            *("gate_proj", "up_proj", "down_proj"),
        ),
        head_norms=True,
        gated_output=True,
        recurrent=recurrent,
    )
