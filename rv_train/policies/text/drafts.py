"""Drafts: what an answer will probably say next. Lossless: the model keeps what it would have written itself.

A row's draft is a number for every number of its answer:
    its own previous chunk, shifted by the actions executed since, as far as it reaches (the caller hands it over);
    beyond, the number of the action before, as it was drafted, or written by now.
Where the grammar allows one token only, or not the one in the draft, it says what comes. A number that turned out
otherwise costs the rest of a pass; the next number starts at its own draft again.
"""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from rv_train.policies.text.grammar import Grammar


class Drafts:
    """Drafts for the B rows of a batch, kept as tables (state → token, state after it) on the grammar's device.

    Args:
        grammar: a Grammar.
        batch: B.
    """

    def __init__(self, grammar: "Grammar", batch: int) -> None:
        self.grammar = grammar
        device, states = grammar.ids.device, len(grammar.place)
        self._first = torch.arange(batch, device=device)[:, None] * states  # of the row's part of the flat tables
        self._flat = torch.arange(states, device=device) * len(grammar.ids)  # of a state's part of the grammar's tables
        self._text = torch.zeros(batch, grammar.places + 1, dtype=torch.long, device=device)
        self._copies = torch.zeros_like(self._text)  # place → where what is written there is expected again
        self._token = torch.zeros(batch, states, dtype=torch.long, device=device)
        self._after = torch.zeros_like(self._token)
        self._learns = False

    def begin(self, numbers: torch.Tensor | None = None) -> None:
        """numbers: (B, N) int64, what is expected, -1 where nothing is; None: guess from the grammar only."""
        grammar, width = self.grammar, self.grammar.digit_places
        self._learns = numbers is not None
        if numbers is None:
            self._set(grammar.guess.expand_as(self._token))
            return
        text, known = grammar.columns(numbers)
        # Without an expectation: as the action before, whatever that is; before the first action there is none.
        for number in range(grammar.action_dim, grammar.numbers):
            same = text[:, number - grammar.action_dim]
            text[:, number] = text[:, number].where(known[:, number, None], same)
        self._text[:, :-1] = text.flatten(1)
        ahead = torch.arange(grammar.places + 1, device=text.device) + grammar.action_dim * width
        ahead = ahead.clamp(max=grammar.places)
        unknown = torch.nn.functional.pad((~known).repeat_interleave(width, 1), (0, 1))
        self._copies.copy_(ahead.where(unknown[:, ahead], grammar.places))
        self._rebuild()

    def propose(self, state: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The `count` tokens that are expected from `state` (B,) on: columns (B, count), and the states (B, count + 1)
        before the first and after each."""
        flat = [state + self._first[:, 0]]
        for _ in range(count):
            flat.append(self._after.view(-1)[flat[-1]])
        all_flat = torch.stack(flat, dim=1)
        return self._token.view(-1)[all_flat[:, :-1]], all_flat - self._first

    def learn(self, states: torch.Tensor, columns: torch.Tensor, count: torch.Tensor) -> None:
        """Expect what was written again, one action later, where nothing better is known.

        Args:
            states: (B, W) before each token.
            columns: (B, W) tokens, of which the first `count` (B, 1) count.
        """
        if not self._learns:
            return
        nowhere = self.grammar.places
        to = self._copies.gather(1, self.grammar.place[states])
        written = torch.arange(columns.shape[1], device=columns.device) < count
        self._text.scatter_(1, to.where(written, nowhere), columns)
        self._rebuild()

    def _rebuild(self):
        grammar = self.grammar
        token = self._text[:, grammar.place]  # (B, S)
        allowed = grammar.allowed.view(-1)[self._flat + token]
        self._set(token.where(allowed, grammar.guess))

    def _set(self, token):
        self._token.copy_(token)
        self._after.copy_(self.grammar.next.view(-1)[self._flat + token] + self._first)
