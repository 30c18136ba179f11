"""VLA-0: an unchanged Qwen2.5-VL that answers pictures and an instruction with actions written as integers."""

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rv_train.data.prompt import MERGE, image_grid
from rv_train.models.decode import Decoder
from rv_train.models.qwen import build_backbone, check_compiler, image_patches, mrope_position_ids, without_flash


@dataclass(frozen=True)
class Prediction:
    """What a batch of observations is answered with.

    chunk: (B, H, A) float32, environment units; valid: (B,) bool, the text could be read (else the mid-range chunk);
    repaired: (B,) bool, the text was too short, too long or incomplete; texts: what was written.
    """

    chunk: np.ndarray
    valid: np.ndarray
    repaired: np.ndarray
    texts: list


class VLA0(nn.Module):
    """Actions as text.

    Args:
        backbone: Qwen2_5_VLForConditionalGeneration.
        prompt: a PromptEncoder; only its ids are used here.
        codec: an ActionTextCodec.
        horizon: actions per chunk.
        picture: (rows, columns) of image tokens per picture.
    """

    def __init__(self, backbone, prompt, codec, horizon, picture):
        super().__init__()
        self.backbone, self.prompt, self.codec = backbone, prompt, codec
        self.horizon, self.picture = horizon, picture
        self.decoder = Decoder(backbone, [*prompt.digit_ids, prompt.space_id, prompt.end_id], prompt.end_id)
        self.compiled = False

    @classmethod
    def from_cfg(cls, cfg, prompt, codec, weights=None):
        backbone = build_backbone(cfg, prompt.tokenizer, weights)
        return cls(backbone, prompt, codec, cfg.ACTION.HORIZON, image_grid(cfg))

    def forward(self, batch):
        """Cross-entropy of the learned tokens.

        Only the hidden states in front of a learned token reach the head: half the sequence is prompt, and logits of
        151,936 words in float32 are the largest tensor of the step.

        Args:
            batch: see `rv_train.data.features`.
        Returns:
            {"loss": scalar float32, "num_tokens": learned tokens in the batch}.
        """
        embeds, position_ids = self._embed(batch)
        text = self.backbone.model.language_model
        # Padding stands on the right and attention is causal, so no mask is needed: nothing learned sees it.
        hidden = text(inputs_embeds=embeds, position_ids=position_ids, use_cache=False).last_hidden_state
        logits = self.backbone.lm_head(hidden.flatten(0, 1)[batch["label_index"]])  # (M, vocabulary)
        loss = F.cross_entropy(logits.float(), batch["label_ids"])
        return {"loss": loss, "num_tokens": batch["label_ids"].numel()}

    def recompute_activations(self):
        """Gradient checkpointing: layers keep their inputs only and compute the rest again in the backward pass."""
        self.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        # The library asks for gradients of pixels and words then, for reentrant checkpoints of adapted models. Others
        # need none, and with them the backward pass would go through what is frozen, the whole vision tower.
        self.backbone.disable_input_require_grads()

    def compile(self):
        """Compile the training step, in place: call it before DDP wraps the model; names of weights stay as they are.

        Layer by layer, not the whole: the decoder layers run the same code, so one of them is compiled and all use it
        (a minute or two instead of many for 36 layers in one graph), gradient checkpointing stays outside around each
        layer, and DDP still sends the gradients of one layer while those of the next are computed. Sizes of batch and
        sequence are symbols: batches of other lengths run the same code. What does compile again is bounded: a batch of
        one sample, and validation, where no gradient is wanted. Of the vision tower only the MLPs are compiled, two
        thirds of its work: its attention reads the lengths of the windows back into Python, which cuts a graph apart
        and compiles it again for every number of pictures. `predict` runs uncompiled.

        Raises:
            ValueError: no C++ compiler.
        """
        check_compiler()
        # Dynamo would cut each layer into DDP's buckets of 25 MB; the layers are the pieces already.
        torch._dynamo.config.optimize_ddp = False
        model = self.backbone.model
        for module in (*model.language_model.layers, *(block.mlp for block in model.visual.blocks)):
            module.compile(dynamic=True)  # not fullgraph: a kernel that breaks the graph costs speed, not the run
        self.compiled = True

    def compile_predict(self):
        """Compile the step of `predict`'s decoding, in place: once for each shape of a batch, when it first comes.

        Raises:
            ValueError: no C++ compiler.
        """
        check_compiler("torch_compile")
        self.decoder.compile()

    @torch.no_grad()
    def predict(self, batch, temperature=0.0, generators=None):
        """Answer open prompts in digits, spaces and the end of the turn only.

        At temperature 0 the likeliest of them is written each time. Above, one is drawn from
        softmax(logits / temperature) with the Gumbel-max trick: argmax_k(logit_k / temperature + g_k), where
        g_k = -log(-log(u_k)) and u_k is uniform, is distributed so (Maddison, Tarlow and Minka, A* Sampling, NeurIPS
        2014, section 2). All g of a row come from its own generator, before anything is computed.

        Args:
            batch: images, input_ids and lengths, see `rv_train.data.features`; `real` (B,) bool may say which rows
                count, the others get some answer.
            temperature: finite, >= 0.
            generators: B numpy Generators, drawn from if the temperature is not 0.
        Returns:
            a Prediction.
        """
        values = self.horizon * self.codec.action_dim
        longest = values * (len(str(self.codec.num_bins)) + 1)  # each number, its space or the end
        noise = None
        if temperature > 0:  # scaled instead of the logits: a temperature close to 0 is then close to none
            shape = longest, len(self.decoder.allowed)
            noise = np.stack([temperature * generator.gumbel(size=shape) for generator in generators])
            noise = torch.from_numpy(noise.astype(np.float32)).to(batch["input_ids"].device)
        # Layers compiled for training would be compiled once more for answering, with its cache; a run answers rarely.
        eager = torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()
        with without_flash(self.backbone), eager:
            embeds, position_ids = self._embed(batch)
            ids = self.decoder.generate(embeds, position_ids, batch["lengths"], longest, noise, batch.get("real"))
        texts = [self.prompt.decode(row) for row in ids]
        decoded = self.codec.decode_detailed(texts, self.horizon)
        return Prediction(decoded.actions, decoded.valid, decoded.repaired, texts)

    def _embed(self, batch):
        """Token embeddings with the pictures in their places (B, L, D), and positions (3, B, L)."""
        model, ids = self.backbone.model, batch["input_ids"]
        if "pixel_values" in batch:  # DATA.PREPROCESS reference: cut into patches by the library's processor
            rows, columns = (MERGE * side for side in self.picture)
            patches = batch["pixel_values"].to(model.visual.dtype)
            grid = torch.tensor([[1, rows, columns]], device=ids.device).expand(len(patches) // (rows * columns), 3)
        else:
            patches, grid = image_patches(batch["images"].flatten(0, 1), model.visual.dtype)
        features = model.visual(patches, grid_thw=grid).pooler_output  # (image tokens of the batch, D)
        embeds = model.language_model.embed_tokens(ids)
        is_image = (ids == self.prompt.image_id).unsqueeze(-1)
        embeds = embeds.masked_scatter(is_image, features.to(embeds.dtype))
        return embeds, mrope_position_ids(ids, self.prompt.image_id, *self.picture)
