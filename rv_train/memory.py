"""How much memory a training step will take on one device, estimated before anything is started."""

from dataclasses import dataclass

import torch

from rv_train.data.prompt import PATCH
from rv_train.models.lora import is_quantized, is_seen, nf4_bytes, num_values

PATCH_VALUES = 2 * 3 * PATCH * PATCH  # a patch as the vision tower reads it: two equal frames of three colours
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
EXPERT = "action_expert."  # how the names of its parameters begin
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
MLP = ("gate_proj", "up_proj", "down_proj")  # the names of TARGETS that the vision tower has, too
BLOCK, SMALL = 256, 4096  # bitsandbytes: values that share a scale; smaller tensors keep float32 states


def memory_estimate(cfg, config, parameters, tokens, learned, patches, amp):
    """Bytes on one rank's device at the peak of a training step, by part.

    Weights, gradients, optimizer and average are exact. The rest is an estimate: what autograd keeps for the backward
    pass, counted from the library's code and compared with what it does keep by `tests/rv_train/test_memory.py`. Added
    up as if all parts were largest at the same moment, which is a little too much; the workspaces of kernels and what
    the allocator loses between blocks are not in it, so leave a few per cent of the device free.

    Args:
        cfg: the config tree (TRAIN, MODEL, AMP.frozen_dtype).
        config: the library's Qwen2_5_VLConfig.
        parameters: list of (name, parameter), on any device, "meta" too.
        tokens, learned, patches: of one sample: tokens of the sequence, those of them that are learned, patches of
            14 x 14 pixels in all its pictures.
        amp: "off", "bf16" or "fp16".
    Returns:
        {part: bytes}.
    """
    train, batch = cfg.TRAIN, cfg.TRAIN.batch_size
    trained = [p for _, p in parameters if p.requires_grad]
    width = parameters[0][1].element_size()  # of the backbone
    compute = width if amp == "off" else 2  # bytes of a number in a matrix product
    # DDP's buckets are allocated once and hold the gradients for the whole run.
    parts = {
        **_weights(cfg, parameters),
        "gradients": _bytes(trained),
        f"optimizer states ({train.optimizer})": sum(state_bytes(train.optimizer, p) for p in trained),
    }
    if train.grad_accum > 1:  # passes before the last add up beside the buckets: DDP fills those when it reduces
        parts["gradients of earlier passes"] = parts["gradients"]
    if train.ema:
        parts["moving average"] = 4 * sum(p.numel() for p in trained)
    if amp != "off" and (copies := _copies(cfg, config, parameters, AMP_DTYPES[amp])):
        parts["16-bit copies of weights"] = copies
    if cfg.MODEL.QUANTIZE != "none":
        parts["a matrix unpacked"] = width * max(num_values(p) for name, p in parameters if is_quantized(name))
    text, vision = layers(cfg, config, width, compute, amp, tokens, patches)
    kept = text.ends * tokens + vision.ends * patches
    if cfg.MODEL.FREEZE and not cfg.MODEL.LORA.RANK:  # nothing is kept, but a layer has to have room
        parts["activations of one layer"] = batch * max(text.inside * tokens, vision.inside * patches)
    elif train.grad_checkpoint:
        kept += text.number * text.input * tokens + vision.number * vision.input * patches
        parts["activations between layers"] = batch * kept
        parts["activations of one layer"] = batch * max(text.inside * tokens, vision.inside * patches)
    else:
        kept += text.number * text.inside * tokens + vision.number * vision.inside * patches
        parts["activations"] = batch * kept
    if learned:  # in float32, and 16-bit logits before them, or their gradient behind
        values = batch * learned * config.text_config.vocab_size
        parts["logits and loss"] = values * (4 + (compute if compute < 4 else 0))
    else:
        seen = tokens if cfg.FLOW.CONDITION == "all" else 1
        parts["activations of the expert"] = batch * expert_activations(cfg, config, seen, width, compute)
    # Tied embeddings get one gradient from the head and one from the input; both wait outside the buckets.
    parts["largest gradient on its way"] = 2 * max(_bytes([p]) for p in trained)
    parts["batch"] = batch * (patches * (3 * PATCH * PATCH + PATCH_VALUES * (4 + width)) + tokens * 64)
    return parts


