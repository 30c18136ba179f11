"""How much arithmetic a training step is, and how much a GPU could do: the two halves of MFU.

Model FLOPs utilisation is defined in PaLM (Chowdhery et al. 2022, arXiv:2204.02311), appendix B: the operations that
the model's mathematics asks for, divided by what the hardware could have done in the time. Work that an implementation
adds does not count: recomputing activations (gradient checkpointing), padding, the logits of tokens nobody learns.
"""

import torch

MULTIPLY_ADD = 2  # floating-point operations per weight and vector element of a matrix product
# Forward, gradient of the input, gradient of the weights: the backward pass is twice the forward pass.
PASSES = 3

# Dense (without sparsity) bf16 tensor-core TFLOP/s with float32 accumulation; fp16 is as fast on all of them. Numbers
# of NVIDIA's data sheets (A100, H100, H200, B200, L40S, L4, A10, A30, A40: half of what is printed "with sparsity") and
# of its GA102, Ada and Blackwell architecture papers for the RTX cards. The first name found in the device's name
# counts, so the special form stands before the general one.
PEAK_TFLOPS = (
    ("GB200", 2500.0),
    ("B200", 2250.0),
    ("H200 NVL", 835.5),
    ("GH200", 989.4),
    ("H200", 989.4),
    ("H100 PCIe", 756.5),
    ("H100 NVL", 835.5),
    ("H100", 989.4),
    ("H800", 989.4),
    ("A100", 312.0),
    ("A800", 312.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("A40", 149.7),
    ("A30", 165.0),
    ("A10", 125.0),
    ("RTX 6000 Ada", 364.2),
    ("RTX A6000", 154.8),
    ("RTX 5090", 209.5),
    ("RTX 4090", 165.2),
    ("RTX 4080", 97.5),
    ("RTX 3090 Ti", 80.0),
    ("RTX 3090", 71.0),
)
LESSER = ("Laptop", "Max", "D", "MIG")  # a smaller chip, or a slice of one, under the name of a bigger


def peak_tflops(device):
    """Dense bf16 TFLOP/s of a GPU by its name; None for one that is not in the table, and for a CPU."""
    return peak_by_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_by_name(name):
    """See `peak_tflops`. Whole words only: an A10G is no A10."""
    words = f" {name} ".replace("-", " ")
    if any(f" {part} " in words for part in LESSER):
        return None
    return next((peak for known, peak in PEAK_TFLOPS if f" {known} " in words), None)


class TrainingFlops:
    """Operations of one forward and backward pass of Qwen2.5-VL over a batch.

    With n tokens, m of them learned, and per picture p patches, t = p / 4 image tokens (matrix products only; norms,
    softmax and rotary embeddings are well below a percent; 2 operations per multiply-add):

        text       n * layers * 2 * (q, k, v, o, gate, up, down weights)
        attention  layers * 4 * heads * head_dim * n^2          scores and weighted sum, the whole square: like PaLM's
                                                                formula, not halved for causality
        head       m * 2 * hidden * vocabulary                  only learned positions reach the head
        vision     p * layers * 2 * (qkv, proj, gate, up, down weights)
                   layers * 4 * hidden * sum of w^2             over windows of w patches; the whole picture is one
                                                                window in the layers of full attention
                   t * 2 * (merger weights)
        patches    p * 2 * 3 * 2 * 14^2 * hidden

    Everything times 3 for the backward pass, the patch embedding times 2: no gradient goes on into the pixels.
    `n` is the real length of each sample, without padding.

    A frozen model is only passed forward. With LoRA frozen weights count twice instead of three times, they get no
    gradient; the adapters' weights count like any other; a tower without adapters is only passed forward. (The first
    layer's queries, keys and values pass no gradient on, which is not deducted.)

    Args:
        config: Qwen2_5_VLConfig.
        picture: (rows, columns) of image tokens per picture.
        num_pictures: pictures per sample.
        adapters: (text, vision) weights of LoRA's adapters; None: there are none.
        frozen: nothing is trained, the model is only passed forward.
    """

    def __init__(self, config, picture, num_pictures, adapters=None, frozen=False):
        text, through = config.text_config, PASSES if adapters is None else PASSES - 1
        in_text, in_vision = adapters or (0, None)
        attended = PASSES
        if frozen:
            through, in_vision, attended = 1, 0, 1
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads, kv_heads = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim
        weights = text.hidden_size * (2 * heads + 2 * kv_heads + 3 * text.intermediate_size)
        self.per_token = MULTIPLY_ADD * (through * text.num_hidden_layers * weights + PASSES * in_text)
        self.per_pair = attended * MULTIPLY_ADD * text.num_hidden_layers * 2 * heads
        self.per_learned_token = through * MULTIPLY_ADD * text.hidden_size * text.vocab_size
        self.per_sample = num_pictures * picture_flops(config.vision_config, *picture, in_vision)

    def __call__(self, batch):
        """Operations of a training batch (see `rv_train.data.features`), read from its tensors on the CPU."""
        return self.count(batch["lengths"].tolist(), batch["label_ids"].numel())

    def count(self, lengths, learned_tokens):
        """The same from numbers.

        Args:
            lengths: tokens of each sample.
            learned_tokens: of all samples together.
        """
        return float(
            self.per_sample * len(lengths)
            + self.per_token * sum(lengths)
            + self.per_pair * sum(length * length for length in lengths)
            + self.per_learned_token * learned_tokens
        )


class FlowFlops:
    """Operations of one forward and backward pass of a backbone and an action expert over a batch.

    A token costs 2 operations per weight of a layer it passes; attention scores, between at most a few hundred tokens,
    are left out. The projector sees M tokens per sample (1, or the prompt), which every layer of the expert looks at;
    the expert H queries; the head H actions per draw of noise. Everything times 3 for the backward pass.

    Args:
        backbone: a TrainingFlops.
        weights: {"projector", "looked_at", "queries", "head": weights that a token of this kind meets}.
        horizon: H.
        condition: "last" or "all" tokens of the prompt.
    """

    def __init__(self, backbone, weights, horizon, condition):
        self.backbone, self.weights, self.horizon, self.condition = backbone, weights, horizon, condition

    @classmethod
    def of(cls, backbone, expert, condition):
        """expert: a `rv_train.models.flow_expert.ActionExpert`."""
        width = expert.head.velocity.in_features
        layers, head = expert.expert.layers, expert.head
        looked_at = len(layers) * 2 * width * width  # keys and values of the cross-attention
        weights = {
            "projector": _matrices(expert.projector),
            "looked_at": looked_at,
            "queries": _matrices(layers) - looked_at,
            "head": _matrices(head.actions) + _matrices(head.layers) + _matrices(head.velocity),
        }
        return cls(backbone, weights, len(expert.expert.queries), condition)

    def __call__(self, batch):
        """Operations of a training batch (see `rv_train.data.flow_features`), read from its tensors on the CPU."""
        return self.count(batch["lengths"].tolist(), batch["time"].numel())

    def count(self, lengths, draws):
        """The same from numbers.

        Args:
            lengths: tokens of each sample's prompt.
            draws: of noise, of all samples together.
        """
        seen = sum(lengths) if self.condition == "all" else len(lengths)
        weights = self.weights
        tokens = {
            "projector": seen,
            "looked_at": seen,
            "queries": self.horizon * len(lengths),
            "head": self.horizon * draws,
        }
        expert = sum(weights[name] * tokens[name] for name in weights)
        return self.backbone.count(lengths, 0) + float(PASSES * MULTIPLY_ADD * expert)


def _matrices(module):
    """Weights that enter matrix products."""
    return sum(p.numel() for p in module.parameters() if p.dim() > 1)


def picture_flops(vision, rows, columns, adapters=None):
    """Training operations of the vision tower for one picture.

    Args:
        vision: Qwen2_5_VLVisionConfig.
        rows, columns: image tokens of the picture.
        adapters: weights of LoRA's adapters in the tower, 0: it is only passed forward; None: all of it is trained.
    """
    unit = vision.spatial_merge_size**2  # patches per image token
    tokens, patches, hidden = rows * columns, rows * columns * unit, vision.hidden_size
    side = vision.window_size // vision.spatial_merge_size // vision.patch_size  # image tokens per side of a window
    in_windows = unit**2 * sum(a * a for a in _pieces(rows, side)) * sum(b * b for b in _pieces(columns, side))
    full_layers = len(set(vision.fullatt_block_indexes) & set(range(vision.depth)))
    pairs = full_layers * patches**2 + (vision.depth - full_layers) * in_windows
    weights = vision.depth * (4 * hidden**2 + 3 * hidden * vision.intermediate_size)
    merged = hidden * unit
    merger = merged * merged + merged * vision.out_hidden_size
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    through, attended, seen = (PASSES, PASSES, PASSES - 1) if adapters is None else (PASSES - 1, PASSES, 1)
    if adapters == 0:
        through = attended = 1
    trunk = through * (patches * weights + tokens * merger) + attended * pairs * 2 * hidden
    return MULTIPLY_ADD * (trunk + seen * patches * pixels * hidden + PASSES * patches * (adapters or 0))


def _pieces(length, side):
    """A length cut into windows; the last one holds what is left: (10, 4) → [4, 4, 2]"""
    return [min(side, length - start) for start in range(0, length, side)]
