"""Reading a text tower's layers for the hand-written pass: exactly what it computes, or nothing.

A layer is read where every module, parameter, buffer and hook in it is one that `LayerParts` has a place for, of a
class whose forward a family knows, and where the numbers that steer it say nothing else. Whatever is unknown, such as
what a later version of the library adds, is refused: the caller gets None, and the library's own forward answers.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from rv_train.backbones.base import LayerParts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
TOWER = {"embed_tokens", "layers", "norm", "rotary_emb"}


@dataclass(frozen=True)
class KnownClasses:
    """The library's classes whose forward is what `LayerParts` says; act: of activations without parameters."""

    tower: type
    layer: type
    attention: type
    mlp: type
    norm: type
    rotary: type
    act: tuple[type, ...]


def read_layers(model: "PreTrainedModel", text: "PreTrainedModel", known: KnownClasses) -> list[LayerParts] | None:
    """The layers of a text tower as LayerParts; None where one of them, or what is around them, is anything else.

    Args:
        model: the library's model, whose head follows the tower's last norm.
        text: the tower.
        known: a KnownClasses.
    """
    head = model.get_output_embeddings()
    around = (
        _is(text, known.tower, TOWER)
        and _is(text.norm, known.norm, parameters={"weight"})
        and _is(text.embed_tokens, nn.Embedding, parameters={"weight"})
        and type(text.rotary_emb) is known.rotary
        and not _hooked(text.rotary_emb)
        and _is(head, nn.Linear, parameters={"weight"})
        and head.bias is None
        and getattr(text.config, "final_logit_softcapping", None) is None
    )
    if not around:
        return None
    layers = [_read(layer, text, known) for layer in text.layers]
    found = [layer for layer in layers if layer is not None]
    return found if len(found) == len(layers) else None


def _read(layer, text, known):
    if not _is(layer, known.layer, LAYER):
        return None
    attention, mlp = layer.self_attn, layer.mlp
    norms = set(attention._modules) & HEAD_NORMS
    if len(norms) == 1 or not _is(attention, known.attention, ATTENTION | norms) or not _is(mlp, known.mlp, MLP):
        return None
    found = [layer.input_layernorm, layer.post_attention_layernorm, *(attention._modules[name] for name in norms)]
    plain = [getattr(attention, name) for name in sorted(ATTENTION)] + [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    steered = (
        getattr(attention, "sliding_window", None) is None
        and getattr(attention, "is_causal", True)
        and attention.scaling == attention.head_dim**-0.5
        and getattr(text.config, "attn_logit_softcapping", None) is None
        and all(kind == "full_attention" for kind in getattr(text.config, "layer_types", None) or ())
    )
    known_parts = (
        all(_is(norm, known.norm, parameters={"weight"}) for norm in found)
        and all(not _hooked(module) for module in plain)
        and type(mlp.act_fn) in known.act
        and not _hooked(mlp.act_fn)
    )
    if not (steered and known_parts):
        return None
    return LayerParts(
        norm1=layer.input_layernorm,
        q=attention.q_proj,
        k=attention.k_proj,
        v=attention.v_proj,
        q_norm=attention.q_norm if norms else None,
        k_norm=attention.k_norm if norms else None,
        o=attention.o_proj,
        norm2=layer.post_attention_layernorm,
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
        act=mlp.act_fn,
    )


def _is(module, kind, children=frozenset(), parameters=frozenset()):
    """Whether a module is of this very class, with just these modules and parameters of its own."""
    return (
        type(module) is kind
        and set(module._modules) == set(children)
        and {name for name, value in module._parameters.items() if value is not None} == set(parameters)
        and not module._buffers
        and not _hooked(module)
    )


def _hooked(module):
    """Whether something runs before or after a module's forward, or in its place."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
