"""What Qwen3-VL's towers cost, see `rv_train.backbones.base.TextTower` and `VisionTower`."""

from rv_train.backbones.base import TextTower, VisionTower


def towers(config, pictures):
    """config: Qwen3VLConfig; pictures: a Pictures."""
    deepstack = len(config.vision_config.deepstack_visual_indexes)
    return text_tower(config.text_config), vision_tower(config.vision_config, pictures, deepstack)


def text_tower(text):
    heads, kv_heads = (n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads))
    weights = text.hidden_size * (2 * heads + 2 * kv_heads + 3 * text.intermediate_size)
    return TextTower(
        layers=text.num_hidden_layers,
        attending=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        mlp=text.intermediate_size,
        vocabulary=text.vocab_size,
        matrices=text.num_hidden_layers * weights,
        linear=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        head_norms=True,
    )


def vision_tower(vision, pictures, deepstack=0):
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
    )
