"""VLA-0: an unchanged Qwen2.5-VL that answers pictures and an instruction with actions written as integers."""

import contextlib
import math

import numpy as np
import torch
from torch import nn

from rv_train.data.prompt import image_grid
from rv_train.flops import TrainingFlops
from rv_train.models.decode import Decoder
from rv_train.models.grammar import Grammar
from rv_train.models.lora import adapter_sizes
from rv_train.models.loss import TokenLoss
from rv_train.models.prediction import Prediction
from rv_train.models.qwen import (
    check_compiler,
    compile_layers,
    embed_prompt,
    hidden_states,
    last_of,
    recompute_layers,
    without_flash,
)
from rv_train.models.weights import build_backbone, save_weights


class VLA0(nn.Module):
    """Actions as text.

    Args:
        backbone: Qwen2_5_VLForConditionalGeneration.
        prompt: a PromptEncoder; only its ids are used here.
        codec: an ActionTextCodec.
        horizon: actions per chunk.
        picture: (rows, columns) of image tokens per picture.
    """

    TEMPERATURE = 0.0  # of an answer, where nobody says
    COUNTED = "learned tokens"  # what the loss is a mean over
    DRAFTS = True  # `predict` takes a batch's "drafts"

    def __init__(self, backbone, prompt, codec, horizon, picture):
        super().__init__()
        self.backbone, self.prompt, self.codec = backbone, prompt, codec
        self.horizon, self.picture = horizon, picture
        grammar = Grammar(horizon, codec.action_dim, codec.num_bins, prompt.digit_ids, prompt.space_id, prompt.end_id)
        self.decoder = Decoder(backbone, grammar)
        self.compiled = False

    @classmethod
    def from_cfg(cls, cfg, encoder, weights=None):
        """encoder: a TextEncoder with statistics; weights: see `rv_train.models.build_model`."""
        backbone = build_backbone(cfg, encoder.prompt.tokenizer, weights)
        return cls(backbone, encoder.prompt, encoder.codec, cfg.ACTION.HORIZON, image_grid(cfg))

    def save(self, folder):
        """Write what a training changes into an existing folder, for `weights` of `from_cfg`."""
        save_weights(self.backbone, folder)

    def flops(self):
        """Batch → operations of its forward and backward pass."""
        adapters = adapter_sizes(list(self.named_parameters()))
        return TrainingFlops(self.backbone.config, self.picture, self.prompt.num_pictures, adapters)

    def chance(self, batch):
        """(the loss of a model that knows nothing, what that means in words)."""
        return math.log(self.backbone.config.text_config.vocab_size), "guessing among all tokens"

    def forward(self, batch):
        """Cross-entropy of the learned tokens.

        Only the hidden states in front of a learned token reach the head: half the sequence is prompt, and logits of
        151,936 words in float32 are the largest tensor of the step.

        Args:
            batch: see `rv_train.data.features`.
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
        compile_layers(self.backbone)
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
            batch: images, input_ids and lengths, see `rv_train.data.features`; `real` (B,) bool may say which rows
                count, the others get some answer; `drafts` (B, H * A) int64 what is expected, -1 where nothing is: the
                answer is the same, sooner (see `rv_train.models.drafts`).
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
        # Layers compiled for training would be compiled once more for answering, with its cache; a run answers rarely.
        eager = torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()
        with without_flash(self.backbone), eager:
            embeds, position_ids = self._embed(batch)
            ids, passes = self.decoder.generate(
                embeds, position_ids, batch["lengths"], noise, batch.get("real"), batch.get("drafts")
            )
        texts = [self.prompt.decode(row) for row in ids]
        decoded = self.codec.decode_detailed(texts, self.horizon)
        tokens = np.array([len(row) + 1 for row in ids])  # with the end
        return Prediction(decoded.actions, decoded.valid, decoded.repaired, texts, tokens, np.array(passes))

    @torch.no_grad()
    def condition(self, batch):
        """What an answer is computed from: the hidden state behind the open prompt, (B, D) float32."""
        with without_flash(self.backbone):
            return last_of(self._hidden(batch), batch["lengths"]).float()

    def _embed(self, batch):
        return embed_prompt(self.backbone, batch, self.prompt.image_id, self.picture)

    def _hidden(self, batch):
        return hidden_states(self.backbone, batch, self.prompt.image_id, self.picture)
