"""One model, every way to let it answer: this code's, and the library's `generate()`."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from rv_train.backbones.patches import image_patches
from rv_train.backbones.running import use_own

if TYPE_CHECKING:
    from rv_train.policies.text.grammar import Grammar
    from rv_train.policies.text.model import TextPolicy


class Ways:
    """model: a TextPolicy on `device`, over one of Qwen's families."""

    def __init__(self, model: "TextPolicy", device: torch.device | str) -> None:
        self.model = model
        self._compiled: Any = None
        self._wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None

    @torch.inference_mode()
    def answer(
        self, variant: str, batch: Mapping[str, torch.Tensor], drafts: torch.Tensor | None, only_first: bool = False
    ) -> dict:
        """Answer a batch whose prompts are all of one length.

        variant: "plain" and "drafts" are this code's, "generate", "static" and "compiled" the library's.
        drafts: (B, N) for "drafts", or None. only_first: up to the first token.
        Returns {"s": seconds, "ids": of every row without the end, "passes": of every row}.
        """
        self._wait()
        start = time.perf_counter()
        if variant in ("plain", "drafts"):
            ids, passes = self._ours(batch, drafts, variant, only_first)
        else:
            ids, passes = self._generate(batch, variant, only_first)
        self._wait()
        return {"s": time.perf_counter() - start, "ids": ids, "passes": passes}

    def _ours(self, batch, drafts, variant, only_first):
        decoder: Any = self.model.decoder
        prompt = self.model._embed(batch)
        if only_first:
            decoder.prefill(prompt)
            return [], []
        if variant == "drafts" and drafts is None:
            drafts = torch.full((len(batch["lengths"]), decoder.grammar.numbers), -1, device=prompt.embeds.device)
        given = drafts if variant == "drafts" else None
        return decoder.generate(prompt, batch["lengths"], drafts=given)

    def _generate(self, batch, variant, only_first):
        family: Any = self.model.family  # one of Qwen's
        backbone, ids = self.model.backbone, batch["input_ids"]
        grammar = self.model.decoder.grammar.to(ids.device)
        patches, grid = image_patches(batch["images"].flatten(0, 1), family.patches, backbone.model.visual.dtype)
        more = {} if variant == "generate" else {"cache_implementation": "static", "disable_compile": True}
        use_own(backbone, family.own(), own=False)
        if variant == "compiled":
            self._compiled = self._compiled or torch.compile(backbone.forward)
            backbone.forward = self._compiled
        try:
            written = backbone.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),  # no padding
                pixel_values=patches,
                image_grid_thw=grid.to(ids.device),
                mm_token_type_ids=(ids == self.model.prompt.image_id).int(),
                max_new_tokens=1 if only_first else grammar.longest,
                do_sample=False,
                eos_token_id=grammar.end_id,
                pad_token_id=grammar.end_id,
                logits_processor=LogitsProcessorList([OnlyAnswers(grammar)]),
                **more,
            )
        finally:
            use_own(backbone, family.own())
            if variant == "compiled":
                del backbone.forward  # the class has the other one
        rows = [[*row, grammar.end_id] for row in written[:, ids.shape[1] :].tolist()]
        rows = [row[: row.index(grammar.end_id)] for row in rows]
        return rows, [len(row) for row in rows]


class OnlyAnswers(LogitsProcessor):
    """Lets through what the grammar does."""

    def __init__(self, grammar: "Grammar") -> None:
        self.grammar = grammar
        self.state: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        grammar = self.grammar
        if self.state is None:
            self.state = torch.full((len(scores),), grammar.start, device=scores.device)
        else:
            last = torch.searchsorted(grammar.ids, input_ids[:, -1].contiguous())
            self.state = grammar.next[self.state, last]
        allowed = torch.full_like(scores, -torch.inf)
        allowed[:, grammar.ids] = scores[:, grammar.ids] + grammar.penalty[self.state]
        return allowed
