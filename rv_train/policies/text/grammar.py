"""What an answer may look like: H x A integers in 0..num_bins, one space between them, then the end. As an automaton.

Numbers are written as `ActionTextCodec.encode` writes them: no sign, no leading zeros. What may follow depends on the
number that is being written (which of the H x A) and on how its digits so far compare with those of num_bins, so a few
hundred states are enough for any num_bins. A state costs one look-up per token and row, and nothing leaves the device.
"""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch.nn.functional import pad


class Grammar:
    """The automaton. Tokens are columns: places in the ascending order of the K ids that may be written.

    ids: (K,) int64. start, ended: states before the first token and after the end, where only the end may follow.
    allowed: (S, K) bool; penalty: (S, K) float32, 0 where allowed, else -inf; next: (S, K) int64, the state after
    a token. guess: (S,) int64, a column that is allowed: the space or the end where one may stand, else a digit.
    place: (S,) int64, the place of the token that comes next among `places`: digit_places for each number, the last of
    them for what ends it; and one place behind all, for what is nowhere. longest: tokens of the longest answer.
    """

    def __init__(
        self, horizon: int, action_dim: int, num_bins: int, digit_ids: Sequence[int], space_id: int, end_id: int
    ) -> None:
        self.horizon, self.action_dim, self.num_bins = horizon, action_dim, num_bins
        self.numbers = horizon * action_dim
        self.digit_places = len(str(num_bins)) + 1
        self.places = self.longest = self.numbers * self.digit_places
        self.end_id = end_id
        self._digit_of = {id: digit for digit, id in enumerate(digit_ids)}
        self.ids = torch.tensor(sorted([*digit_ids, space_id, end_id]))
        column = {id: place for place, id in enumerate(self.ids.tolist())}
        self.digits = torch.tensor([column[id] for id in digit_ids])
        self.space, self.end = column[space_id], column[end_id]
        kinds = _kinds(num_bins)
        self.start, self.ended = 0, self.numbers * len(kinds)
        shape = self.ended + 1, len(self.ids)
        self.next = torch.full(shape, self.ended)
        self.allowed = torch.zeros(shape, dtype=torch.bool)
        self.guess = torch.full(shape[:1], self.end)
        self.place = torch.full(shape[:1], self.places)
        self.allowed[self.ended, self.end] = True
        order = {kind: place for place, kind in enumerate(kinds)}
        for number in range(self.numbers):
            for place, (written, digits) in enumerate(kinds.values()):
                state = number * len(kinds) + place
                follow = {column[digit_ids[digit]]: number * len(kinds) + order[kind] for digit, kind in digits.items()}
                self.guess[state] = min(follow, default=0)
                if written:
                    last = number + 1 == self.numbers
                    self.guess[state] = self.end if last else self.space
                    follow[int(self.guess[state])] = self.ended if last else (number + 1) * len(kinds)
                self.next[state, list(follow)] = torch.tensor(list(follow.values()))
                self.allowed[state, list(follow)] = True
                self.place[state] = number * self.digit_places + written
        self.penalty = torch.zeros(shape).masked_fill_(~self.allowed, -torch.inf)

    def to(self, device: torch.device | str) -> "Grammar":
        """The same with its tables on a device; itself where they are there."""
        if self.ids.device == torch.device(device):
            return self
        moved = copy.copy(self)
        moved.__dict__.update({k: v.to(device) for k, v in self.__dict__.items() if isinstance(v, torch.Tensor)})
        return moved

    def penalties(self, batch: int, forced: torch.Tensor | None = None) -> torch.Tensor:
        """What is added to the scores of B rows: the grammar's penalty, narrowed where a number is forced to that one.

        Args:
            batch: B.
            forced: (B, N) int64, those outside 0..num_bins are free; None: all are.

        Returns:
            (B * S, K) float32, the states of a row one after another.
        """
        if forced is None:
            return self.penalty.repeat(batch, 1)
        text, known = self.columns(forced)
        last = text[:, -1]
        text[:, -1] = last.where(last != self.space, self.end)  # what ends the last number ends the answer
        text = pad(text.flatten(1), (0, 1))[:, self.place]  # (B, S), what comes next where its number is forced
        known = pad(known.repeat_interleave(self.digit_places, 1), (0, 1))[:, self.place]
        other = text[..., None] != torch.arange(len(self.ids), device=text.device)
        return self.penalty.masked_fill(known[..., None] & other, -torch.inf).flatten(0, 1)

    def numbers_of(self, ids: Iterable[int]) -> list[int]:
        """The integers that the ids of an answer write, without the end: a list."""
        numbers, inside = [], False
        for id in ids:
            digit = self._digit_of.get(id)  # None: a space
            if digit is not None and inside:
                numbers[-1] = 10 * numbers[-1] + digit
            elif digit is not None:
                numbers.append(digit)
            inside = digit is not None
        return numbers

    def columns(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Integers as they are written, number by number.

        Args:
            numbers: (B, N) int64; those outside 0..num_bins stand for none.

        Returns:
            (B, N, digit_places) columns, spaces behind the digits; and (B, N) bool, whether it is a number.
        """
        known = (numbers >= 0) & (numbers <= self.num_bins)
        numbers = numbers.where(known, 0)
        columns = torch.full((*numbers.shape, self.digit_places), self.space, device=numbers.device)
        length = torch.ones_like(numbers)
        for power in range(1, self.digit_places - 1):
            length += numbers >= 10**power
        for place in range(self.digit_places - 1):
            digit = numbers // 10 ** (length - 1 - place).clamp(min=0) % 10
            columns[..., place] = self.digits[digit].where(place < length, columns[..., place])
        return columns, known


def _kinds(num_bins):
    """The kinds of beginnings of a number: those of a kind may be continued in the same ways.

    Returns:
        {kind: (digits written, {digit that may follow: kind that it leads to})}, the empty beginning first.
    """
    limit = str(num_bins)

    def kind(prefix):
        if prefix in ("", "0"):
            return prefix
        head = limit[: len(prefix)]  # of the same length: strings compare like numbers
        return len(prefix), (prefix > head) - (prefix < head)

    kinds, examples = {}, [""]
    for prefix in examples:  # grows meanwhile
        if kind(prefix) in kinds:
            continue
        longer = [prefix + digit for digit in "0123456789" if prefix != "0" and int(prefix + digit) <= num_bins]
        kinds[kind(prefix)] = len(prefix), {int(text[-1]): kind(text) for text in longer}
        examples += longer
    return kinds
