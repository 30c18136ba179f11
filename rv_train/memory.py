"""How much memory a training step will take on one device, estimated before anything is started."""

import re
from typing import TYPE_CHECKING

import torch
from yacs.config import CfgNode

from rv_train.backbones.cost import Numbers, kept_layers
from rv_train.backbones.lora import is_quantized, is_seen, nf4_bytes, num_values
from rv_train.parallel import layers_of, partition

if TYPE_CHECKING:
    from rv_train.policies.base import Policy


AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BLOCK, SMALL = 256, 4096  # bitsandbytes: values that share a scale; smaller tensors keep float32 states


def memory_estimate(
    cfg: CfgNode, policy: "Policy", tokens: int, counted: int, amp: str, ranks: int = 1
) -> dict[str, int]:
    """Bytes at the peak of a training step on the device of one rank, the one that has most, by part.

    Weights, gradients, optimizer and average are exact. The rest is an estimate: what autograd keeps for the backward
    pass, counted from the library's code and compared with what it does keep by `tests/rv_train/test_memory.py`. Added
    up as if all parts were largest at the same moment, which is a little too much; the workspaces of kernels and what
    the allocator loses between blocks are not in it, so leave a few per cent of the device free.

    Args:
        cfg: the config tree (TRAIN, MODEL, AMP.frozen_dtype).
        policy: on any device, "meta" too.
        tokens, counted: of one sample: of its sequence, and what the loss is a mean over.
        amp: "off", "bf16" or "fp16".
        ranks: that share what TRAIN.PARALLEL says.

    Returns:
        {part: bytes}.
    """
    train, batch = cfg.TRAIN, cfg.TRAIN.batch_size
    parameters, pictures = list(policy.named_parameters()), policy.prompt.pictures
    towers = policy.family.towers(policy.backbone.config, pictures)
    trained = [p for _, p in parameters if p.requires_grad]
    width = next(policy.backbone.parameters()).element_size()
    numbers, patches = Numbers.of(cfg, width, amp), pictures.number * pictures.patches
    fsdp, owners = train.PARALLEL == "fsdp", [0] * len(trained)
    if train.PARALLEL == "zero1":
        owners = partition([p.numel() for p in trained], ranks)
    states = [state_bytes(train.optimizer, p) for p in trained]
    # DDP's buckets are allocated once and hold the gradients for the whole run.
    parts = {
        **_weights(cfg, policy),
        "gradients": _bytes(trained),
        f"optimizer states ({train.optimizer})": _largest_share(states, owners),
    }
    if train.ema:
        parts["moving average"] = _largest_share([4 * p.numel() for p in trained], owners)
    if fsdp:
        parts = {part: -(-size // ranks) for part, size in parts.items()} | _put_together(policy, amp)
    if amp != "off" and (copies := _copies(cfg, policy, AMP_DTYPES[amp])):
        parts["16-bit copies of weights"] = copies
    if cfg.MODEL.QUANTIZE != "none":
        packed = [p for name, p in parameters if is_quantized(name, p, policy.family)]
        parts["a matrix unpacked"] = width * max(map(num_values, packed))
    text, vision = kept_layers(cfg, towers, pictures, numbers, tokens)
    kept = text.ends * tokens + vision.ends * patches
    if cfg.MODEL.FREEZE and not cfg.MODEL.LORA.RANK:  # nothing is kept, but a layer has to have room
        parts["activations of one layer"] = batch * max(text.largest * tokens, vision.largest * patches)
    elif train.grad_checkpoint:
        kept += text.number * text.input * tokens + vision.number * vision.input * patches
        parts["activations between layers"] = batch * kept
        parts["activations of one layer"] = batch * max(text.largest * tokens, vision.largest * patches)
    else:
        kept += text.number * text.inside * tokens + vision.number * vision.inside * patches
        parts["activations"] = batch * kept
    parts |= {part: batch * size for part, size in policy.kept(numbers, tokens, counted).items()}
    # Tied embeddings get one gradient from the head and one from the input; both wait outside the buckets.
    parts["largest gradient on its way"] = 2 * max((_bytes([p]) for p in trained), default=0)
    pixels = 3 * pictures.number * pictures.height * pictures.width
    parts["batch"] = batch * (pixels + patches * towers[1].values * (4 + width) + tokens * 64)
    return parts


def saved_bytes(cfg: CfgNode, policy: "Policy") -> tuple[int, int]:
    """(bytes of a checkpoint's model folder, of all else in it), over all ranks."""
    frozen = cfg.MODEL.LORA.RANK or cfg.MODEL.FREEZE
    trained = [p for p in policy.parameters() if p.requires_grad]
    model = _bytes(trained if frozen else policy.parameters())
    states = sum(state_bytes(cfg.TRAIN.optimizer, p) for p in trained)
    if cfg.TRAIN.ema:
        states += _bytes(trained) + 4 * sum(p.numel() for p in trained)
    return model, states


def _largest_share(sizes, owners):
    """The sum of what the owner has who has most."""
    loads = [0] * (max(owners, default=0) + 1)
    for size, owner in zip(sizes, owners, strict=True):
        loads[owner] += size
    return max(loads)


def _put_together(policy, amp):
    """What `fsdp` holds whole: of the layers the one that is computed and the next, of which one is also still as it
    arrived, and in the backward pass their gradients, which leave in float32; everything outside of the layers at all
    times, its gradient at the end."""
    layers = [list(layer.parameters()) for layer in layers_of(policy)]
    inside = {id(p) for layer in layers for p in layer}
    width = {True: 2}.get(amp != "off")
    largest = max(sum(p.numel() * (width or p.element_size()) for p in layer) for layer in layers)
    learned = max(
        sum(p.numel() * (4 + (width or p.element_size())) for p in layer if p.requires_grad) for layer in layers
    )
    outside = [p for p in policy.parameters() if id(p) not in inside]
    return {
        "layers put together": 3 * largest,
        "weights outside of layers": _bytes(outside),
        "gradients of layers": 2 * learned,
        "gradients outside of layers": _bytes(p for p in outside if p.requires_grad),
    }


def _bytes(parameters):
    return sum(p.numel() * p.element_size() for p in parameters)


def _weights(cfg, policy):
    """What is trained and, with MODEL.LORA or MODEL.FREEZE, the frozen rest in the form that it is held in."""
    backbone = {id(p): name for name, p in policy.backbone.named_parameters()}
    own = _bytes(p for p in policy.parameters() if id(p) not in backbone)
    more = {policy.OWN: own} if own else {}
    parameters = list(policy.backbone.named_parameters())
    if not cfg.MODEL.LORA.RANK and not cfg.MODEL.FREEZE:
        return {"weights": _bytes(p for _, p in parameters), **more}
    packed = _packed(cfg, policy.family, parameters)
    frozen = {name: p for name, p in parameters if not p.requires_grad}
    parts = {f"frozen weights ({cfg.AMP.frozen_dtype})": _bytes(p for name, p in frozen.items() if name not in packed)}
    if packed:
        parts[f"frozen weights ({cfg.MODEL.QUANTIZE})"] = sum(nf4_bytes(num_values(frozen[name])) for name in packed)
    if cfg.MODEL.LORA.RANK:
        parts["adapter"] = _bytes(p for _, p in parameters if p.requires_grad)
    return {**parts, **more}


def _packed(cfg, family, parameters):
    """Names of the parameters that MODEL.QUANTIZE packs."""
    return {name for name, p in parameters if cfg.MODEL.QUANTIZE != "none" and is_quantized(name, p, family)}


def _copies(cfg, policy, dtype):
    """Bytes of the copies that autocast makes of weights of another dtype than its own; quantized ones it leaves alone.

    It keeps those of trained ones until its context is left or the backward pass is through. Frozen ones are copied for
    each product anew, and the copy stays where a gradient will pass through it: with MODEL.LORA in the towers that have
    adapters; where layers are computed again in the backward pass, those of the head and of one layer at a time.
    """
    family, parameters = policy.family, list(policy.named_parameters())
    quantized = _packed(cfg, family, parameters)
    factors = _factors(policy)
    wide = [(n, p) for n, p in parameters if p.dtype != dtype and id(p) in factors and n not in quantized]
    if cfg.TRAIN.PARALLEL == "fsdp":  # those of the layers arrive so
        inside = {id(p) for layer in layers_of(policy) for p in layer.parameters()}
        wide = [(name, p) for name, p in wide if id(p) not in inside]
    seen = {name: is_seen(name, family) for name, _ in wide}
    frozen = [(name, p) for name, p in wide if not p.requires_grad and (cfg.MODEL.LORA.VISION or not seen[name])]
    if not cfg.MODEL.LORA.RANK:  # MODEL.FREEZE: no gradient passes
        frozen = []
    number = sum(p.numel() for _, p in wide if p.requires_grad) + sum(p.numel() for _, p in frozen)
    if cfg.TRAIN.grad_checkpoint:
        layer = re.compile(rf"model\.({family.text_layers}|{family.vision_layers})\.")
        inside = sum(p.numel() for name, p in frozen if layer.search(name))
        number += inside // policy.backbone.config.get_text_config().num_hidden_layers - inside
    return 2 * number


def _factors(policy):
    """ids of the parameters that enter matrix products: not norms and biases (small), nor embeddings that are no
    head."""
    embedding = policy.backbone.get_input_embeddings().weight
    found = {id(p) for p in policy.parameters() if p.dim() > 1}
    return found if embedding is policy.backbone.get_output_embeddings().weight else found - {id(embedding)}


def state_bytes(optimizer: str, parameter: torch.Tensor) -> int:
    """Bytes of the optimizer states of one parameter.

    Adam: two averages in the parameter's dtype and a float32 step counter. In 8 bits (Dettmers et al. 2022, block-wise
    quantization): two bytes per value and two float32 scales per block of 256; tensors below 4,096 values stay float32.
    """
    numbers = parameter.numel()
    if optimizer != "adamw_8bit":
        return 2 * numbers * parameter.element_size() + 4
    if numbers < SMALL:
        return 8 * numbers
    return 2 * numbers + 8 * -(-numbers // BLOCK)
