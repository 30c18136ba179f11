"""SmolVLM2's own module: a text tower that asks the device for nothing. It has the library's weights and names."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama import modeling_llama as library


class TextModel(library.LlamaModel):
    """The library looks for packed sequences in the positions of every pass that keeps nothing, all of training, for
    which a GPU is waited for in the middle of it. Here a row is one sequence."""

    def forward(
        self,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **more: Any,
    ) -> Any:
        """As in the library; inputs_embeds (B, L, D), position_ids (B, L), which rise by one."""
        # `eager` attention wants a mask, and what is kept, or goes on from something kept, is not looked through.
        causal = use_cache is False and not more and self.config._attn_implementation != "eager"
        if inputs_embeds is None or position_ids is None or not causal:
            return super().forward(inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=use_cache, **more)
        hidden, places = inputs_embeds, self.rotary_emb(inputs_embeds, position_ids=position_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=None, position_embeddings=places, use_cache=False)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden))


OWN: Mapping[type[object], type] = {TextModel: library.LlamaModel}
