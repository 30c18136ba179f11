"""What a training step of a backbone costs: operations, and memory that autograd keeps; from the sizes of its towers.

`rv_train.backbones.base` says what the sizes are. Operations are those that the model's mathematics asks for (PaLM,
Chowdhery et al. 2022, arXiv:2204.02311, appendix B); recomputed activations, padding and the logits of tokens that
nobody learns do not count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from yacs.config import CfgNode

from rv_train.backbones.base import Pictures, TextTower, VisionTower

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


MULTIPLY_ADD = 2  # floating-point operations per weight and vector element of a matrix product
# Forward, gradient of the input, gradient of the weights: the backward pass is twice the forward pass.
PASSES = 3


def gated_text_tower(text: "PretrainedConfig") -> TextTower:
    """The TextTower of a library's config whose layers all attend, and have a gated MLP."""
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads, kv_heads = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim
    weights = text.hidden_size * (2 * heads + 2 * kv_heads + 3 * text.intermediate_size)
    return TextTower(
        layers=text.num_hidden_layers,
        attending=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=head_dim,
        mlp=text.intermediate_size,
        vocabulary=text.vocab_size,
        matrices=text.num_hidden_layers * weights,
        linear=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    )


class TrainingFlops:
    """Operations of one forward and backward pass over a batch.

    With n tokens, m of them learned, and per picture p patches, t image tokens (matrix products only; norms, softmax
    and rotary embeddings are well below a percent; 2 operations per multiply-add):

        text       n * 2 * (weights of all layers)
        attention  layers * 4 * heads * head_dim * n^2          scores and weighted sum, the whole square: like PaLM's
                                                                formula, not halved for causality
        head       m * 2 * hidden * vocabulary                  only learned positions reach the head
        vision     p * 2 * (weights of all layers)
                   4 * hidden * pairs                           of patches that attend to each other, over all layers
                   t * 2 * (weights of the mergers)
        patches    p * 2 * values * hidden
        linear     layers * n * 2 * heads * (2 C k + C v + 3 k v)      linear attention in chunks of C tokens, keys of k
                                                                       and values of v numbers

    Everything times 3 for the backward pass, the patch embedding times 2: no gradient goes on into the pixels.
    `n` is the real length of each sample, without padding.

    A frozen model is only passed forward. With LoRA frozen weights count twice instead of three times, they get no
    gradient; the adapters' weights count like any other; a tower without adapters is only passed forward. (The first
    layer's queries, keys and values pass no gradient on, which is not deducted.) Chunks of linear attention solve
    a triangular system each, whose gradient is one more product of C x (k + v).

    Args:
        towers: (TextTower, VisionTower).
        pictures: the Pictures of a sample.
        adapters: (text, vision) weights of LoRA's adapters; None: there are none.
        frozen: nothing is trained, the model is only passed forward.
    """

    def __init__(
        self,
        towers: tuple[TextTower, VisionTower],
        pictures: Pictures,
        adapters: tuple[int, int] | None = None,
        frozen: bool = False,
    ) -> None:
        (text, vision), through = towers, PASSES if adapters is None else PASSES - 1
        in_text, in_vision = adapters or (0, None)
        attended = PASSES
        if frozen:
            through, in_vision, attended = 1, 0, 1
        self.per_token = MULTIPLY_ADD * (through * text.matrices + PASSES * in_text)
        if text.recurrent:
            self.per_token += _linear_flops(text.recurrent, attended)
        self.per_pair = attended * MULTIPLY_ADD * text.attending * 2 * text.heads * text.head_dim
        self.per_learned_token = through * MULTIPLY_ADD * text.hidden * text.vocabulary
        self.per_sample = pictures.number * picture_flops(vision, pictures, in_vision)

    def __call__(self, batch: "Mapping[str, torch.Tensor]") -> float:
        """Operations of a training batch (see `rv_train.policies.encoding`), read from its tensors on the CPU."""
        return self.count(batch["lengths"].tolist(), batch["label_ids"].numel())

    def count(self, lengths: Sequence[int], learned_tokens: int) -> float:
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


def _linear_flops(recurrent, through):
    """Operations per token of linear attention's products without weights; through: 1, or 3 with a backward pass."""
    chunk, key, value = recurrent.chunk, recurrent.key_dim, recurrent.value_dim
    products = 2 * chunk * key + chunk * value + 3 * key * value
    solved = chunk * (key + value) if through > 1 else 0
    return MULTIPLY_ADD * recurrent.layers * recurrent.heads * (through * products + solved)


