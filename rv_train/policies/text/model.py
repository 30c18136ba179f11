"""VLA-0: an unchanged vision-language model that answers pictures and an instruction with actions written as
integers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from yacs.config import CfgNode

from libs.errors import BadInput
from rv_train.backbones import family_of
from rv_train.backbones.cost import Numbers, TrainingFlops
from rv_train.backbones.running import answering, check_compiler, embed
from rv_train.data.forms import dim_written
from rv_train.policies.base import Prediction
from rv_train.policies.shared import OverBackbone
from rv_train.policies.text.decoder import Decoder
from rv_train.policies.text.grammar import Grammar
from rv_train.policies.text.loss import TokenLoss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from libs.action_text.codec import ActionTextCodec
    from rv_train.backbones.base import Family
    from rv_train.backbones.prompt import PromptEncoder
    from rv_train.policies.text.encoder import TextEncoder


class TextPolicy(OverBackbone):
    """Actions as text; see `rv_train.policies.base.Policy`.

    Args:
        backbone: the library's model.
        family: of the backbone.
        prompt: a PromptEncoder; only its ids are used here.
        codec: an ActionTextCodec.
        grammar: of the answers.
    """

    TEMPERATURE = 0.0
    COUNTED = "learned tokens"
    DRAFTS = PREFIX = True
    INTEGERS = True
    PARTS: ClassVar = {}
    OWN = ""

    def __init__(
        self,
        backbone: "PreTrainedModel",
        family: "Family",
        prompt: "PromptEncoder",
        codec: "ActionTextCodec | None",
        grammar: Grammar,
    ) -> None:
        super().__init__(backbone, family, prompt, writes=True)
        self.codec = codec
        self.decoder = _decoder_of(family, backbone)(backbone, family, grammar)

    def train(self, mode: bool = True) -> Self:
        """Who trains needs the memory of answers, which validation leaves behind on a GPU."""
        if mode:
            self.decoder.release()
        return super().train(mode)

    @staticmethod
    def check(cfg: CfgNode) -> None:
        if cfg.MODEL.FREEZE:
            raise BadInput(
                f"MODEL.FREEZE leaves MODEL.NAME {cfg.MODEL.NAME} nothing to train: set MODEL.LORA.RANK instead"
            )

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, encoder: "TextEncoder", backbone: "PreTrainedModel", weights: Path | None = None
    ) -> "TextPolicy":
        prompt, action = encoder.prompt, cfg.ACTION
        with torch.device("cpu"):  # numbers are looked at while it is built
            ids = prompt.digit_ids, prompt.space_id, prompt.end_id
            grammar = Grammar(action.HORIZON, dim_written(cfg), action.NUM_BINS, *ids)
        return cls(backbone, family_of(cfg), prompt, encoder.codec, grammar)

    def flops(self) -> TrainingFlops:
        return self.backbone_flops()

    def kept(self, numbers: Numbers, tokens: int, counted: int) -> dict[str, int]:
        """The logits in float32, and in 16 bits before them, or their gradient behind."""
        values = counted * self.backbone.config.get_text_config().vocab_size
        return {"logits and loss": values * (4 + (numbers.compute if numbers.compute < 4 else 0))}

    def chance(self, batch: Mapping[str, torch.Tensor]) -> tuple[float, str]:
        return math.log(self.backbone.config.get_text_config().vocab_size), "guessing among all tokens"

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Cross-entropy of the learned tokens.

        Only the hidden states in front of a learned token reach the head: half the sequence is prompt, and logits of
        151,936 words in float32 are the largest tensor of the step.

        Args:
            batch: see `rv_train.policies.encoding`.

        Returns:
            {"loss": scalar float32, "count": learned tokens in the batch, which it is the mean over}.
        """
        learned = self.hidden(batch).flatten(0, 1)[batch["label_index"]]
        logits = self.backbone.lm_head(learned)  # (M, vocabulary)
        loss = TokenLoss.apply(logits, batch["label_ids"])
        return {"loss": loss, "count": batch["label_ids"].numel()}

    def compile_predict(self) -> None:
        """Compile the step of `predict`'s decoding, in place: once for each shape of a batch, when it first comes.

        Raises:
            BadInput: no C++ compiler.
        """
        check_compiler("torch_compile")
        self.decoder.compile()

    @torch.no_grad()
    def predict(
        self,
        batch: Mapping[str, torch.Tensor],
        temperature: float | None = None,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> Prediction:
        """Answer open prompts with H x A integers in 0..num_bins and the end of the turn, by the grammar.

        At temperature 0 the likeliest allowed token is written each time. Above, one is drawn from
        softmax(logits / temperature) with the Gumbel-max trick: argmax_k(logit_k / temperature + g_k), where
        g_k = -log(-log(u_k)) and u_k is uniform, is distributed so (Maddison, Tarlow and Minka, A* Sampling, NeurIPS
        2014, section 2). All g of a row come from its own generator, before anything is computed.

        Args:
            batch: images, input_ids and lengths, see `rv_train.policies.encoding`; `real` (B,) bool may say which rows
                count, the others get some answer; `drafts` (B, H * A) int64 what is expected, -1 where nothing is: the
                answer is the same, sooner (see `rv_train.policies.text.drafts`); `prefix` (B, H, A) float what a chunk
                begins with, in environment units, NaN where the model is free: written as the nearest integers.
            temperature: finite, >= 0; None: TEMPERATURE.
            generators: B numpy Generators, drawn from if the temperature is not 0.

        Returns:
            a Prediction.
        """
        noise = None
        if temperature:  # scaled instead of the logits: a temperature close to 0 is then close to none
            grammar = self.decoder.grammar
            shape = grammar.longest, len(grammar.ids)
            drawn = np.stack([temperature * generator.gumbel(size=shape) for generator in generators or ()])
            noise = torch.from_numpy(drawn.astype(np.float32)).to(batch["input_ids"].device)
        with answering(self.backbone, self.compiled):
            prompt = self._embed(batch)
            drafts, forced = batch.get("drafts"), self._forced(batch.get("prefix"))
            if forced is not None and drafts is not None:  # what is forced is expected
                drafts = forced.where(forced >= 0, drafts)
            ids, passes = self.decoder.generate(prompt, batch["lengths"], noise, batch.get("real"), drafts, forced)
        grammar = self.decoder.grammar
        numbers = [grammar.numbers_of(row) for row in ids]
        assert self.codec is not None, "only a policy without statistics lacks it, which answers nothing"
        decoded = self.codec.decode_integers(numbers, grammar.horizon)
        texts = [" ".join(map(str, row)) for row in numbers]
        tokens = np.array([len(row) + 1 for row in ids])  # with the end
        return Prediction(decoded.actions, decoded.valid, decoded.repaired, texts, tokens, np.array(passes), numbers)

    def _forced(self, prefix):
        """(B, H, A) actions → (B, H * A) int64 on their device, -1 where they are NaN; None: nothing is forced."""
        if prefix is None:
            return None
        assert self.codec is not None, "what answers knows its range"
        free = prefix.isnan()
        integers = torch.from_numpy(self.codec.to_integers(prefix.nan_to_num().cpu().numpy())).to(prefix.device)
        return integers.masked_fill(free, -1).flatten(1)

    def _embed(self, batch):
        return embed(self.family, self.backbone, batch, self.prompt)


def _decoder_of(family, backbone):
    """The class that decodes for this backbone."""
    if family.layer_parts(backbone) is not None:
        return Decoder
    # Here, because it imports the library: a second, which who only reads a recipe need not spend.
    from rv_train.policies.text.library_decoder import LibraryDecoder

    return LibraryDecoder
