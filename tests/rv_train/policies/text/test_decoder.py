"""Decoding: rows that do not know each other, to the bit; the grammar; noise; wrapped and changed weights; compiled."""

import numpy as np
import pytest
import torch
from torch import nn

from rv_train.policies.encoding import ObservationEncoder
from rv_train.policies.text.decoder import FEW, Decoder, _Answer
from rv_train.policies.text.grammar import Grammar
from tests.rv_train.policies.text.test_text_policy import observation, recompute_greedily
from tests.tiny import TINY, tiny_cfg, tiny_model
from tests.waiting import WAITING, Operations

LENGTH = 64


def lively_model(recipe=TINY, **more):
    """Random weights so large that the next token depends on the last, and every rounding shows."""
    model = tiny_model(tiny_cfg(recipe, **more))
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((torch.randn(parameter.shape, generator=noise) * 0.15).to(parameter.dtype))
    return model


@pytest.fixture(scope="module")
def encoder():
    return ObservationEncoder.from_cfg(tiny_cfg())


@pytest.fixture(scope="module")
def features(encoder):
    features = [encoder.encode(observation(seed)) for seed in range(12)]
    lengths = {len(one["input_ids"]) for one in features}
    assert len(lengths) == 3 and max(lengths) <= LENGTH
    return features


@pytest.fixture
def model():
    return lively_model()


def watch(model, monkeypatch):
    """A list that every call of `predict` fills, row by row: embeddings and hidden states of the prompt, then of every
    pass."""
    states, decoder = [], model.decoder
    embed, prefill, step = model._embed, decoder.prefill, decoder.step

    def watched_embed(batch):
        states.clear()
        prompt = embed(batch)
        states.append(prompt.embeds)
        return prompt

    def watched_prefill(*arguments):
        hidden, cache = prefill(*arguments)
        states.extend([hidden, *(filled.clone() for pair in cache for filled in pair)])
        return hidden, cache

    def watched_step(*arguments):
        hidden = step(*arguments)
        states.append(hidden.unflatten(0, (len(states[0]), -1)))
        return hidden

    monkeypatch.setattr(model, "_embed", watched_embed)
    monkeypatch.setattr(decoder, "prefill", watched_prefill)
    monkeypatch.setattr(decoder, "step", watched_step)
    return states


BEFORE = 2 + 2 * 2  # states that `watch` sees of a prompt