def picture_flops(vision: VisionTower, pictures: Pictures, adapters: int | None = None) -> float:
    """Training operations of the vision tower for one picture.

    Args:
        vision: a VisionTower.
        pictures: the Pictures it is one of.
        adapters: weights of LoRA's adapters in the tower, 0: it is only passed forward; None: all of it is trained.
    """
    through, attended, seen = (PASSES, PASSES, PASSES - 1) if adapters is None else (PASSES - 1, PASSES, 1)
    if adapters == 0:
        through = attended = 1
    patches = pictures.patches
    trunk = through * (patches * vision.matrices + pictures.tokens * vision.merger)
    trunk += attended * vision.pairs * 2 * vision.hidden
    seen *= patches * vision.values * vision.hidden
    return MULTIPLY_ADD * (trunk + seen + PASSES * patches * (adapters or 0))


@dataclass(frozen=True)
class Layers:
    """Bytes per token (or patch) that one tower keeps for the backward pass.

    number: layers; input: of a layer's input; inside: of everything a layer keeps, on average; largest: of the one that
    keeps most; ends: in front of the first layer and behind the last.
    """

    number: int
    input: int
    inside: int
    largest: int
    ends: int


def kept_layers(
    cfg: CfgNode, towers: tuple[TextTower, VisionTower], pictures: Pictures, numbers: "Numbers", tokens: int
) -> tuple[Layers, Layers]:
    """(text, vision) towers' `Layers`.

    With r bytes per number between layers and c in products (r = c without autocast), D hidden, Q = heads x head size,
    K the same of keys, F the MLP's width, a layer keeps per token

        norms      2 (4 D + r D)       float32 input, normalised input; layer norms their input, as wide as weights
        products   n c D               their input, once; under autocast cast again for each of the n products
        attention  c (2 Q + 2 K) + 4 heads, c Q       queries, keys, values, result, normaliser; the output's input
        MLP        4 c F               gate, its activation, up, their product; without a gate 2 c F
        heads      (4 + c) (Q + K)     float32 input and normalised, where queries and keys are normed
        gate       2 c Q               the gate and what it multiplies, where there is one

    and `eager` attention keeps the weight of every pair in float32, again in 16 bits where c is 2, and K repeated to Q.
    Between layers the text tower computes in the dtype of its weights (float32 where fp16 products are added to
    bfloat16), the vision tower in that of its first product, to which learned positions are added in theirs, and each
    layer of the text tower keeps its own cosines and sines.

    With MODEL.LORA products and norms keep nothing for the gradient of their weights, and the output's and the last
    product's inputs go as well; instead each adapter of n inputs keeps, with a bytes per number in its products,

        a n + n       what is left of its input after dropout, and what was left, a byte each
        a rank        between its two matrices

    and a tower without adapters keeps nothing. What linear attention keeps: `_linear_kept`.

    Args:
        cfg: the config tree.
        towers: (TextTower, VisionTower).
        pictures: the Pictures of a sample.
        numbers: a Numbers.
        tokens: of the sample.
    """
    (text, vision), lora, compute = towers, cfg.MODEL.LORA, numbers.compute
    size, between = text.head_dim, numbers.between
    norm = 4 if lora.RANK else 4 + between
    inside = _inside(cfg, numbers, text, norm, text.heads * size, text.kv_heads * size, tokens)
    if text.head_norms:
        inside += (4 if lora.RANK else 4 + compute) * (text.heads + text.kv_heads) * size
    if text.gated_output:
        inside += 2 * compute * text.heads * size
    inside += 2 * numbers.width * size
    largest, ends = inside, norm * text.hidden
    if text.recurrent:
        # Without attention of its own: no heads, but its norms, products and MLP
        alone = replace(text, heads=0, kv_heads=0, products=text.recurrent.products)
        linear = _inside(cfg, numbers, alone, norm, 0, 0, 0) + _linear_kept(text.recurrent, numbers)
        largest = max(inside, linear)
        inside = (text.attending * inside + text.recurrent.layers * linear) // text.layers
    text_layers = Layers(text.layers, between * text.hidden, inside, largest, ends)
    if lora.RANK and not (lora.VISION and set(lora.TARGETS) & set(vision.linear)):
        return text_layers, Layers(0, 0, 0, 0, 0)
    if not vision.layers:  # only the product that makes tokens of patches keeps what it reads
        return text_layers, Layers(0, 0, 0, 0, compute * vision.values)
    pairs = vision.pairs / vision.layers / pictures.patches
    between = numbers.width if vision.learned_places else compute
    norm = numbers.width if vision.layer_norms else 4 if lora.RANK else 4 + between
    inside = _inside(cfg, numbers, vision, norm, vision.hidden, vision.hidden, pairs)
    # Frozen mergers, of three numbers each, keep what their activations read.
    read = vision.merged // 3 * vision.hidden if lora.RANK else vision.values + vision.merged * vision.hidden
    ends = (numbers.width if vision.layer_norms else 4 + between) * vision.hidden + compute * read
    return text_layers, Layers(vision.layers, between * vision.hidden, inside, inside, ends)


