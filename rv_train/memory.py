"""How much memory a training step will take on one device, estimated before anything is started."""

from dataclasses import dataclass

from rv_train.data.prompt import PATCH

PATCH_VALUES = 2 * 3 * PATCH * PATCH  # a patch as the vision tower reads it: two equal frames of three colours
BLOCK, SMALL = 256, 4096  # bitsandbytes: values that share a scale; smaller tensors keep float32 states


def memory_estimate(cfg, config, parameters, tokens, learned, patches, amp):
    """Bytes on one rank's device at the peak of a training step, by part.

    Weights, gradients, optimizer and average are exact. The rest is an estimate: what autograd keeps for the backward
    pass, counted from the library's code and compared with what it does keep by `tests/rv_train/test_memory.py`. Added
    up as if all parts were largest at the same moment, which is a little too much; the workspaces of kernels and what
    the allocator loses between blocks are not in it, so leave a few per cent of the device free.

    Args:
        cfg: the config tree (TRAIN, MODEL.ATTENTION).
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
    width = parameters[0][1].element_size()
    compute = width if amp == "off" else 2  # bytes of a number in a matrix product
    # DDP's buckets are allocated once and hold the gradients for the whole run.
    parts = {
        "weights": sum(p.numel() for _, p in parameters) * width,
        "gradients": sum(p.numel() for p in trained) * width,
        f"optimizer states ({train.optimizer})": sum(state_bytes(train.optimizer, p) for p in trained),
    }
    if train.grad_accum > 1:  # passes before the last add up beside the buckets: DDP fills those when it reduces
        parts["gradients of earlier passes"] = parts["gradients"]
    if train.ema:
        parts["moving average"] = 4 * sum(p.numel() for p in trained)
    if compute < width:  # autocast keeps what it has cast until its context is left or the backward pass is through
        parts["16-bit copies of weights"] = compute * sum(p.numel() for n, p in parameters if _is_factor(n, p, config))
    text, vision = layers(config, cfg.MODEL.ATTENTION, width, compute, tokens, patches)
    kept = text.ends * tokens + vision.ends * patches
    if train.grad_checkpoint:
        kept += text.number * text.input * tokens + vision.number * vision.input * patches
        parts["activations between layers"] = batch * kept
        parts["activations of one layer"] = batch * max(text.inside * tokens, vision.inside * patches)
    else:
        kept += text.number * text.inside * tokens + vision.number * vision.inside * patches
        parts["activations"] = batch * kept
    # float32 logits, their softmax, and the product's own 16-bit result before them
    values = batch * learned * config.text_config.vocab_size
    parts["logits and loss"] = values * (8 + (compute if compute < 4 else 0))
    # Tied embeddings get one gradient from the head and one from the input; both wait outside the buckets.
    parts["largest gradient on its way"] = 2 * width * max(p.numel() for p in trained)
    parts["batch"] = batch * (patches * (3 * PATCH * PATCH + PATCH_VALUES * (4 + width)) + tokens * 64)
    return parts


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


def layers(config, attention, width, compute, tokens, patches):
    """(text, vision) towers' `Layers`.

    With r bytes per number between layers and c in products (r = c without autocast), D hidden, Q = heads x head size,
    K the same of keys, F the MLP's width, a layer keeps per token

        norms      2 (4 D + r D)       float32 input, normalised input
        products   n c D               their input, once; under autocast cast again for each of the n products
        attention  c (Q + 2 K + Q) + 4 heads, c Q     queries, keys, values, result, normaliser; the output's input
        MLP        4 c F               gate, its activation, up, their product

    and `eager` attention keeps the weight of every pair in float32, again in 16 bits where c is 2, and K repeated to Q.
    Between layers the text tower computes in the dtype of its weights, the vision tower in that of its first product,
    and each layer of the text tower keeps its own cosines and sines.
    """
    text, vision = config.text_config, config.vision_config
    size = text.hidden_size // text.num_attention_heads
    cast = compute < width
    full = len(vision.fullatt_block_indexes) / vision.depth
    window = min(patches, (vision.window_size // vision.patch_size) ** 2)

    def inside(hidden, heads, keys, mlp, between, products, pairs):
        norms = 2 * (4 + between) * hidden
        inputs = (products if cast else 2) * compute * hidden
        attended = compute * (3 * hidden + 2 * keys) + 4 * heads
        if attention == "eager":
            attended = compute * (2 * hidden + 2 * hidden) + heads * pairs * (4 + (compute if compute < 4 else 0))
        return int(norms + inputs + attended + 4 * compute * mlp)

    return (
        Layers(
            number=text.num_hidden_layers,
            input=width * text.hidden_size,
            inside=inside(
                text.hidden_size,
                text.num_attention_heads,
                text.num_key_value_heads * size,
                text.intermediate_size,
                width,
                5,
                tokens,
            )
            + 2 * width * size,
            ends=(4 + width) * text.hidden_size,
        ),
        Layers(
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
            ),
            ends=compute * PATCH_VALUES + (4 + 4 * compute) * vision.hidden_size,
        ),
    )
