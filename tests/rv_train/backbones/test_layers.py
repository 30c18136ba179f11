"""A layer is read exactly, or not at all."""

import pytest
import torch
from torch import nn

from rv_train.backbones import FAMILIES, family_named
from rv_train.policies.text.decoder import Decoder
from rv_train.policies.text.library_decoder import LibraryDecoder
from rv_train.policies.text.model import TextPolicy
from tests.tiny import tiny_cfg, tiny_model, tiny_recipe


class Other(nn.Linear):
    pass


def of_another_class(module):
    module.__class__ = type("Later", (type(module),), {})


CHANGES = {
    "a module that is new": lambda text, layer: layer.add_module("gate", nn.Identity()),
    "a norm of heads that is another": lambda text, layer: layer.self_attn.add_module("q_norm", nn.Identity()),
    "a module that is new in attention": lambda text, layer: layer.self_attn.add_module("v_norm", nn.Identity()),
    "a parameter of its own": lambda text, layer: layer.register_parameter("scale", nn.Parameter(torch.ones(1))),
    "sinks": lambda text, layer: layer.self_attn.register_parameter("sinks", nn.Parameter(torch.ones(2))),
    "a buffer": lambda text, layer: layer.mlp.register_buffer("offset", torch.ones(1)),
    "another attention": lambda text, layer: of_another_class(layer.self_attn),
    "another norm": lambda text, layer: of_another_class(layer.input_layernorm),
    "a norm with an offset": lambda text, layer: layer.input_layernorm.register_parameter(
        "bias", nn.Parameter(torch.ones(32))
    ),
    "another last norm": lambda text, layer: of_another_class(text.norm),
    "another rotation": lambda text, layer: of_another_class(text.rotary_emb),
    "another layer": lambda text, layer: of_another_class(layer),
    "a window": lambda text, layer: setattr(layer.self_attn, "sliding_window", 16),
    "another scale": lambda text, layer: setattr(layer.self_attn, "scaling", 1.0),
    "another activation": lambda text, layer: setattr(layer.mlp, "act_fn", nn.GELU()),
    "layers of another type": lambda text, layer: setattr(text.config, "layer_types", ["linear_attention"] * 2),
    "a module of the tower": lambda text, layer: text.add_module("skip", nn.Identity()),
    "a hook": lambda text, layer: layer.mlp.register_forward_hook(lambda *arguments: None),
    "a hook of a product": lambda text, layer: layer.mlp.up_proj.register_forward_pre_hook(lambda *arguments: None),
    "another forward": lambda text, layer: setattr(layer.self_attn, "forward", layer.self_attn.forward),
}


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "smolvlm"])
def recipe(request, tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_not_known_is_refused_and_the_librarys_forward_answers(recipe, kind):
    model = tiny_model(tiny_cfg(recipe))
    family, text = model.family, model.family.text(model.backbone)
    assert len(family.layer_parts(model.backbone)) == len(text.layers) and type(model.decoder) is Decoder
    CHANGES[kind](text, text.layers[-1])
    assert family.layer_parts(model.backbone) is None
    again = TextPolicy(model.backbone, family, model.prompt, model.codec, model.decoder.grammar)
    assert type(again.decoder) is LibraryDecoder


def test_a_head_with_an_offset_is_refused():
    model = tiny_model(tiny_cfg())
    model.backbone.lm_head.bias = nn.Parameter(torch.zeros(len(model.backbone.lm_head.weight)))
    assert model.family.layer_parts(model.backbone) is None


def test_whatever_wraps_a_product_is_called():
    model = tiny_model(tiny_cfg())
    layer = model.family.text(model.backbone).layers[0]
    layer.self_attn.q_proj = Other(32, 32)
    assert model.family.layer_parts(model.backbone)[0].q is layer.self_attn.q_proj


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_registered_under_its_name(name):
    assert family_named(name).name == name