def _linear_kept(recurrent, numbers):
    """Bytes per token that the library's linear attention keeps, in float32 from its convolution on.

    With c bytes in products, M the mixed width, and per head keys of k and values of v numbers, chunks of C tokens

        convolution   2 c M                    its input, and that of its activation
        delta rule    4 (8 k + 3 v + 5 C) + 4 k v / C      queries and keys before and after norm, decay and padding,
                                               corrected keys and values; weights in a chunk, states between chunks
        copies        2 (7 k + 2 v + C) + 4 k v / C        16 bits wide for the products, under autocast
        output        (12 + 3 c) v             its norm and gate, and the input of the last product
    """
    key, value, chunk, compute = recurrent.key_dim, recurrent.value_dim, recurrent.chunk, numbers.compute
    head = 4 * (8 * key + 3 * value + 5 * chunk) + 4 * key * value // chunk + (12 + 3 * compute) * value
    if compute < numbers.width:
        head += 2 * (7 * key + 2 * value + chunk) + 4 * key * value // chunk
    return 2 * compute * recurrent.mixed + recurrent.heads * head


def _inside(cfg, numbers, tower, norm, queries, keys, pairs):
    """Bytes that a layer keeps per token, see `kept_layers`. norm: of a norm, per number; queries, keys: widths; pairs:
    of tokens, per token."""
    compute, lora, hidden = numbers.compute, cfg.MODEL.LORA, tower.hidden
    attended = compute * (2 * queries + 2 * keys) + 4 * tower.heads  # what attention itself keeps
    if cfg.MODEL.ATTENTION == "eager":
        attended = compute * 3 * queries + tower.heads * pairs * (4 + (compute if compute < 4 else 0))
    wide = 4 if tower.gated else 2
    if not lora.RANK:
        inputs = (tower.products if compute < numbers.width else 2) * compute * hidden
        return int(2 * norm * hidden + inputs + attended + compute * queries + wide * compute * tower.mlp)
    targets = [name for name in lora.TARGETS if name in tower.linear]
    inputs = sum(tower.mlp if name == tower.last else hidden for name in targets)
    inputs *= numbers.adapter + bool(lora.DROPOUT)
    if not numbers.own_inputs:
        inputs = numbers.adapter * (3 * hidden + tower.mlp)
    ranks = numbers.adapter * lora.RANK * len(targets)
    return int(2 * norm * hidden + attended + (wide - 1) * compute * tower.mlp + inputs + ranks)


@dataclass(frozen=True)
class Numbers:
    """Bytes of a number: width: of the weights; compute: in matrix products; between: between the text tower's layers;
    adapter: in the products of an adapter. own_inputs: an adapter's input is a new tensor, because it is cast or
    thinned out; else the one that stands there anyway."""

    width: int
    compute: int
    between: int
    adapter: int
    own_inputs: bool

    @classmethod
    def of(cls, cfg: CfgNode, width: int, amp: str) -> "Numbers":
        """width: of the backbone's weights; amp: "off", "bf16" or "fp16"."""
        compute = width if amp == "off" else 2
        adapter = 2 if amp != "off" else {"float32": 4, "bfloat16": 2}[cfg.AMP.param_dtype]
        own_inputs = bool(cfg.MODEL.LORA.DROPOUT) or amp != "off" or adapter != width
        return cls(width, compute, 4 if amp == "fp16" else width, adapter, own_inputs)
