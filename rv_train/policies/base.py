"""The contracts of a policy and of what encodes for it, and what every policy answers with.

A policy is a folder of its own with a class `POLICY` and a class `ENCODER`, registered in one line of
`rv_train/policies/__init__.py`. The loop, checkpoints, evaluation, plan and memory estimate know what is written here.

Letters: B rows of a batch, (H, A) shape of a chunk, D the width of the backbone's text tower.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from libs.action_form import ActionForm
from rv_train.backbones.base import Family
from rv_train.backbones.cost import Numbers
from rv_train.backbones.prompt import PromptEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prediction:
    """What a batch of observations is answered with.

    chunk: (B, H, A) float32, environment units, or of a model itself as it writes them (`Encoder.recorded`); valid:
    (B,) bool, the text could be read (else the mid-range chunk);
    repaired: (B,) bool, the text was too short, too long or incomplete; texts: what was written, for people, "" by a
    model that writes nothing. tokens, passes: (B,) int64, what was written with the end, and how often the model ran
    for it, the prompt apart; numbers: B lists of the integers that were written. None from a model that writes nothing.
    """

    chunk: np.ndarray
    valid: np.ndarray
    repaired: np.ndarray
    texts: list
    tokens: np.ndarray | None = None
    passes: np.ndarray | None = None
    numbers: list | None = None

    @classmethod
    def unwritten(cls, chunk: np.ndarray) -> "Prediction":
        """The chunks (B, H, A) of a model that writes nothing: all of them valid."""
        every = np.ones(len(chunk), dtype=bool)
        return cls(chunk, valid=every, repaired=~every, texts=[""] * len(chunk))

    def writing(self, row: int) -> tuple[int, int]:
        """(tokens, passes) of a row; (0, 0) from a model that writes nothing."""
        if self.tokens is None or self.passes is None:
            return 0, 0
        return int(self.tokens[row]), int(self.passes[row])


def gather(answers: Sequence[tuple[Prediction, int]]) -> Prediction:
    """The Prediction that consists of rows of others: [(Prediction, row), ...]."""
    tokens, passes = zip(*(prediction.writing(row) for prediction, row in answers), strict=True)
    return Prediction(
        chunk=np.stack([prediction.chunk[row] for prediction, row in answers]),
        valid=np.array([prediction.valid[row] for prediction, row in answers]),
        repaired=np.array([prediction.repaired[row] for prediction, row in answers]),
        texts=[prediction.texts[row] for prediction, row in answers],
        tokens=np.array(tokens),
        passes=np.array(passes),
        numbers=[prediction.numbers[row] if prediction.numbers else [] for prediction, row in answers],
    )


class Encoder(Protocol):
    """Samples and observations → batches. Training and evaluation share every line but the augmentation.

    prompt: what writes the prompts. stats: of the data, None where nothing is to be learned. proprio: {part of the
    robot's state that the policy is given: numbers in it}, in its order. form: how actions are written. horizon,
    action_dim: (H, A) of a chunk as it is written.
    """

    prompt: PromptEncoder
    stats: Mapping[str, Any] | None
    proprio: dict[str, int]
    form: ActionForm
    horizon: int
    action_dim: int

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, tokenizer: "PreTrainedTokenizerBase | None" = None, stats: Mapping[str, Any] | None = None
    ) -> "Encoder":
        """tokenizer: None loads MODEL.TOKENIZER; stats: see `rv_train.data.stats`."""
        ...

    def encode(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """An observation (`views`, `instruction`, `proprio`) → features; BadInput where something is missing in it."""
        ...

    def state(self, given: Any) -> torch.Tensor:
        """An observation's `proprio` → (P,) float32, the parts in their order; BadInput where it is anything else."""
        ...

    def written(self, sample: Any) -> Any:
        """A Sample whose actions are as the model writes them (ACTION.MODE), for `encode_training`."""
        ...

    def recorded(self, prediction: Prediction, observations: Sequence[Mapping[str, Any]]) -> Prediction:
        """What a model answered to observations, with its chunks as the data have them."""
        ...

    def encode_training(self, sample: Any, rng: np.random.Generator, augment: bool = True) -> dict[str, Any]:
        """A `written` Sample → features with all that is learned; everything random comes from `rng`."""
        ...

    def collate(self, features: Sequence[Mapping[str, Any]], length: int | None = None) -> dict[str, torch.Tensor]:
        """Features → a batch, see `rv_train.policies.encoding`; padded to the longest, or to `length` tokens."""
        ...

    def prompt_length(self, sample: Any) -> int:
        """Tokens of a sample's open prompt."""
        ...

    def target(self, features: Mapping[str, Any], start: int) -> str:
        """What is learned of a sample whose prompt has `start` tokens, in words."""
        ...

    def outline(self, instruction: str) -> tuple[dict[str, torch.Tensor], int, str]:
        """A typical sample before there is data: its ids and labels, how much of it the loss is a mean over, and what
        is learned in words, for the plan."""
        ...


class Policy(Protocol):
    """An `nn.Module` with the library's model in its attribute `backbone`.

    TEMPERATURE: of an answer, where nobody says. COUNTED: what the loss is a mean over, in words. DRAFTS: whether
    `predict` takes a batch's "drafts"; PREFIX: its "prefix", (B, H, A) float32 in environment units, what a chunk must
    begin with, NaN behind. INTEGERS: actions are written as integers, so that those outside the range are clipped and
    none is finer than a bin. PARTS: {part of the model: how the names of its parameters begin} beside the backbone, in
    order; OWN: what they are together, for the memory estimate.
    """

    TEMPERATURE: float
    COUNTED: str
    DRAFTS: bool
    PREFIX: bool
    INTEGERS: bool
    PARTS: Mapping[str, str]
    OWN: str

    backbone: "PreTrainedModel"
    family: Family
    prompt: PromptEncoder

    @staticmethod
    def check(cfg: CfgNode) -> None:
        """BadInput where keys of the config tree contradict each other for this policy. Asked by every `load_cfg`."""
        ...

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, encoder: Encoder, backbone: "PreTrainedModel", weights: Path | None = None
    ) -> "Policy":
        """Around a backbone that is built already, on the meta device, too.

        encoder: with statistics, unless on the meta device. weights: a folder that `save` wrote into, None: new.
        """
        ...

    # ---------------------------------------------------------------------------- of nn.Module

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]: ...

    def to(self, device: Any) -> "Policy": ...

    def train(self, mode: bool = True) -> "Policy": ...

    def eval(self) -> "Policy": ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]: ...

    def modules(self) -> Iterator[nn.Module]: ...

    # ---------------------------------------------------------------------------- of a policy

    def save(self, folder: Path) -> None:
        """Write what a training changes into an existing folder, for `weights` of `from_cfg`."""
        ...

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """{"loss": scalar float32, "count": what it is the mean over}. DDP wraps it."""
        ...

    def predict(
        self,
        batch: Mapping[str, torch.Tensor],
        temperature: float | None = None,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> Prediction:
        """Answer a batch of open prompts; a row's answer depends on the row alone. generators: B of them."""
        ...

    def condition(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, D) float32: what the answers are computed from."""
        ...

    def chance(self, batch: Mapping[str, torch.Tensor]) -> tuple[float, str]:
        """(the loss of a model that knows nothing, what that means in words)."""
        ...

    def recompute_activations(self) -> None:
        """Gradient checkpointing, in place."""
        ...

    def compile(self) -> None:
        """Compile the training step, in place, before DDP wraps it; BadInput without a compiler."""
        ...

    def compile_predict(self) -> None:
        """Compile what `predict` repeats, in place; BadInput without a compiler."""
        ...

    def flops(self) -> Any:
        """Training batch → operations of its forward and backward pass; its `count(lengths, counted)` from numbers:
        tokens of each sample, and what the loss is a mean over, of all of them together."""
        ...

    def kept(self, numbers: Numbers, tokens: int, counted: int) -> dict[str, int]:
        """{part: bytes per sample} that autograd keeps besides what the backbone's layers do.

        Args:
            numbers: bytes of a number.
            tokens, counted: of a sample, see `Encoder.outline`.
        """
        ...
