"""The grammar of an answer: what `ActionTextCodec.encode` can write, all of it and nothing else."""

import numpy as np
import pytest
import torch

from libs.action_text import ActionTextCodec
from rv_train.policies.text.grammar import Grammar

DIGITS, SPACE, END = list(range(15, 25)), 220, 7  # ids in an order of their own, as Qwen's are
CHARS = {**dict(zip(DIGITS, "0123456789", strict=True)), SPACE: " ", END: "$"}


def make(horizon, action_dim, num_bins):
    return Grammar(horizon, action_dim, num_bins, DIGITS, SPACE, END)


def char(grammar, column):
    return CHARS[int(grammar.ids[column])]


def language(grammar):
    """Every text that the automaton lets through, by trying everything."""
    texts, open_ends = [], [("", grammar.start)]
    for text, state in open_ends:  # grows meanwhile
        for column in grammar.allowed[state].nonzero()[:, 0].tolist():
            after = int(grammar.next[state, column])
            if after == grammar.ended:
                texts.append(text + char(grammar, column))
            else:
                open_ends.append((text + char(grammar, column), after))
    return texts


@pytest.mark.parametrize("num_bins", [1, 5, 9, 10, 11, 99, 100, 101, 230, 987, 1000, 1023, 10000])
def test_one_number_is_any_integer_up_to_the_bins_as_python_writes_it(num_bins):
    texts = language(make(1, 1, num_bins))
    assert len(texts) == num_bins + 1 and set(texts) == {f"{number}$" for number in range(num_bins + 1)}


def test_several_numbers_have_one_space_between_them():
    expected = {f"{a} {b} {c}$" for a in range(13) for b in range(13) for c in range(13)}
    assert set(language(make(3, 1, 12))) == expected == set(language(make(1, 3, 12)))


@pytest.mark.parametrize("horizon, action_dim, num_bins", [(8, 7, 1000), (2, 7, 100), (1, 1, 1), (3, 2, 20480)])
def test_whatever_is_drawn_is_an_answer(horizon, action_dim, num_bins):
    grammar, rng = make(horizon, action_dim, num_bins), np.random.default_rng(0)
    codec = ActionTextCodec([-1.0] * action_dim, [1.0] * action_dim, num_bins)
    texts = []
    for _ in range(50):
        text, state = "", grammar.start
        while state != grammar.ended:
            assert grammar.place[state] == grammar.digit_places * text.count(" ") + len(text.split(" ")[-1])
            assert grammar.allowed[state, grammar.guess[state]]
            column = rng.choice(grammar.allowed[state].nonzero()[:, 0].numpy())
            text, state = text + char(grammar, column), int(grammar.next[state, column])
        assert len(text) <= grammar.longest
        texts.append(text[:-1])
    decoded = codec.decode_detailed(texts, horizon)
    assert decoded.valid.all() and not decoded.repaired.any()
    assert codec.encode(decoded.actions) == texts
    longest = " ".join([str(num_bins)] * (horizon * action_dim)) + "$"
    assert len(longest) == grammar.longest


def test_after_the_end_there_is_the_end():
    grammar = make(2, 2, 30)
    assert grammar.allowed[grammar.ended].nonzero().tolist() == [[grammar.end]]
    assert int(grammar.next[grammar.ended, grammar.end]) == grammar.ended
    assert torch.equal(grammar.penalty == 0, grammar.allowed)
    assert (grammar.penalty[~grammar.allowed] == -torch.inf).all()


@pytest.mark.parametrize("num_bins", [9, 10, 1000, 4321])
def test_columns_write_numbers_digit_by_digit(num_bins):
    grammar = make(1, 1, num_bins)
    numbers = torch.arange(-3, num_bins + 3)[:, None]
    columns, known = grammar.columns(numbers)
    assert columns.shape == (num_bins + 6, 1, grammar.digit_places)
    assert known[:, 0].tolist() == [0 <= number <= num_bins for number in numbers[:, 0].tolist()]
    for number, row in zip(range(num_bins + 1), columns[3:-2, 0].tolist(), strict=True):
        assert "".join(char(grammar, column) for column in row) == str(number).ljust(grammar.digit_places)