def _bytes(parameters):
    return sum(p.numel() * p.element_size() for p in parameters)


def _weights(cfg, parameters):
    """What is trained and, with MODEL.LORA or MODEL.FREEZE, the frozen rest in the form that it is held in."""
    expert = {"action expert": _bytes(p for name, p in parameters if EXPERT in name)}
    parameters = [(name, p) for name, p in parameters if EXPERT not in name]
    more = expert if expert["action expert"] else {}
    if not cfg.MODEL.LORA.RANK and not cfg.MODEL.FREEZE:
        return {"weights": _bytes(p for _, p in parameters), **more}
    packed = {name for name, _ in parameters if cfg.MODEL.QUANTIZE != "none" and is_quantized(name)}
    frozen = {name: p for name, p in parameters if not p.requires_grad}
    parts = {f"frozen weights ({cfg.AMP.frozen_dtype})": _bytes(p for name, p in frozen.items() if name not in packed)}
    if packed:
        parts[f"frozen weights ({cfg.MODEL.QUANTIZE})"] = sum(nf4_bytes(num_values(frozen[name])) for name in packed)
    if cfg.MODEL.LORA.RANK:
        parts["adapter"] = _bytes(p for _, p in parameters if p.requires_grad)
    return {**parts, **more}


def expert_activations(cfg, config, seen, width, compute):
    """Bytes per sample that the action expert keeps for the backward pass.

    Per token and layer, of width D, with c bytes in products: two or three norms (8 D), queries, keys, values, result
    and what goes into the products (9 c D; with cross-attention 7 c D more), and twice the MLP's width.

    Args:
        seen: tokens of the condition.
        width, compute: bytes of a number between products and in them.
    """
    flow, horizon = cfg.FLOW, cfg.ACTION.HORIZON
    dim, mlp = flow.HIDDEN, 2 * compute * flow.MLP
    looked_at = (seen + 1) * flow.LAYERS * 2 * compute * dim
    projector = seen * ((width + 4) * config.text_config.hidden_size + 2 * compute * flow.PROJECTOR + compute * dim)
    queries = horizon * flow.LAYERS * (12 * dim + 16 * compute * dim + mlp)
    head = horizon * flow.DRAWS * flow.HEAD_LAYERS * (8 * dim + 9 * compute * dim + mlp)
    return projector + looked_at + queries + head


def _copies(cfg, config, parameters, dtype):
    """Bytes of the copies that autocast makes of weights of another dtype than its own; quantized ones it leaves alone.

    It keeps those of trained ones until its context is left or the backward pass is through. Frozen ones are copied for
    each product anew, and the copy stays where a gradient will pass through it: with MODEL.LORA in the towers that have
    adapters; where layers are computed again in the backward pass, those of the head and of one layer at a time.
    """
    quantized = {name for name, _ in parameters if cfg.MODEL.QUANTIZE != "none" and is_quantized(name)}
    wide = [(n, p) for n, p in parameters if p.dtype != dtype and _is_factor(n, p, config) and n not in quantized]
    frozen = [(name, p) for name, p in wide if not p.requires_grad and (cfg.MODEL.LORA.VISION or not is_seen(name))]
    if not cfg.MODEL.LORA.RANK:  # MODEL.FREEZE: no gradient passes
        frozen = []
    number = sum(p.numel() for _, p in wide if p.requires_grad) + sum(p.numel() for _, p in frozen)
    if cfg.TRAIN.grad_checkpoint:
        inside = sum(p.numel() for name, p in frozen if ".layers." in name or ".blocks." in name)
        number += inside // config.text_config.num_hidden_layers - inside
    return 2 * number


def state_bytes(optimizer, parameter):
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


def _is_factor(name, parameter, config):
    """Whether a parameter enters matrix products: not norms and biases (small), nor embeddings that are no head."""
    if "embed_tokens" in name:
        return config.tie_word_embeddings
    return parameter.dim() > 1


