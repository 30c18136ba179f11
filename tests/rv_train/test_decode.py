"""The decoding step: rows that do not know each other, to the bit; noise; wrapped and changed weights; compiled."""

import numpy as np
import pytest
import torch
from torch import nn

from rv_train.data.features import ObservationEncoder
from tests.rv_train.test_vla0 import observation, recompute_greedily
from tests.tiny import tiny_cfg, tiny_model

LENGTH = 64


def lively_model(**more):
    """Random weights so large that the next token depends on the last, and every rounding shows."""
    model = tiny_model(tiny_cfg(**more))
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
    """A list that every call of `predict` fills: embeddings and hidden states of the prompt, then of every step."""
    states, decoder = [], model.decoder
    embed, prefill, step = model._embed, decoder._prefill, decoder.step

    def watched_embed(batch):
        states.clear()
        embeds, position_ids = embed(batch)
        states.append(embeds)
        return embeds, position_ids

    def watched_prefill(*arguments):
        hidden, cache = prefill(*arguments)
        states.extend([hidden, *(filled.clone() for pair in cache for filled in pair)])
        return hidden, cache

    def watched_step(*arguments):
        states.append(step(*arguments))
        return states[-1]

    monkeypatch.setattr(model, "_embed", watched_embed)
    monkeypatch.setattr(decoder, "_prefill", watched_prefill)
    monkeypatch.setattr(decoder, "step", watched_step)
    return states


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
            found = [answer.texts[place], answer.chunk[place], *(state[place] for state in states)]
            expected = expected or found
            assert found[0] == expected[0] and len(found) == len(expected) == 2 + 1 + 1 + 2 * 2 + 55
            np.testing.assert_array_equal(found[1], expected[1])
            assert all(torch.equal(a, b) for a, b in zip(found[2:], expected[2:], strict=True))
    assert len(set(expected[0])) > 1, "one digit for ever would prove little"


def test_sizes_follow_from_the_shape_not_from_the_rows(encoder, features, model, monkeypatch):
    """The reach of attention at each token is that of the padded length, whoever stands in the batch."""
    reaches, step = [], model.decoder.step
    monkeypatch.setattr(
        model.decoder, "step", lambda *arguments: (reaches.append(arguments[-2].shape[-1]), step(*arguments))[1]
    )
    short, long = sorted(features, key=lambda one: len(one["input_ids"]))[:: len(features) - 1]
    for pair in ([short, short], [short, long]):
        reaches.clear()
        model.predict(encoder.collate(pair, LENGTH))
        assert reaches == [LENGTH + 8 + count // 8 * 8 for count in range(55)]


def generate(model, batch, longest, noise=None, real=None):
    embeds, position_ids = model._embed(batch)
    return model.decoder.generate(embeds, position_ids, batch["lengths"], longest, noise, real)


def ending(model, rows, longest, ends):
    """Noise that makes rows end: {row: tokens in front of the end}."""
    noise = torch.zeros(rows, longest, len(model.decoder.allowed))
    for row, count in ends.items():
        noise[row, count, model.decoder.allowed.tolist().index(model.decoder.end_id)] = 1e9
    return noise


@torch.no_grad()
def test_rows_end_on_their_own_and_fillers_are_not_waited_for(encoder, features, model, monkeypatch):
    batch = encoder.collate(features[:3], LENGTH)
    whole = generate(model, batch, 40)
    states = watch(model, monkeypatch)
    noise = ending(model, 3, 40, {0: 3, 1: 11})
    assert [len(row) for row in whole] == [40] * 3
    assert generate(model, batch, 40, noise) == [whole[0][:3], whole[1][:11], whole[2]]
    steps = len(states)
    real = torch.tensor([True, True, False])
    assert generate(model, batch, 40, noise, real)[:2] == [whole[0][:3], whole[1][:11]]
    assert steps - len(states) == 39 - 16  # 12 tokens, and on to the next look
    assert generate(model, batch, 40, noise, ~real)[2] == whole[2]


@torch.no_grad()
def test_drawn_tokens_follow_the_softmax_over_the_temperature(encoder, features, model, monkeypatch):
    """The first tokens of 3,000 rows with the same prompt."""
    rows, temperature, decoder = 500, 0.7, model.decoder
    batch = encoder.collate(features[:1] * rows)
    embeds, position_ids = model._embed(encoder.collate(features[:1]))
    hidden = decoder._prefill(embeds, position_ids, 0)[0][0, -1]
    logits = (decoder.head.weight[decoder.allowed] @ hidden).double()
    whole = decoder.generate
    monkeypatch.setattr(
        decoder, "generate", lambda e, p, n, longest, noise, real: whole(e, p, n, 1, noise[:, :1], real)
    )
    first = {model.prompt.decode([token]): place for place, token in enumerate(decoder.allowed.tolist())}
    counts = torch.zeros(len(logits), dtype=torch.float64)
    for call in range(6):
        generators = [np.random.default_rng([call, row]) for row in range(rows)]
        for text in model.predict(batch, temperature, generators).texts:
            counts[first[text]] += 1

    def chi_square(probability):
        expected = probability * counts.sum()
        return float(((counts - expected) ** 2 / expected).sum())

    # 11 degrees of freedom: above 31.3 once in a thousand. Half and double the temperature are told apart.
    assert (logits / temperature).softmax(0).min() * counts.sum() > 5
    assert chi_square((logits / temperature).softmax(0)) < 31.3
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