@pytest.mark.parametrize("rows", [2, 4, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_is_the_same_in_every_place_beside_any_neighbours(encoder, features, monkeypatch, dtype, rows):
    """Not only what is written: every hidden state, key and value, bit by bit. Ties would hide a rounding."""
    model = lively_model(AMP__param_dtype=dtype)
    states = watch(model, monkeypatch)
    one, expected = features[0], None
    for place in range(rows):
        for others in (features[1:], features[:3:-1], [one] * rows):
            batch = encoder.collate([*others[:place], one, *others[place : rows - 1]], LENGTH)
            answer = model.predict(batch)
            last = BEFORE + answer.passes[place]  # what neighbours go on with is theirs
            assert len(states) == BEFORE + max(answer.passes) >= last
            found = [answer.texts[place], answer.chunk[place], *(state[place] for state in states[:last])]
            expected = expected or found
            assert found[0] == expected[0] and len(found) == len(expected) > 2 + BEFORE + 14
            np.testing.assert_array_equal(found[1], expected[1])
            assert all(torch.equal(a, b) for a, b in zip(found[2:], expected[2:], strict=True))
    assert len(set(expected[0])) > 1, "one digit for ever would prove little"


@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_take_rows_by_fours(threads):
    """What all of that stands on: a row of a product, and a query, is the same in every place among any 4 * n."""
    draw, before = torch.Generator().manual_seed(0), torch.get_num_threads()
    x, weight = torch.randn(32, 48, generator=draw), torch.randn(64, 48, generator=draw)
    kept = torch.randn(1, 1, 80, 48, generator=draw)
    mask = torch.zeros(1, 1, 32, 80)
    torch.set_num_threads(threads)
    try:
        for function in (
            lambda x: nn.functional.linear(x, weight),
            lambda x: nn.functional.scaled_dot_product_attention(x[None, None], kept, kept, mask[:, :, : len(x)])[0, 0],
        ):
            whole = function(x)
            for count in range(FEW, len(x), FEW):
                assert torch.equal(function(x[:count].clone()), whole[:count]), count
            for shift in range(1, 5):
                assert torch.equal(function(x.roll(shift, 0)), whole.roll(shift, 0)), shift
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows, width, drafted", [(1, 4, 16), (2, 2, 16), (3, 4, 8), (4, 2, 8), (9, 4, 4)])
def test_sizes_follow_from_the_shape_not_from_the_rows(encoder, features, model, monkeypatch, rows, width, drafted):
    """Every pass has the same sizes, whoever stands in the batch and however far he is; on a CPU tokens by fours."""
    sizes, step = set(), model.decoder.step

    def watched(layers, x, cos, sin, slots, mask, cache):
        sizes.add((len(x), tuple(mask.shape), *(tuple(filled.shape) for pair in cache for filled in pair)))
        return step(layers, x, cos, sin, slots, mask, cache)

    monkeypatch.setattr(model.decoder, "step", watched)
    short, long = sorted(features, key=lambda one: len(one["input_ids"]))[:: len(features) - 1]
    for others in ([short] * 8, [long] * 8):
        model.predict(encoder.collate([short, *others][:rows], LENGTH))
    [(tokens, mask, *cache)] = sizes
    slots = LENGTH + 80  # an answer has up to 56 tokens, and up to 16 may be drafted behind them
    assert (tokens, mask) == (rows * width, (rows, 1, 2 * width, slots)) and tokens % FEW == 2 * width % FEW == 0
    assert cache == [(rows, slots, 1, 16)] * 4
    sizes.clear()
    model.predict({**encoder.collate([short] * rows, LENGTH), "drafts": torch.zeros(rows, 14, dtype=torch.long)})
    assert sizes == {(rows * drafted, (rows, 1, 2 * drafted, slots), *cache)}


def generate(model, batch, noise=None, real=None):
    ids, passes = model.decoder.generate(model._embed(batch), batch["lengths"], noise, real)
    return [model.prompt.decode(row) for row in ids], passes


def push(model, rows, texts):
    """Noise that makes rows write texts: {row: text}."""
    grammar = model.decoder.grammar
    column = {model.prompt.decode([id]): place for place, id in enumerate(grammar.ids.tolist()) if id != grammar.end_id}
    noise = torch.zeros(rows, grammar.longest, len(grammar.ids))
    for row, text in texts.items():
        for place, letter in enumerate(text):
            noise[row, place, column[letter]] = 1e9
        noise[row, len(text), grammar.end] = 1e9
    return noise


@torch.no_grad()
def test_rows_end_on_their_own_and_fillers_are_not_waited_for(encoder, features, model, monkeypatch):
    batch = encoder.collate(features[:3], LENGTH)
    whole, _ = generate(model, batch)
    short, long = " ".join(["1"] * 14), " ".join(["100"] * 14)
    noise = push(model, 3, {0: short, 1: long})
    states = watch(model, monkeypatch)
    texts, passes = generate(model, batch, noise)
    assert texts == [short, long, whole[2]]
    assert passes[0] <= 27 < passes[1] <= 55 and len(states) == BEFORE + max(passes)
    real = torch.tensor([True, False, False])
    texts, again = generate(model, batch, noise, real)
    assert texts[0] == short and len(states) == BEFORE + passes[0] == BEFORE + again[0]
    assert again[1:] == [0, 0]
    texts, again = generate(model, batch, noise, ~real)
    assert texts[1:] == [long, whole[2]] and again[1:] == passes[1:]


@torch.no_grad()
def test_whatever_the_weights_say_an_answer_can_be_read(encoder, features, model):
    """Noise a thousand times as strong as the logits: anything but an answer, were it not for the grammar."""
    batch, grammar = encoder.collate(features[:8], LENGTH), model.decoder.grammar
    noise = torch.Generator().manual_seed(0)
    written = set()
    for _ in range(5):
        strong = 1000 * torch.randn(8, grammar.longest, len(grammar.ids), generator=noise)
        texts, _ = generate(model, batch, strong)
        decoded = model.codec.decode_detailed(texts, 2)
        assert decoded.valid.all() and not decoded.repaired.any()
        assert model.codec.encode(decoded.actions) == texts
        written.update(word for text in texts for word in text.split())
    assert {len(word) for word in written} >= {1, 2} and "0" in written


@torch.no_grad()
def test_drawn_tokens_follow_the_softmax_over_the_temperature(encoder, features, model):
    """The first digits of 3,000 rows with the same prompt, whose answer is this one digit."""
    rows, temperature, prompt = 500, 0.7, model.prompt
    grammar = Grammar(1, 1, 9, prompt.digit_ids, prompt.space_id, prompt.end_id)
    decoder = model.decoder = Decoder(model.backbone, model.family, grammar)
    batch = encoder.collate(features[:1] * rows)
    hidden = decoder.prefill(model._embed(encoder.collate(features[:1])))[0][0, -1]
    logits = (decoder.head.weight[prompt.digit_ids] @ hidden).double()
    counts = torch.zeros(len(logits), dtype=torch.float64)
    for call in range(6):
        generators = [np.random.default_rng([call, row]) for row in range(rows)]
        for text in model.predict(batch, temperature, generators).texts:
            counts[int(text)] += 1

    def chi_square(probability):
        expected = probability * counts.sum()
        return float(((counts - expected) ** 2 / expected).sum())

    # 9 degrees of freedom: above 27.9 once in a thousand. Half and double the temperature are told apart.
    assert (logits / temperature).softmax(0).min() * counts.sum() > 5
    assert chi_square((logits / temperature).softmax(0)) < 27.9
    assert min(chi_square((logits / (temperature * factor)).softmax(0)) for factor in (0.5, 2.0)) > 100


class Wrapped(nn.Module):
    """What an adapter does to a projection: its output and something more."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.more = inner, nn.Linear(inner.in_features, inner.out_features, bias=False)
        nn.init.normal_(self.more.weight, std=0.5, generator=torch.Generator().manual_seed(0))

    def forward(self, x):
        return self.inner(x) + self.more(x)


@torch.no_grad()
def test_weights_that_change_and_wrapped_projections_are_honoured(encoder, features, model):
    one, batch, written = features[1], encoder.collate(features[1:2]), []
    layer = model.backbone.model.language_model.layers[1]
    changes = [lambda: None, lambda: layer.self_attn.k_proj.weight.mul_(-1), lambda: layer.mlp.up_proj.weight.mul_(-1)]
    for parent, name in ((layer.self_attn, "v_proj"), (layer.self_attn, "o_proj"), (layer.mlp, "gate_proj")):
        changes.append(lambda parent=parent, name=name: setattr(parent, name, Wrapped(getattr(parent, name))))
    for change in changes:
        change()
        written.append(model.predict(batch).texts[0])
        assert written[-1][:24] == recompute_greedily(model, encoder, one, 24)
    assert len(set(written)) == len(changes), "every change shows"


@torch.inference_mode()
def test_a_pass_could_be_recorded_and_its_buffers_be_used_again(encoder, features, model):
    """What a CUDA graph needs: the same memory every time, and no question of the host's."""
    decoder, answers = model.decoder, []
    for start in (0, 4, 0):
        batch = encoder.collate(features[start : start + 4], LENGTH)
        prompt = model._embed(batch)
        drafts = torch.full((4, 14), start)
        if not answers:
            answer = _Answer(decoder, prompt.embeds, 8, False)
            tensors = {name: value for name, value in vars(answer).items() if isinstance(value, torch.Tensor)}
            places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        hidden, filled = decoder.prefill(prompt)
        answer.begin(hidden, filled, prompt.position_ids, batch["lengths"], None, None, drafts)
        passes = 0
        while not answer.ended.all():
            with Operations() as watched:
                answer.advance()
            assert {"index_copy_", "argmax"} < watched.names
            assert not watched.names & WAITING
            passes += 1
        assert all(getattr(answer, name) is tensor for name, tensor in tensors.items())
        assert {name: tensor.data_ptr() for name, tensor in tensors.items()} == places
        ids = answer.grammar.ids[answer.written].tolist()
        answers.append([row[: row.index(answer.grammar.end_id)] for row in ids])
        expected = decoder.generate(prompt, batch["lengths"], drafts=drafts)
        assert (answers[-1], passes) == (expected[0], max(expected[1]))
    assert answers[0] == answers[2] != answers[1]


@pytest.mark.compiler
def test_compiled_step_writes_the_same_and_compiles_once(encoder, features, model, monkeypatch):
    batches = [encoder.collate(features[:2], LENGTH), encoder.collate(features[2:4], LENGTH)]
    expected = [model.predict(batch).texts for batch in batches]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model.compile_predict()
    names = list(model.state_dict())
    assert [model.predict(batch).texts for batch in batches] == expected
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert list(model.state_dict()) == names
    torch._dynamo.reset()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="torch_compile needs a C\\+\\+ compiler and finds no no-such-compiler"):
        model.compile_predict()
