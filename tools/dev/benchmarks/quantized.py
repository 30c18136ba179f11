"""A copy of a model whose text tower computes with other weights."""

import copy
import importlib
import warnings
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from libs.errors import BadInput

if TYPE_CHECKING:
    from rv_train.policies.text.model import TextPolicy


TORCHAO = "0.18.0"
CPU_ONLY = ("int8_kernel", "int8_dynamic")
MANY = 64  # rows from which `KernelLinear` writes its weights out


def quantized(model: "TextPolicy", kind: str) -> "TextPolicy":
    """A copy of a TextPolicy with the parameters of `kind`: float32, bfloat16, or one of

    int8, fp8: bfloat16, the weights of the text tower's linear layers in 8 bits with one scale per output (torchao).
    int8_both: what goes into those layers is rounded to 8 bits, too, with one scale per token.
    int8_kernel: as int8, with torch's own kernel for that on a CPU.
    int8_dynamic: float32, weights and what goes into them in 8 bits, with one scale for all tokens of all rows (torch).

    BadInput: no torchao.
    """
    model = copy.deepcopy(model)
    dtype = torch.float32 if kind in ("float32", "int8_dynamic") else torch.bfloat16
    for parameter in model.parameters():  # not the buffers: rotary frequencies stay float32
        parameter.data = parameter.data.to(dtype)
    layers = model.backbone.model.language_model.layers
    if kind in ("int8", "fp8", "int8_both"):
        _by_torchao(layers, kind)
    elif kind == "int8_kernel":
        _replace(layers, KernelLinear)
    elif kind == "int8_dynamic":
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all of torch.ao.quantization is deprecated
            quantize_dynamic(layers, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)
    return model


def _by_torchao(layers, kind):
    try:
        torchao = importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise BadInput(f"--weights {kind} needs torchao: pip install --no-deps torchao=={TORCHAO}") from error
    configs = {
        "int8": torchao.Int8WeightOnlyConfig,
        "fp8": torchao.Float8WeightOnlyConfig,
        "int8_both": torchao.Int8DynamicActivationInt8WeightConfig,
    }
    torchao.quantize_(layers, configs[kind]())
    _replace(layers, nn.Sequential)  # they are nn.Linear still, whose weights the decoder would join


def _replace(layers, new):
    """Put new(linear) in the place of every linear layer."""
    for name, module in list(layers.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, attribute = name.rpartition(".")
            setattr(layers.get_submodule(parent), attribute, new(module))


class KernelLinear(nn.Module):
    """A linear layer with weights of 8 bits, one scale per output; few rows by torch's kernel for a CPU."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(linear.weight.dtype))
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2)
        if len(rows) < MANY:
            y = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scale)
        else:
            y = F.linear(rows, self.weight.to(x.dtype)) * self.scale
        y = y if self.bias is None else y + self.bias
        return y.unflatten(0, x.shape[:-1])
