"""Answers through the library's own forward beside the hand-written pass and the library's `generate`."""

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicCache

from rv_train.backbones import DEFAULT
from rv_train.policies.encoding import ObservationEncoder
from rv_train.policies.text.decoder import Decoder
from rv_train.policies.text.library_decoder import LibraryDecoder, right_aligned
from tests.rv_train.backbones.test_qwen import FAMILIES
from tests.rv_train.policies.text.test_decoder import LENGTH, lively_model
from tests.rv_train.policies.text.test_drafts import kinds_of_drafts
from tests.rv_train.policies.text.test_text_policy import observation
from tests.tiny import tiny_cfg, tiny_recipe
from tools.dev.benchmarks.decode_ways import Ways

DESCRIBED = {"qwen2_5_vl", "qwen3_vl"}  # families whose layers are exactly `LayerParts`
RECURRENT = {"qwen3_5"}  # families whose cache cannot forget


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name != DEFAULT else []) for name in FAMILIES],
)
def recipe(request, tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def encoder(recipe):
    return ObservationEncoder.from_cfg(tiny_cfg(recipe))


@pytest.fixture(scope="module")
def features(encoder):
    return [encoder.encode(observation(seed)) for seed in range(4)]  # of three lengths


@pytest.fixture(params=["eager", "sdpa"])
def model(recipe, request):
    return lively_model(recipe, MODEL__ATTENTION=request.param)


def ways(model):
    """The decoder that a model has, and the one that every model can have."""
    return model.decoder, LibraryDecoder(model.backbone, model.family, model.decoder.grammar)


def test_families_whose_layers_are_described_have_the_hand_written_pass(model):
    assert type(model.decoder) is (Decoder if model.family.name in DESCRIBED else LibraryDecoder)


def texts(model, decoder, batch, *arguments, **more):
    ids, passes = decoder.generate(model._embed(batch), batch["lengths"], *arguments, **more)
    return [model.prompt.decode(row) for row in ids], passes


@torch.no_grad()
def test_both_ways_write_the_same_batched_and_alone(model, encoder, features):
    assert len({len(one["input_ids"]) for one in features}) > 1
    ours, librarys = ways(model)
    batch = encoder.collate(features, LENGTH)
    expected, _ = texts(model, ours, batch)
    found, passes = texts(model, librarys, batch)
    assert found == expected and len(set(found)) > 1 and len(set("".join(found))) > 2
    assert passes == [len(text) for text in found]  # the end included, the first token is the prompt's
    for row, one in enumerate(features):
        for length in (None, LENGTH):
            assert texts(model, librarys, encoder.collate([one], length))[0] == [expected[row]]


@torch.no_grad()
def test_they_are_what_generate_writes_under_the_grammar(model, encoder, features):
    for one in features[:2]:
        batch = encoder.collate([one])
        theirs = Ways(model, "cpu").answer("generate", batch, None)["ids"]
        for decoder in {type(decoder): decoder for decoder in ways(model)}.values():
            assert decoder.generate(model._embed(batch), batch["lengths"])[0] == theirs


@torch.no_grad()
def test_drafts_change_the_passes_and_nothing_else(model, encoder, features):
    ours, librarys = ways(model)
    batch = encoder.collate(features, LENGTH)
    expected, slow = texts(model, librarys, batch)
    for kind, drafts in kinds_of_drafts(expected).items():
        if type(ours) is Decoder:
            assert texts(model, ours, batch, drafts=drafts)[0] == expected, kind
        found, passes = texts(model, librarys, batch, drafts=drafts)
        assert found == expected, kind
        if model.family.name in RECURRENT:
            assert passes == slow, kind
            continue
        if kind == "right":
            assert passes == [-(-len(text) // 8) for text in expected]
        assert kind in ("mad", "none") or sum(passes) < sum(slow)


@torch.no_grad()
def test_a_cache_that_cannot_forget_takes_one_token_per_pass(model, encoder, features, monkeypatch):
    """As one with the state of linear attention: same answers, drafts or not."""
    librarys = ways(model)[1]
    batch = encoder.collate(features, LENGTH)
    expected, slow = texts(model, librarys, batch)
    monkeypatch.setattr("rv_train.policies.text.library_decoder.DynamicLayer", DynamicCache)  # no layer is one
    assert texts(model, librarys, batch, drafts=kinds_of_drafts(expected)["right"]) == (expected, slow)


@torch.no_grad()
def test_noise_and_rows_that_do_not_count(model, encoder, features):
    ours, librarys = ways(model)
    batch, grammar = encoder.collate(features, LENGTH), model.decoder.grammar
    noise = torch.randn(4, grammar.longest, len(grammar.ids), generator=torch.Generator().manual_seed(0)) * 3
    expected, _ = texts(model, ours, batch, noise)
    found, passes = texts(model, librarys, batch, noise)
    assert found == expected != texts(model, ours, batch)[0]
    real = torch.tensor([True, False, True, False])
    found, again = texts(model, librarys, batch, noise, real)
    assert [found[0], found[2]] == [expected[0], expected[2]]
    assert again[1] == again[3] == 0 and [again[0], again[2]] == [passes[0], passes[2]]


@torch.no_grad()
@pytest.mark.parametrize("rows", [2, 4])
def test_a_row_is_the_same_in_every_place_beside_any_neighbours(model, encoder, features, rows):
    """To the bit: the hidden state that the first token is chosen from, and the chunk."""
    model.decoder = ways(model)[1]
    one, expected = features[0], None
    for place in range(rows):
        for others in (features[1:], [one] * rows):
            batch = encoder.collate([*others[:place], one, *others[place : rows - 1]], LENGTH)
            prompt, mask = right_aligned(model._embed(batch), batch["lengths"])
            hidden = model.family.text(model.backbone)(**prompt.inputs, attention_mask=mask).last_hidden_state
            found = hidden[place, -1], model.predict(batch).chunk[place]
            expected = expected or found
            assert torch.equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


def test_compiling_is_refused(model):
    with pytest.raises(ValueError, match=rf"torch_compile .* MODEL\.BACKBONE {model.family.name}"):
        ways(model)[1].compile()
