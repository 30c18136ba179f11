"""The whole SmolVLM2 beside the library: loss, positions, answers, sizes, operations. Memory: `test_activations.py`."""

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaModel, LogitsProcessorList

from rv_train.backbones import build_prompt, family_of
from rv_train.backbones.cost import TrainingFlops
from rv_train.backbones.smolvlm.modules import TextModel
from rv_train.config import load_cfg
from rv_train.policies import build_encoder, outline_policy
from rv_train.policies.encoding import ObservationEncoder
from rv_train.policies.text.decoder import Decoder
from rv_train.policies.text.library_decoder import LibraryDecoder
from tests.rv_train.backbones.smolvlm.tiny_smol import lively, smol_cfg
from tests.rv_train.policies.text.test_drafts import kinds_of_drafts
from tests.rv_train.policies.text.test_text_policy import observation, recompute_greedily, training_batch
from tests.rv_train.test_training_step import training_model
from tests.tiny import ROOT
from tests.waiting import assert_nobody_waits
from tools.dev.benchmarks.decode_ways import OnlyAnswers

RECIPE = ROOT / "configs/vla0_smol.yaml"
TEXT = ("HIDDEN", "LAYERS", "HEADS", "KV_HEADS", "MLP")
VISION = ("HIDDEN", "LAYERS", "HEADS", "MLP", "PATCH", "SHUFFLE")
# Sizes as published, and their parameters.
PUBLISHED = {
    "256M": (256_484_928, (576, 30, 9, 3, 1536), (768, 12, 12, 3072, 16, 4), 512, 64),
    "500M": (507_482_304, (960, 32, 15, 5, 2560), (768, 12, 12, 3072, 16, 4), 512, 64),
    "2.2B": (2_246_784_880, (2048, 24, 32, 32, 8192), (1152, 27, 16, 4304, 14, 3), 384, 81),
}


@pytest.fixture(params=["eager", "sdpa"])
def model(request, tmp_path):
    return lively(smol_cfg(tmp_path, MODEL__ATTENTION=request.param))


@pytest.fixture
def encoder(tmp_path):
    return ObservationEncoder.from_cfg(smol_cfg(tmp_path))


def pixels_of(model, images):
    """(B, N, S, S, 3) uint8 → as the library's processor normalises them, (B, N, 3, S, S)."""
    return images.movedim(-1, 2).float().div(255).sub(0.5).div(0.5)


# ------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    parameters, text, vision, side, tokens = PUBLISHED[name]
    sizes = {f"MODEL.TEXT.{key}": value for key, value in zip(TEXT, text, strict=True)}
    sizes |= {f"MODEL.VISION.{key}": value for key, value in zip(VISION, vision, strict=True)}
    sizes |= {"MODEL.VISION.PICTURE": side, "IMAGE.SIZE": side, "MODEL.INIT": "random"}
    cfg = load_cfg(RECIPE, [part for pair in sizes.items() for part in pair])
    encoder = build_encoder(cfg)
    policy, _ = outline_policy(cfg, encoder, [])
    assert sum(p.numel() for p in policy.parameters()) == parameters
    assert policy.backbone.model.image_seq_len == encoder.prompt.pictures.tokens == tokens
    assert len(policy.family.layer_parts(policy.backbone)) == text[1] and type(policy.decoder) is Decoder


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("mode", ["off", "bf16"])
def test_a_step_asks_the_device_for_nothing(tmp_path, encoder, mode, checkpointed):
    cfg = smol_cfg(tmp_path, MODEL__ATTENTION="sdpa", TRAIN__grad_checkpoint=checkpointed)
    assert_nobody_waits(cfg, training_model(cfg), training_batch(encoder), mode)


