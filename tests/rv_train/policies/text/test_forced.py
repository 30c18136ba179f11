"""Numbers that are forced: written as they are, and what follows is what the model writes behind them."""

import copy

import numpy as np
import pytest
import torch

from rv_train.policies.encoding import ObservationEncoder
from rv_train.policies.text.library_decoder import LibraryDecoder
from tests.rv_train.backbones.test_qwen import FAMILIES
from tests.rv_train.policies.text.test_decoder import LENGTH, lively_model
from tests.rv_train.policies.text.test_drafts import BINS, NONE, generate, kinds_of_drafts, numbers
from tests.rv_train.policies.text.test_grammar import char, make
from tests.rv_train.policies.text.test_text_policy import observation
from tests.tiny import tiny_cfg, tiny_recipe
from tools.dev.benchmarks import decode_ways


@pytest.fixture(scope="module", params=FAMILIES)
def recipe(request, tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def model(recipe):
    return lively_model(recipe)


@pytest.fixture(scope="module")
def encoder(recipe):
    return ObservationEncoder.from_cfg(tiny_cfg(recipe))


@pytest.fixture(scope="module")
def batch(encoder):
    return encoder.collate([encoder.encode(observation(seed)) for seed in range(4)], LENGTH)


def some_numbers(rows=4, count=14):
    """What the answers to four prompts begin with: nothing, a number, an action and a half, all but the last number."""
    forced = torch.from_numpy(np.random.default_rng(5).integers(0, BINS + 1, (rows, count)))
    for row, known in enumerate((0, 1, 10, count - 1)):
        forced[row, known:] = NONE
    return forced


def decoders(model):
    return model.decoder, LibraryDecoder(model.backbone, model.family, model.decoder.grammar)


@pytest.mark.parametrize("num_bins", [1, 99, 100, 1000])
def test_nothing_but_the_forced_number_is_left_whatever_the_scores(num_bins):
    grammar, rng = make(2, 2, num_bins), np.random.default_rng(0)
    forced = torch.tensor([[num_bins, 0, 1, num_bins], [num_bins // 2, NONE, NONE, NONE], [NONE] * 4])
    penalty = grammar.penalties(3, forced).view(3, -1, len(grammar.ids))
    assert torch.equal(penalty[2], grammar.penalty)
    for _ in range(20):
        for row, wanted in enumerate((f"{num_bins} 0 1 {num_bins}$", f"{num_bins // 2} ", "")):
            text, state = "", grammar.start
            while state != grammar.ended:
                scores = torch.from_numpy(rng.normal(size=len(grammar.ids)).astype(np.float32))
                column = int((scores + penalty[row, state]).argmax())
                assert grammar.allowed[state, column]
                text, state = text + char(grammar, column), int(grammar.next[state, column])
            assert text.startswith(wanted)


@torch.no_grad()
def test_what_follows_is_what_generate_writes_behind_the_forced_text(model, encoder, monkeypatch):
    """The library is given prompt and forced text as one prompt, and goes on from there under the same grammar."""
    grammar, forced = model.decoder.grammar, some_numbers()
    for row in range(4):
        alone = encoder.collate([encoder.encode(observation(row))])
        known = forced[row][forced[row] != NONE].tolist()
        text = "".join(f"{number} " for number in known)
        ids = [int(grammar.ids[grammar.space if letter == " " else grammar.digits[int(letter)]]) for letter in text]
        behind = copy.copy(grammar)
        for id in ids:
            behind.start = int(behind.next[behind.start, torch.searchsorted(behind.ids, id)])
        monkeypatch.setattr(model.decoder, "grammar", behind)
        longer = {**alone, "input_ids": torch.cat([alone["input_ids"], torch.tensor([ids], dtype=torch.long)], dim=1)}
        theirs = decode_ways.Ways(model, "cpu").answer("generate", longer, None)["ids"][0]
        monkeypatch.undo()
        for decoder in decoders(model):
            found, _ = decoder.generate(model._embed(alone), alone["lengths"], forced=forced[row : row + 1])
            assert found[0] == ids + theirs
            assert grammar.numbers_of(found[0])[: len(known)] == known


@torch.no_grad()
def test_batched_alone_with_drafts_and_without_it_is_the_same(model, batch):
    forced = some_numbers()
    prompt, lengths = model._embed(batch), batch["lengths"]
    expected, slow = model.decoder.generate(prompt, lengths, forced=forced)
    assert len({tuple(row) for row in expected}) == 4
    texts = [model.prompt.decode(row) for row in expected]
    for decoder in decoders(model):
        for kind, drafts in kinds_of_drafts(texts).items():
            if kind in ("right", "near"):
                found, passes = decoder.generate(prompt, lengths, drafts=drafts, forced=forced)
                assert found == expected, kind
                assert kind != "right" or model.family.name == "qwen3_5" or sum(passes) < sum(slow) / 2
        assert decoder.generate(prompt, lengths, forced=forced)[0] == expected


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_without_forced_numbers_is_as_before_to_the_bit(dtype):
    """Beside rows with them, too: every hidden state that a token was chosen from."""
    encoder, model = ObservationEncoder.from_cfg(tiny_cfg()), lively_model(AMP__param_dtype=dtype)
    batch = encoder.collate([encoder.encode(observation(seed)) for seed in range(4)], LENGTH)
    texts, passes, states = generate(model, batch)
    drafts = kinds_of_drafts(texts)["near"]
    drafted = generate(model, batch, drafts)[1]
    none = torch.full_like(drafts, NONE)
    for forced in (none, some_numbers()):
        for given, wanted in ((None, passes), (drafts, drafted)):
            found = generate(model, batch, given, forced)
            rows = [row for row in range(4) if (forced[row] == NONE).all()]
            assert rows[:1] == [0]
            for row in rows:
                assert (found[0][row], found[1][row]) == (texts[row], wanted[row])
                assert torch.equal(found[2][row], states[row])
    # The model's own answer, forced, is its own answer.
    right = torch.tensor([numbers(text) for text in texts])
    assert generate(model, batch, right, right)[0] == texts


@torch.no_grad()
def test_a_drawn_answer_begins_with_its_prefix_and_is_of_the_nearest_integers():
    encoder, model = ObservationEncoder.from_cfg(tiny_cfg()), lively_model()
    batch = encoder.collate([encoder.encode(observation(seed)) for seed in range(2)], LENGTH)
    plain = model.predict(batch)
    horizon, size = plain.chunk.shape[1:]
    prefix = torch.full((2, horizon, size), torch.nan)
    prefix[1, 0] = torch.linspace(-1.5, 1.5, size)  # the range is -1 to 1: what is beyond becomes its end

    def draw(temperature):
        generators = [np.random.default_rng([row, 3]) for row in range(2)]
        return model.predict({**batch, "prefix": prefix}, temperature, generators)

    for temperature in (0.0, 1.0):
        found = draw(temperature)
        wanted = np.clip(prefix[1, 0].numpy(), -1, 1)
        np.testing.assert_allclose(found.chunk[1, 0], wanted, atol=1 / BINS + 1e-6)
        assert found.valid.all() and not found.repaired.any()
    again = draw(0.0)
    assert again.texts[0] == plain.texts[0] != draw(1.0).texts[0]
    assert again.texts[1] != plain.texts[1]
    prefix[1, 0] = torch.from_numpy(again.chunk[1, 0])  # integers come back as they were written
    assert draw(0.0).texts == again.texts
