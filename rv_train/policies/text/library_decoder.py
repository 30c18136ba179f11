"""Decoding of action text through the library's own forward, for layers that the hand-written pass does not describe.

The same interface, grammar, drafts and noise as `decoder.py`; slower, because the library builds masks and cache at
every pass. Prompts stand on the right here, as in the library's own `generate`: layers that carry a state from token to
token must meet the padding first. There is always some, so that a mask is always built: which kernels run must not
depend on who stands beside a row.

A draft is verified in passes of several tokens where a cache keeps every token apart: tokens that were wrong stay in
it, hidden from their row by the mask. A cache with a state cannot forget, there a pass is one token; the answer is the
same.
"""

from typing import TYPE_CHECKING, NoReturn

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import DynamicLayer

from libs.errors import BadInput
from rv_train.backbones.base import Embedded, Family
from rv_train.policies.text.cache import CACHE, cache_of
from rv_train.policies.text.drafts import Drafts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rv_train.policies.text.grammar import Grammar


WIDTH = 8  # tokens per row and pass where a draft is verified


class LibraryDecoder:
    """Decodes with whatever text tower a family has.

    Args:
        backbone: the library's model.
        family: of the model.
        grammar: the Grammar of an answer.
    """

    def __init__(self, backbone: "PreTrainedModel", family: Family, grammar: "Grammar") -> None:
        self.backbone, self.family, self.grammar = backbone, family, grammar

    def compile(self) -> NoReturn:
        raise BadInput(
            f"torch_compile compiles the hand-written pass, which does not describe the layers of MODEL.BACKBONE "
            f"{self.family.name}: do without"
        )

    def release(self) -> None:
        """Nothing is kept for another answer."""

    @torch.inference_mode()
    def generate(
        self,
        prompt: Embedded,
        lengths: torch.Tensor,
        noise: torch.Tensor | None = None,
        real: torch.Tensor | None = None,
        drafts: torch.Tensor | None = None,
        forced: torch.Tensor | None = None,
    ) -> tuple[list[list[int]], list[int]]:
        """See `rv_train.policies.text.decoder.Decoder.generate`."""
        self.grammar = grammar = self.grammar.to(prompt.embeds.device)
        writing = _Writing(self, prompt, lengths, noise, real, drafts, forced)
        while not writing.ended.all():
            writing.advance()
        end = grammar.end_id
        ids = [row[: row.index(end)] for row in grammar.ids[writing.written].tolist()]
        return ids, writing.passes[:, 0].tolist()


class _Writing:
    """The answers of a batch as far as they are written."""

    def __init__(self, decoder, prompt, lengths, noise, real, drafts, forced):
        self.grammar, self.noise = decoder.grammar, noise
        self.text, self.embed = decoder.family.text(decoder.backbone), decoder.backbone.get_input_embeddings()
        self.choose = _scorer(decoder.backbone.get_output_embeddings(), self.grammar.ids)
        batch, device = len(lengths), lengths.device
        self.penalty = self.grammar.penalties(batch, forced)
        self.first = torch.arange(batch, device=device)[:, None] * len(self.grammar.place)  # of a row's states in it
        prompt, self.mask = right_aligned(prompt, lengths)
        output = self.text(**prompt.inputs, attention_mask=self.mask, use_cache=True)
        self.cache = cache_of(output)
        self.axes = prompt.position_ids.shape[:-2]
        last = prompt.position_ids[..., -1]
        self.position = (last.amax(0) if self.axes else last)[:, None] + 1  # (B, 1), of the answer's first token
        forgets = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        self.width = WIDTH if drafts is not None and forgets else 1
        self.drafts = Drafts(self.grammar, batch)
        self.drafts.begin(drafts)
        self.written = torch.full((batch, self.grammar.longest + WIDTH), self.grammar.end, device=device)
        self.count, self.passes = torch.zeros(2, batch, 1, dtype=torch.long, device=device)
        state = torch.full_like(self.count, self.grammar.start)
        self.column = self._scores(output.last_hidden_state[:, -1:], self.count, state).argmax(-1)
        self.written[:, :1] = self.column
        self.state = self.grammar.next[state, self.column]
        self.drafts.learn(state, self.column, torch.ones_like(self.count))
        self.ended = self.state == self.grammar.ended
        if real is not None:
            self.ended |= ~real[:, None]

    def advance(self):
        """The last token of every row and a draft of those behind it: at least one more token of every row."""
        grammar = self.grammar
        expected, states = self.drafts.propose(self.state[:, 0], self.width - 1)
        place = self.count + torch.arange(self.width, device=self.count.device)  # (B, W)
        self.mask = F.pad(self.mask, (0, self.width), value=True)
        output = self.text(
            inputs_embeds=self.embed(grammar.ids[torch.cat([self.column, expected], dim=1)]),
            position_ids=(self.position + place).expand(*self.axes, -1, -1),
            attention_mask=self.mask,
            use_cache=True,
            **{CACHE: self.cache},
        )
        chosen = self._scores(output.last_hidden_state, place + 1, states).argmax(-1)  # (B, W)
        # What follows an expected token is worth something if the token was right, and all before it.
        more = (chosen[:, :-1] == expected).cumprod(1).sum(1, keepdim=True)  # (B, 1)
        self.mask[:, -self.width :] = torch.arange(self.width, device=more.device) <= more
        self.written.scatter_(1, place + 1, chosen)
        self.drafts.learn(states, chosen, more + 1)
        self.column = chosen.gather(1, more)
        self.state = grammar.next[states.gather(1, more), self.column]
        self.passes += ~self.ended
        self.ended |= self.state == grammar.ended
        self.count.add_(more + 1).clamp_(max=grammar.longest - 1)

    def _scores(self, hidden, places, states):
        """(B, W, K) logits of the tokens behind `states` (B, W), with the noise of their places in the answer."""
        scores = self.choose(hidden).float()
        if self.noise is not None:
            at = places.clamp(max=self.grammar.longest - 1)[..., None].expand(-1, -1, self.noise.shape[-1])
            scores = scores + self.noise.gather(1, at)
        return scores + self.penalty[states + self.first]


def right_aligned(prompt: Embedded, lengths: torch.Tensor) -> tuple[Embedded, torch.Tensor]:
    """Embedded prompts with their padding, one token at least, on the left; and (B, L + 1) bool, which count."""
    size = prompt.embeds.shape[1]
    shift = size + 1 - lengths[:, None]
    places = torch.arange(size + 1, device=lengths.device)
    source = (places - shift).clamp(min=0)  # (B, L + 1)

    def moved(values):
        """(B, L, ...), of each row its own places."""
        index = source.view(*source.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
        return values.gather(1, index)

    positions = prompt.position_ids.gather(-1, source.expand(*prompt.position_ids.shape[:-2], -1, -1))
    by_token = {name: moved(values) for name, values in prompt.by_token.items()}
    return Embedded(moved(prompt.embeds), positions, by_token, prompt.more), places >= shift


def _scorer(head, ids):
    """Hidden states → logits of the ids, without those of all other words where the head is a plain product."""
    if type(head) is not nn.Linear:
        return lambda hidden: head(hidden)[..., ids]
    weight, bias = head.weight[ids], None if head.bias is None else head.bias[ids]
    return lambda hidden: F.linear(hidden, weight, bias)
