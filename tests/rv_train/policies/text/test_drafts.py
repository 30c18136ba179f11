"""Drafts: what they propose, and that no draft, right or wrong, changes a bit of an answer."""

import math

import numpy as np
import pytest
import torch

from rv_train.policies.encoding import ObservationEncoder
from rv_train.policies.text.drafts import Drafts
from tests.rv_train.policies.text.test_decoder import LENGTH, lively_model
from tests.rv_train.policies.text.test_grammar import char, make
from tests.rv_train.policies.text.test_text_policy import observation
from tests.tiny import tiny_cfg

NONE = -1
BINS = 100  # of the tiny model


# ------------------------------------------------------------------------------------------------ what is proposed


def write(grammar, text):
    """(states before each token, columns, state after all) of a text."""
    column = {char(grammar, place): place for place in range(len(grammar.ids))}
    states, columns = [grammar.start], []
    for letter in text:
        assert grammar.allowed[states[-1], column[letter]]
        columns.append(column[letter])
        states.append(int(grammar.next[states[-1], columns[-1]]))
    return states[:-1], columns, states[-1]


def proposed(grammar, drafts, row, rows, written="", count=60):
    """What is expected behind the text `written` of a row, up to the end."""
    state = torch.full((rows,), write(grammar, written)[2])
    columns, states = drafts.propose(state, count)
    assert columns.shape == (rows, count) and states.shape == (rows, count + 1)
    for place in range(count):  # nothing is proposed that could not be
        assert grammar.allowed[states[row, place], columns[row, place]]
        assert grammar.next[states[row, place], columns[row, place]] == states[row, place + 1]
    return "".join(char(grammar, column) for column in columns[row]).partition("$")[0]


