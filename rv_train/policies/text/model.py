"""VLA-0: an unchanged vision-language model that answers pictures and an instruction with actions written as
integers."""

import math
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from libs.errors import BadInput
from rv_train.backbones import family_of
from rv_train.backbones.cost import TrainingFlops
from rv_train.backbones.loading import save_weights
from rv_train.backbones.lora import adapter_sizes
from rv_train.backbones.running import (
    answering,
    check_compiler,
    compile_layers,
    embed,
    hidden_states,
    last_of,
    recompute_layers,
    without_flash,
)
from rv_train.data.forms import dim_written
from rv_train.policies.base import Prediction
from rv_train.policies.text.decoder import Decoder
from rv_train.policies.text.grammar import Grammar
from rv_train.policies.text.library_decoder import LibraryDecoder
from rv_train.policies.text.loss import TokenLoss


class TextPolicy(nn.Module):
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
    DRAFTS = True
    INTEGERS = True
    PARTS: ClassVar = {}
    OWN = ""

    def __init__(self, backbone, family, prompt, codec, grammar):
        super().__init__()
        self.backbone, self.family, self.prompt, self.codec = backbone, family, prompt, codec
        described = family.layer_parts(backbone) is not None
        self.decoder = (Decoder if described else LibraryDecoder)(backbone, family, grammar)
        self.compiled = False

    @staticmethod
    def check(cfg):
        if cfg.MODEL.FREEZE:
            raise BadInput(
                f"MODEL.FREEZE leaves MODEL.NAME {cfg.MODEL.NAME} nothing to train: set MODEL.LORA.RANK instead"
            )

    @classmethod
    def from_cfg(cls, cfg, encoder, backbone, weights=None):
        prompt, action = encoder.prompt, cfg.ACTION
        with torch.device("cpu"):  # numbers are looked at while it is built
            ids = prompt.digit_ids, prompt.space_id, prompt.end_id
            grammar = Grammar(action.HORIZON, dim_written(cfg), action.NUM_BINS, *ids)
        return cls(backbone, family_of(cfg), prompt, encoder.codec, grammar)

    def save(self, folder):
        """Write what a training changes into an existing folder, for `weights` of `from_cfg`."""
        save_weights(self.backbone, folder)

    def flops(self):
        towers = self.family.towers(self.backbone.config, self.prompt.pictures)
        adapters = adapter_sizes(self.named_parameters(), self.family)
        return TrainingFlops(towers, self.prompt.pictures, adapters)

    def kept(self, numbers, tokens, counted):
        """The logits in float32, and in 16 bits before them, or their gradient behind."""
        values = counted * self.backbone.config.get_text_config().vocab_size
        return {"logits and loss": values * (4 + (numbers.compute if numbers.compute < 4 else 0))}

    def chance(self, batch):
        return math.log(self.backbone.config.get_text_config().vocab_size), "guessing among all tokens"

    def forward(self, batch):
        """Cross-entropy of the learned tokens.

        Only the hidden states in front of a learned token reach the head: half the sequence is prompt, and logits of
        151,936 words in float32 are the largest tensor of the step.

        Args:
            batch: see `rv_train.policies.encoding`.
        Returns:
            {"loss": scalar float32, "count": learned tokens in the batch, which it is the mean over}.
        """
        learned = self._hidden(batch).flatten(0, 1)[batch["label_index"]]
        logits = self.backbone.lm_head(learned)  # (M, vocabulary)
        loss = TokenLoss.apply(logits, batch["label_ids"])
        return {"loss": loss, "count": batch["label_ids"].numel()}

    def recompute_activations(self):
        """Gradient checkpointing: layers keep their inputs only and compute the rest again in the backward pass."""
        recompute_layers(self.backbone)

    def compile(self):
        """Compile the training step, in place: call it before DDP wraps the model. `predict` runs uncompiled.

        Raises:
            BadInput: no C++ compiler.
        """
        compile_layers(self.family, self.backbone)
        self.compiled = True

    def compile_predict(self):
        """Compile the step of `predict`'s decoding, in place: once for each shape of a batch, when it first comes.

        Raises:
            BadInput: no C++ compiler.
        """
        check_compiler("torch_compile")
        self.decoder.compile()

    @torch.no_grad()
    def predict(self, batch, temperature=None, generators=None):
        """Answer open prompts with H x A integers in 0..num_bins and the end of the turn, by the grammar.

        At temperature 0 the likeliest allowed token is written each time. Above, one is drawn from
        softmax(logits / temperature) with the Gumbel-max trick: argmax_k(logit_k / temperature + g_k), where
        g_k = -log(-log(u_k)) and u_k is uniform, is distributed so (Maddison, Tarlow and Minka, A* Sampling, NeurIPS
        2014, section 2). All g of a row come from its own generator, before anything is computed.

        Args:
            batch: images, input_ids and lengths, see `rv_train.policies.encoding`; `real` (B,) bool may say which rows
                count, the others get some answer; `drafts` (B, H * A) int64 what is expected, -1 where nothing is: the
                answer is the same, sooner (see `rv_train.policies.text.drafts`).
            temperature: finite, >= 0; None: TEMPERATURE.
            generators: B numpy Generators, drawn from if the temperature is not 0.
        Returns:
            a Prediction.
        """
        noise = None
        if temperature:  # scaled instead of the logits: a temperature close to 0 is then close to none
            grammar = self.decoder.grammar
            shape = grammar.longest, len(grammar.ids)
            noise = np.stack([temperature * generator.gumbel(size=shape) for generator in generators])
            noise = torch.from_numpy(noise.astype(np.float32)).to(batch["input_ids"].device)
        with answering(self.backbone, self.compiled):
            prompt = self._embed(batch)
            ids, passes = self.decoder.generate(prompt, batch["lengths"], noise, batch.get("real"), batch.get("drafts"))
        grammar = self.decoder.grammar
        numbers = [grammar.numbers_of(row) for row in ids]
        decoded = self.codec.decode_integers(numbers, grammar.horizon)
        texts = [" ".join(map(str, row)) for row in numbers]
        tokens = np.array([len(row) + 1 for row in ids])  # with the end
        return Prediction(decoded.actions, decoded.valid, decoded.repaired, texts, tokens, np.array(passes), numbers)

    @torch.no_grad()
    def condition(self, batch):
        """What an answer is computed from: the hidden state behind the open prompt, (B, D) float32."""
        with without_flash(self.backbone):
            return last_of(self._hidden(batch), batch["lengths"]).float()

    def _embed(self, batch):
        return embed(self.family, self.backbone, batch, self.prompt)

    def _hidden(self, batch):
        return hidden_states(self.family, self.backbone, batch, self.prompt)