def test_the_text_towers_numbers_and_gradients_are_the_librarys(tmp_path, encoder):
    """To the bit: the same layers, of which none is told that there are no packed sequences."""
    model, batch, found = lively(smol_cfg(tmp_path, MODEL__ATTENTION="sdpa")).train(), training_batch(encoder), []
    text = model.family.text(model.backbone)
    for kind in (TextModel, LlamaModel):
        text.__class__ = kind
        model.zero_grad()
        loss = model(batch)["loss"]
        loss.backward()
        found.append([loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) > 40 and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@torch.no_grad()
def test_loss_equals_the_librarys_over_full_logits(model, encoder):
    """The whole model as the library runs it: pixels, attention mask, its own positions, every logit, shifted
    labels."""
    batch = training_batch(encoder)
    ids = batch["input_ids"]
    labels = torch.full_like(ids, -100)
    labels.view(-1)[batch["label_index"] + 1] = batch["label_ids"]
    mask = (torch.arange(ids.shape[1]) < batch["lengths"][:, None]).long()
    assert not mask.all()
    library = model.backbone(input_ids=ids, attention_mask=mask, pixel_values=pixels_of(model, batch["images"]))
    theirs = F.cross_entropy(library.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert abs(float(model(batch)["loss"] - theirs)) < 1e-5


@torch.no_grad()
def test_positions_are_the_librarys(model, encoder):
    batch, given = training_batch(encoder), []
    rotary = model.backbone.model.text_model.rotary_emb
    rotary.register_forward_pre_hook(
        lambda module, given_to, more: given.append(more["position_ids"]), with_kwargs=True
    )
    model.backbone(input_ids=batch["input_ids"], pixel_values=pixels_of(model, batch["images"]))
    ours = model._embed(batch).position_ids
    assert torch.equal(given[0].expand_as(ours), ours)


@torch.no_grad()
def test_pixels_of_the_librarys_processor_are_taken_as_they_are(model, encoder):
    batch = training_batch(encoder)
    ready = {name: value for name, value in batch.items() if name != "images"}
    ready["pixel_values"] = pixels_of(model, batch["images"])
    assert abs(float(model(batch)["loss"] - model(ready)["loss"])) < 1e-6


# ------------------------------------------------------------------------------------------------ answers


@torch.no_grad()
def test_answers_are_what_generate_writes_under_the_grammar(model, encoder):
    """By the hand-written pass and through the library's forward, batched and alone, with drafts and without."""
    features = [encoder.encode(observation(seed)) for seed in range(6)]
    grammar, length = model.decoder.grammar, max(len(one["input_ids"]) for one in features) + 3
    expected = []
    for one in features:
        batch = encoder.collate([one])
        written = model.backbone.generate(
            input_ids=batch["input_ids"],
            attention_mask=torch.ones_like(batch["input_ids"]),
            pixel_values=pixels_of(model, batch["images"]),
            max_new_tokens=grammar.longest,
            do_sample=False,
            eos_token_id=grammar.end_id,
            pad_token_id=grammar.end_id,
            logits_processor=LogitsProcessorList([OnlyAnswers(grammar)]),
        )[0, batch["input_ids"].shape[1] :].tolist()
        expected.append(written[: written.index(grammar.end_id)])
    texts = [model.prompt.decode(row) for row in expected]
    assert len(set(texts)) > 1 and len(set("".join(texts))) > 2  # not one digit for ever
    assert recompute_greedily(model, encoder, features[0], 20) == texts[0][:20]
    together = encoder.collate(features, length)
    assert type(model.decoder) is Decoder
    for kind in (Decoder, LibraryDecoder):
        decoder = kind(model.backbone, model.family, grammar)
        ids, slow = decoder.generate(model._embed(together), together["lengths"])
        assert ids == expected
        for row, one in enumerate(features):
            alone = encoder.collate([one])
            assert decoder.generate(model._embed(alone), alone["lengths"])[0] == [expected[row]]
        for name, drafts in kinds_of_drafts(texts).items():
            ids, passes = decoder.generate(model._embed(together), together["lengths"], drafts=drafts)
            assert ids == expected, name
            assert name != "right" or sum(passes) < sum(slow) / 2


@torch.no_grad()
def test_a_row_is_the_same_in_every_place_beside_any_neighbours(model, encoder):
    """To the bit: what the first token is chosen from, and the chunk."""
    features = [encoder.encode(observation(seed)) for seed in range(5)]
    length, expected = max(len(one["input_ids"]) for one in features), None
    for place in range(4):
        batch = encoder.collate([*features[1 : 1 + place], features[0], *features[1 + place : 4]], length)
        found = model.condition(batch)[place], model.predict(batch).chunk[place]
        expected = expected or found
        assert torch.equal(found[0], expected[0]) and (found[1] == expected[1]).all()


# ------------------------------------------------------------------------------------------------ what it costs


def test_the_recipes_operations():
    """Six per weight and token are the bulk; a third of them are the vision tower's, whose 1,024 patches are many."""
    cfg = load_cfg(RECIPE)
    prompt = build_prompt(cfg)
    towers = family_of(cfg).towers(family_of(cfg).random_config(cfg, prompt.tokenizer), prompt.pictures)
    flops = TrainingFlops(towers, prompt.pictures)
    text_weights = 32 * (2 * 960 * 960 + 2 * 960 * 320 + 3 * 960 * 2560)
    seen = 2 * 1024 * 12 * (4 * 768**2 + 2 * 768 * 3072)
    assert flops.per_token == 6 * text_weights
    assert flops.count([451], 225) == pytest.approx(6 * (text_weights * 451 + 225 * 960 * 49280 + seen), rel=0.2)
