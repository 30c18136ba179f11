"""The contract of a backbone: what a family of vision-language models gives, and who asks for it.

A family is one object that satisfies `Family`, in a folder of its own, registered in one line of
`rv_train/backbones/__init__.py`. It has no state. What it gives comes in two halves:

    before there is a model    config keys, prompt, vocabulary, picture geometry, the library's config
    of a model of its class    embeddings, positions, towers, layers, cost

The model itself is the library's own class, weights and names of parameters untouched, so that its folder is an
ordinary Hugging Face folder. What all families share (loading, LoRA, prompt assembly, hidden states, compiling, cost
from sizes) is written once, in the files beside this one.

Letters: B rows of a batch, L tokens of the longest, N pictures per prompt, D the width of the text tower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from yacs.config import CfgNode

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pictures:
    """The pictures of one prompt, all of one size.

    number: N; height, width: pixels of each; rows, columns: image tokens that each becomes; patches: what the vision
    tower reads of each.
    """

    number: int
    height: int
    width: int
    rows: int
    columns: int
    patches: int

    @property
    def tokens(self) -> int:
        """Image tokens of one picture."""
        return self.rows * self.columns


class Chat(Protocol):
    """How a family writes a conversation. Asked by `rv_train.backbones.prompt.PromptEncoder`.

    pad, end, image: names of tokens in the vocabulary: what fills up a batch, ends an answer, stands for a part of a
    picture. tail: names of the tokens that a conversation has behind `end`, learned with it. reserved: how the marks of
    the model begin, which an instruction may not hold. template: the same as a chat template (Jinja), saved with the
    tokenizer, so that a serving engine formats the same prompt. opening: what stands between the end of its generation
    prompt and the first digit of an answer; `prompt` ends with it, DATA.PREPROCESS reference adds it to the template's.
    """

    pad: str
    end: str
    image: str
    tail: Sequence[str]
    reserved: str
    template: str
    opening: str

    def prompt(self, system: str, pictures: Pictures, text: str, numbered: bool) -> str:
        """The whole prompt up to where the answer's first digit follows, every image token written out: as many as
        `pictures` has, in the order of rows; other marks may stand between them.

        Args:
            system: of the system turn, "" for none.
            text: of the user's turn, behind the pictures.
            numbered: name the pictures (PROMPT.VISION_ID).
        """
        ...

    def system_turn(self, system: str) -> str:
        """The part of the prompt that says `system`."""
        ...


@dataclass(frozen=True)
class Embedded:
    """A batch in front of the first text layer; padding stands on the right.

    embeds: (B, L, D), pictures in their places. position_ids: (B, L) or (axes, B, L) int64. by_token: what else the
    text tower takes, by its keyword, (B, L, ...) each. more: the rest of its keywords, which know no places.
    """

    embeds: torch.Tensor
    position_ids: torch.Tensor
    by_token: Mapping[str, torch.Tensor] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Any]:
        """Keywords of the text tower."""
        return {"inputs_embeds": self.embeds, "position_ids": self.position_ids, **self.by_token, **self.more}


@dataclass(frozen=True)
class LayerParts:
    """A text layer as the hand-written pass of `rv_train.policies.text.decoder` computes it, and nothing else:

        x += o(attention(rotate(q_norm(q(h))), rotate(k_norm(k(h))), v(h)))     h = norm1(x)
        x += down(act(gate(h)) * up(h))                                         h = norm2(x)

    norms divide by the root of the mean square and multiply by their `weight`; q_norm, k_norm: over each head, None
    where there are none; rotate: over the whole head, in halves; attention: causal, over all that came before, logits
    divided by the root of the head's size, keys shared by groups of queries. The others are any modules, called.
    """

    norm1: nn.Module
    q: nn.Module
    k: nn.Module
    v: nn.Module
    q_norm: nn.Module | None
    k_norm: nn.Module | None
    o: nn.Module
    norm2: nn.Module
    gate: nn.Module
    up: nn.Module
    down: nn.Module
    act: nn.Module


@dataclass(frozen=True)
class LinearAttention:
    """The layers of a text tower that carry a state from token to token instead of attending: the gated delta rule, in
    chunks of tokens (Yang et al. 2024, arXiv:2412.06464).

    layers: how many; heads: of values, each with a state of key_dim x value_dim numbers; mixed: width of queries, keys
    and values in front of the heads; products: matrix products of a layer that read a normalised input; chunk: tokens.
    """

    layers: int
    heads: int
    key_dim: int
    value_dim: int
    mixed: int
    products: int = 6
    chunk: int = 64


@dataclass(frozen=True)
class TextTower:
    """What `rv_train.backbones.cost` counts with, of the text tower.

    matrices: weights of all layers that a token is multiplied by; attending: layers with attention, of `layers`; mlp:
    width inside a layer's MLP, which has three matrices if it is gated, else two; products: matrix products of a layer
    that read a normalised input; linear: names of a layer's linear modules that LoRA may be put beside; last: the one
    of them that reads what is inside the MLP; head_norms: each head of queries and keys is normed; gated_output: what
    is attended is multiplied by a gate; recurrent: of the layers that do not attend.
    """

    layers: int
    attending: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    matrices: int
    linear: tuple[str, ...]
    last: str = "down_proj"
    products: int = 5
    gated: bool = True
    head_norms: bool = False
    gated_output: bool = False
    recurrent: LinearAttention | None = None


@dataclass(frozen=True)
class VisionTower:
    """The same of the vision tower, for one picture of a given size.

    layers: 0 where one product makes image tokens of patches; then only hidden (the text tower's) and values count.
    matrices: weights of all layers that a patch is multiplied by; merger: weights behind them that an image token is
    multiplied by, all mergers together; values: numbers of a patch as the tower reads it; pairs: of query and key
    patches, over all layers; merged: numbers per patch, in units of `hidden`, that the mergers keep for the backward
    pass; learned_places: positions are learned and added to the patches, so that numbers between the layers are as wide
    as weights; layer_norms: norms are those, not of the root of the mean square. The others are as in `TextTower`.
    """

    layers: int
    hidden: int
    heads: int
    mlp: int
    matrices: int
    merger: int
    values: int
    pairs: int
    linear: tuple[str, ...]
    last: str
    products: int
    gated: bool
    merged: int
    learned_places: bool = False
    layer_norms: bool = False


class Family(Protocol):
    """A family of vision-language models.

    name: what MODEL.BACKBONE says. model_type: what a folder's config.json says. vocabulary_name: what MODEL.TOKENIZER
    says for the vocabulary of `vocabulary`. chat: how it writes a conversation. reference_packages: what `processor`
    and `read_images` import beside the library. defaults: {config key: value} where they are the family's own;
    MODEL.TEXT and MODEL.VISION whole, other keys do not exist for it. tiny: the same of the smallest model that has all
    of its parts, a few ten thousand random parameters: the contract test's. text_layers, vision_layers: regular
    expressions of the names of the towers' lists of layers below `model.`, "(?!)" for a tower that there is not;
    adapted: of the parts of a layer whose linear modules LoRA may be put beside. vision_tower: how names of the vision
    tower's parameters begin, below `model.`; without a tower, of what takes the patches in.
    """

    name: str
    model_type: str
    vocabulary_name: str
    chat: Chat
    reference_packages: Sequence[str]
    defaults: Mapping[str, Any]
    tiny: Mapping[str, Any]
    text_layers: str
    vision_layers: str
    adapted: str
    vision_tower: str

    # ------------------------------------------------------------------------------- before there is a model

    def check(self, cfg: CfgNode) -> None:
        """BadInput where keys of MODEL.TEXT, MODEL.VISION or PROMPT make no model. Asked by every `load_cfg`."""
        ...

    def vocabulary(self, cut: int) -> "PreTrainedTokenizerBase":
        """The tokenizer for folders that bring none, from a package or from beside the family's code; its first `cut`
        entries, 0: all. BadInput where the package is missing."""
        ...

    def grid(self, vision: CfgNode, height: int, width: int) -> tuple[int, int, int]:
        """A picture's size in pixels → (rows, columns of image tokens, patches). BadInput for sizes that the model
        cannot see without resizing.

        vision: MODEL.VISION, for families whose sizes cut pictures differently.
        """
        ...

    def processor_files(self, pictures: Pictures) -> dict[str, dict[str, Any]]:
        """{name of a JSON file of a saved folder: what stands in it}: preprocessor_config.json, which tells the
        library's image processor not to resize further, and whatever else its AutoProcessor reads."""
        ...

    def processor(self, tokenizer: "PreTrainedTokenizerBase", pictures: Pictures) -> Any:
        """The library's own processor for pictures and chat, for DATA.PREPROCESS reference and its tests. BadInput
        where there is none that knows this chat."""
        ...

    def read_images(self, messages: Sequence[Mapping[str, Any]], pictures: Pictures) -> Sequence[Any]:
        """The pictures of a chat in the library's message format, as the family's own examples read them for the
        processor."""
        ...

    def model_class(self) -> "type[PreTrainedModel]":
        """The library's class, imported here and not before: that takes seconds."""
        ...

    def random_config(self, cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase") -> "PretrainedConfig":
        """The library's config object for the sizes of MODEL.TEXT and MODEL.VISION."""
        ...

    # ------------------------------------------------------------------------------- of a model of its class

    def prepare(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """Put what is faster and equal in place of the library's modules, without weights or names of their own; the
        same model. Asked once, when it is built."""
        ...

    def text(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The text tower: takes `Embedded.inputs`, use_cache and the cache, and gives last_hidden_state."""
        ...

    def embed(
        self, model: "PreTrainedModel", batch: Mapping[str, torch.Tensor], image_id: int, pictures: Pictures
    ) -> Embedded:
        """Words and pictures of a batch, on its device; waits for no value of it.

        Args:
            batch: input_ids (B, L) int64, and images (B, N, H, W, 3) uint8 or the library's pixel_values.
            image_id: id of `chat.image`.
        """
        ...

    def layer_parts(self, model: "PreTrainedModel") -> list[LayerParts] | None:
        """Every text layer for the hand-written pass; None where one is not exactly that (see `layers.read_layers`):
        then the library's own forward answers."""
        ...

    def compiled(self, model: "PreTrainedModel") -> list[nn.Module]:
        """The modules that TRAIN.compile compiles, one by one."""
        ...

    def towers(self, config: "PretrainedConfig", pictures: Pictures) -> tuple[TextTower, VisionTower]:
        """What a model of this config costs."""
        ...