@dataclass(frozen=True)
class Layers:
    """Bytes per token (or patch) that one tower keeps for the backward pass.

    number: layers; input: of a layer's input; inside: of everything a layer keeps; ends: in front of the first layer
    and behind the last.
    """

    number: int
    input: int
    inside: int
    ends: int


def layers(cfg, config, width, compute, amp, tokens, patches):
    """(text, vision) towers' `Layers`.

    With r bytes per number between layers and c in products (r = c without autocast), D hidden, Q = heads x head size,
    K the same of keys, F the MLP's width, a layer keeps per token

        norms      2 (4 D + r D)       float32 input, normalised input
        products   n c D               their input, once; under autocast cast again for each of the n products
        attention  c (Q + 2 K + Q) + 4 heads, c Q     queries, keys, values, result, normaliser; the output's input
        MLP        4 c F               gate, its activation, up, their product

    and `eager` attention keeps the weight of every pair in float32, again in 16 bits where c is 2, and K repeated to Q.
    Between layers the text tower computes in the dtype of its weights (float32 where fp16 products are added to
    bfloat16), the vision tower in that of its first product, and each layer of the text tower keeps its own cosines and
    sines.

    With MODEL.LORA products and norms keep nothing for the gradient of their weights, and the output's and the last
    product's inputs go as well; instead each adapter of n inputs keeps, with a bytes per number in its products,

        a n + n       what is left of its input after dropout, and what was left, a byte each
        a rank        between its two matrices

    and a tower without adapters keeps nothing.
    """
    model, lora = cfg.MODEL, cfg.MODEL.LORA
    text, vision = config.text_config, config.vision_config
    size = text.hidden_size // text.num_attention_heads
    full = len(vision.fullatt_block_indexes) / vision.depth
    window = min(patches, (vision.window_size // vision.patch_size) ** 2)
    adapter = 2 if amp != "off" else DTYPE_BYTES[cfg.AMP.param_dtype]  # of a number in the adapter's products
    # Its input is a new tensor where it is cast or thinned out; else the one that stands there anyway.
    own_inputs = bool(lora.DROPOUT) or amp != "off" or adapter != width

    def inside(hidden, heads, keys, mlp, between, products, pairs, targets):
        attended = compute * (2 * hidden + 2 * keys) + 4 * heads  # what attention itself keeps
        if model.ATTENTION == "eager":
            attended = compute * 3 * hidden + heads * pairs * (4 + (compute if compute < 4 else 0))
        if not lora.RANK:
            norms = 2 * (4 + between) * hidden
            inputs = (products if compute < width else 2) * compute * hidden
            return int(norms + inputs + attended + compute * hidden + 4 * compute * mlp)
        inputs = sum(mlp if name == "down_proj" else hidden for name in targets) * (adapter + bool(lora.DROPOUT))
        if not own_inputs:
            inputs = adapter * (3 * hidden + mlp)
        ranks = adapter * lora.RANK * len(targets)
        return int(2 * 4 * hidden + attended + 3 * compute * mlp + inputs + ranks)

    between = 4 if amp == "fp16" else width
    text_layers = Layers(
        number=text.num_hidden_layers,
        input=between * text.hidden_size,
        inside=inside(
            text.hidden_size,
            text.num_attention_heads,
            text.num_key_value_heads * size,
            text.intermediate_size,
            between,
            5,
            tokens,
            lora.TARGETS,
        )
        + 2 * width * size,
        ends=(4 if lora.RANK else 4 + between) * text.hidden_size,
    )
    seen = [name for name in lora.TARGETS if name in MLP]
    if lora.RANK and not (lora.VISION and seen):
        return text_layers, Layers(0, 0, 0, 0)
    vision_layers = Layers(
        number=vision.depth,
        input=compute * vision.hidden_size,
        inside=inside(
            vision.hidden_size,
            vision.num_heads,
            vision.hidden_size,
            vision.intermediate_size,
            compute,
            3,
            full * patches + (1 - full) * window,
            seen,
        ),
        ends=(4 + compute) * vision.hidden_size
        + (0 if lora.RANK else compute * (PATCH_VALUES + 3 * vision.hidden_size)),
    )
    return text_layers, vision_layers