def learn(grammar, drafts, texts):
    """Tell the drafts that each row has written its text, all in one pass, wrong tokens behind."""
    width = max(map(len, texts)) + 2
    states, columns = torch.zeros(2, len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        before, written, after = write(grammar, text)
        states[row] = torch.tensor([*before, *[after] * (width - len(text))])
        columns[row] = torch.tensor([*written, *[int(grammar.digits[7])] * (width - len(text))])
    drafts.learn(states, columns, torch.tensor([[len(text)] for text in texts]))


def test_the_expected_numbers_are_proposed_and_beyond_them_the_action_before():
    grammar, drafts = make(4, 2, 1000), Drafts(make(4, 2, 1000), 3)
    drafts.begin(torch.tensor([[0, 10, 1000, 7, 20, 30, 40, 50], [1, 2, 3, 4] + [NONE] * 4, [NONE] * 8]))
    assert proposed(grammar, drafts, 0, 3) == "0 10 1000 7 20 30 40 50"
    assert proposed(grammar, drafts, 1, 3) == "1 2 3 4 3 4 3 4"
    assert proposed(grammar, drafts, 2, 3) == "0 0 0 0 0 0 0 0"  # what the grammar guesses
    assert proposed(grammar, drafts, 0, 3, "0 10 1000") == " 7 20 30 40 50"


def test_after_a_mismatch_the_next_number_is_proposed_from_its_beginning():
    grammar, drafts = make(4, 2, 1000), Drafts(make(4, 2, 1000), 1)
    drafts.begin(torch.tensor([[474, 479, 460, 1, 2, 3, 4, 5]]))
    assert proposed(grammar, drafts, 0, 1, "48") == "4 479 460 1 2 3 4 5"
    assert proposed(grammar, drafts, 0, 1, "481") == " 479 460 1 2 3 4 5"  # no fourth digit fits: the space is forced
    assert proposed(grammar, drafts, 0, 1, "0") == " 479 460 1 2 3 4 5"
    assert proposed(grammar, drafts, 0, 1, "474 479 460 12") == " 2 3 4 5"


def test_what_is_written_is_expected_again_where_nothing_better_is_known():
    grammar, drafts = make(4, 2, 1000), Drafts(make(4, 2, 1000), 2)
    drafts.begin(torch.tensor([[NONE] * 8, [9, 8, 7, 6, NONE, NONE, NONE, NONE]]))
    learn(grammar, drafts, ["123 45", "9 80 700 "])
    assert proposed(grammar, drafts, 0, 2, "123 45 ") == "123 45 0 0 0 0"  # one action ahead
    assert proposed(grammar, drafts, 1, 2, "9 80 700 ") == "6 700 6 7 6"
    learn(grammar, drafts, ["123 45 123 9", "9 80 700 6 "])
    assert proposed(grammar, drafts, 0, 2, "123 45 123 9 ") == "123 9 0 0"
    drafts.begin(torch.tensor([[5] * 8] * 2))
    assert proposed(grammar, drafts, 0, 2) == "5 5 5 5 5 5 5 5"  # nothing is left of the answer before


def test_numbers_that_cannot_be_are_none_and_without_drafts_only_the_grammar_speaks():
    grammar, drafts = make(2, 2, 1000), Drafts(make(2, 2, 1000), 1)
    drafts.begin(torch.tensor([[1001, 7, -5, 2**62]]))
    assert proposed(grammar, drafts, 0, 1) == "0 7 0 7"
    drafts.begin()
    learn(grammar, drafts, ["12 "])
    assert proposed(grammar, drafts, 0, 1) == "0 0 0 0"
    assert proposed(grammar, drafts, 0, 1, "12 101") == " 0 0"


# ------------------------------------------------------------------------------------------------ nothing is changed


@pytest.fixture(scope="module")
def encoder():
    return ObservationEncoder.from_cfg(tiny_cfg())


@pytest.fixture(scope="module")
def features(encoder):
    return [encoder.encode(observation(seed)) for seed in range(504)]


def numbers(text):
    return [int(word) for word in text.split()]


def generate(model, batch, drafts=None, forced=None):
    """Per row the text, its passes, and the final hidden state that each token behind the first was chosen from."""
    decoder, step, seen = model.decoder, model.decoder.step, []
    prompt = model._embed(batch)
    rows, width, size = prompt.embeds.shape

    def watched(layers, x, cos, sin, slots, mask, cache):
        hidden = step(layers, x, cos, sin, slots, mask, cache)
        places = slots.view(rows, -1) % mask.shape[-1] - width
        seen.append((places.tolist(), hidden.view(rows, -1, size)))
        return hidden

    decoder.step = watched
    try:
        ids, passes = decoder.generate(prompt, batch["lengths"], drafts=drafts, forced=forced)
    finally:
        decoder.step = step
    states = [torch.zeros(len(row), size, dtype=prompt.embeds.dtype) for row in ids]
    for places, hidden in seen:  # a later pass stands over an earlier one, as in the cache
        for row, state in enumerate(states):
            for place, one in zip(places[row], hidden[row], strict=True):
                if place < len(state):
                    state[place] = one
    return [model.prompt.decode(row) for row in ids], passes, states


def kinds_of_drafts(texts):
    """Drafts that are right, nearly right, wrong and mad."""
    rng = np.random.default_rng(0)
    right = torch.tensor([numbers(text) for text in texts])
    random = torch.from_numpy(rng.integers(0, BINS + 1, right.shape))
    half = right.clone()
    half[:, 5:] = NONE
    nothing = torch.full_like(right, NONE)
    return {
        "right": right,
        "near": right.where(torch.from_numpy(rng.random(right.shape) < 0.7), random),
        "half": half,
        "shifted": torch.cat([right[:, 7:], nothing[:, :7]], dim=1),
        "mad": torch.from_numpy(rng.integers(-(2**62), 2**62, right.shape)),
        "none": nothing,
    }


@torch.no_grad()
@pytest.mark.parametrize("rows, width", [(1, 16), (4, 8), (7, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_draft_changes_a_bit(encoder, features, dtype, rows, width):
    """Not only what is written: every hidden state that a token was chosen from. Ties would hide a rounding."""
    model = lively_model(AMP__param_dtype=dtype)
    batch = encoder.collate(features[:rows], LENGTH)
    texts, slow, states = generate(model, batch)
    assert len(set("".join(texts))) > 2
    for kind, drafts in kinds_of_drafts(texts).items():
        found, passes, others = generate(model, batch, drafts)
        assert found == texts, kind
        for state, other in zip(states, others, strict=True):
            assert torch.equal(state, other), kind
        if kind == "right":
            assert passes == [math.ceil(len(text) / width) for text in texts]
        assert kind in ("mad", "none") or sum(passes) < sum(slow)


@torch.no_grad()
def test_a_draft_helps_its_own_row_only(encoder, features):
    """Rows keep different numbers of tokens; whoever stands beside one changes neither text nor passes nor states."""
    model = lively_model()
    batch = encoder.collate(features[:4], LENGTH)
    texts, _, states = generate(model, batch)
    right = torch.tensor([numbers(text) for text in texts])
    nothing = torch.full_like(right, NONE)
    alone = generate(model, batch, nothing)[1]
    for row in range(4):
        drafts = nothing.clone()
        drafts[row] = right[row]
        found, passes, others = generate(model, batch, drafts)
        assert found == texts and all(torch.equal(a, b) for a, b in zip(states, others, strict=True))
        expected = alone.copy()
        expected[row] = math.ceil(len(texts[row]) / 8)
        assert passes == expected and expected[row] < alone[row]


@pytest.mark.slow
@torch.no_grad()
def test_500_prompts_are_answered_the_same(encoder, features):
    model, rng = lively_model(), np.random.default_rng(1)
    for start in range(0, len(features), 63):
        batch = encoder.collate(features[start : start + 63], LENGTH)
        answer = model.predict(batch)
        drafts = torch.tensor([numbers(text) for text in answer.texts])
        wrong = torch.from_numpy(rng.random(drafts.shape) < 0.3)
        drafts = drafts.where(~wrong, torch.from_numpy(rng.integers(-1, BINS + 1, drafts.shape)))
        drafted = model.predict({**batch, "drafts": drafts})
        assert drafted.texts == answer.texts and drafted.valid.all() and not drafted.repaired.any()
        np.testing.assert_array_equal(drafted.chunk, answer.chunk)


def test_drawn_answers_are_not_changed_either(encoder, features):
    model = lively_model()
    batch = encoder.collate(features[:4], LENGTH)

    def draw(drafts, seed=0):
        more = {} if drafts is None else {"drafts": drafts}
        generators = [np.random.default_rng([seed, row]) for row in range(4)]
        return model.predict({**batch, **more}, 1.0, generators)

    plain = draw(None)
    assert plain.texts != draw(None, seed=1).texts != model.predict(batch).texts
    for drafts in kinds_of_drafts(plain.texts).values():
        assert draw(drafts).texts == plain.texts
