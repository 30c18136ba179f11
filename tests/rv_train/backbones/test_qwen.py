"""Qwen's families beside the library's own model, unchanged: its positions, its towers, its masks, its processor."""

import hashlib
import itertools
import json
import lzma

import numpy as np
import pytest
import torch
from PIL import Image

from rv_train.backbones.patches import image_patches, mrope_position_ids
from rv_train.backbones.qwen.vision import see
from rv_train.backbones.qwen.vocabulary import MERGES, read_vocabulary
from rv_train.backbones.running import use_own
from rv_train.policies.encoding import ObservationEncoder
from tests.closeness import assert_close
from tests.rv_train.policies.text.test_text_policy import training_batch
from tests.rv_train.test_training_step import step, training_model
from tests.tiny import tiny_cfg, tiny_recipe
from tests.waiting import assert_nobody_waits

FAMILIES = ["qwen2_5_vl", "qwen3_vl", "qwen3_5"]
INTERPOLATED = ["qwen3_vl", "qwen3_5"]  # learned positions of vision


@pytest.fixture(scope="module", params=FAMILIES)
def recipe(request, tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(params=[True, False], ids=["tiled", "separate"])
def setup(recipe, request):
    """(cfg, model in training mode, batch whose rows are of different lengths)"""
    cfg = tiny_cfg(recipe, IMAGE__TILE=request.param)
    batch = training_batch(ObservationEncoder.from_cfg(cfg))
    assert len(set(batch["lengths"].tolist())) > 1
    return cfg, training_model(cfg), batch


def library_inputs(model, batch):
    """What the library's processor would give for a batch."""
    ids, family = batch["input_ids"], model.family
    patches, grid = image_patches(batch["images"].flatten(0, 1), family.patches)
    real = torch.arange(ids.shape[1]) < batch["lengths"][:, None]
    kinds = (ids == model.prompt.image_id).int()
    words = {"input_ids": ids, "attention_mask": real.long(), "mm_token_type_ids": kinds}
    return {**words, "pixel_values": patches, "image_grid_thw": grid}


def test_loss_and_gradients_are_the_librarys(setup):
    """Every layer, every place of a picture, in every dimension: what a wrong position or feature would show in."""
    _, model, batch = setup
    loss, gradients = step(model, batch)
    model.zero_grad()
    use_own(model.backbone, model.family.own(), own=False)
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["label_index"] + 1] = batch["label_ids"]
    theirs = model.backbone(**library_inputs(model, batch), labels=labels).loss
    theirs.backward()
    assert abs(loss - theirs.item()) < 1e-5
    # Through both towers and back; a gradient sums over the tokens what sums over the width of a layer.
    text, vision = model.backbone.config.text_config, model.backbone.config.vision_config
    rounding = 9 * (text.num_hidden_layers + vision.depth)  # places in the layers, see LAYERS
    roundings = 2 * rounding * batch["input_ids"].numel() * text.hidden_size
    for name, parameter in model.named_parameters():
        assert gradients[name].abs().max() > 0, name
        assert_close(gradients[name], parameter.grad, roundings, name=name)


def test_positions_are_the_librarys(setup):
    _, model, batch = setup
    given, shown = library_inputs(model, batch), model.prompt.pictures
    asked = {key: value for key, value in given.items() if key != "pixel_values"}
    theirs, _ = model.backbone.model.get_rope_index(**asked)
    real = given["attention_mask"].bool()
    ours = mrope_position_ids(batch["input_ids"], model.prompt.image_id, shown.rows, shown.columns)
    assert not real.all() and torch.equal(ours[:, real], theirs[:, real])


def test_pixels_are_the_librarys(setup):
    from transformers import Qwen2VLImageProcessorPil  # needs no torchvision; the other one: torchvision_checks.py

    _, model, batch = setup
    settings = model.family.processor_files(model.prompt.pictures)["preprocessor_config.json"]
    settings = {key: value for key, value in settings.items() if not key.endswith(("_type", "_class"))}
    pictures = batch["images"].flatten(0, 1)
    library = Qwen2VLImageProcessorPil(**settings)([Image.fromarray(p) for p in pictures.numpy()], return_tensors="pt")
    patches, grid = image_patches(pictures, model.family.patches)
    assert (patches - library["pixel_values"]).abs().max() <= 1e-6
    assert torch.equal(grid, library["image_grid_thw"])


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("mode", ["off", "bf16"])
def test_a_step_asks_the_device_for_nothing(recipe, mode, checkpointed):
    cfg = tiny_cfg(recipe, TRAIN__grad_checkpoint=checkpointed)
    model = training_model(cfg)
    assert_nobody_waits(cfg, model, training_batch(ObservationEncoder.from_cfg(cfg)), mode)


# ------------------------------------------------------------------------------------------------ learned positions

LAYERS = 34  # that round: 9 in each of three blocks, as many of them in mergers, the rest before and behind


@pytest.fixture(scope="module", params=itertools.product(INTERPOLATED, ["sdpa", "eager"]), ids="-".join)
def tower(request, tmp_path_factory):
    """(visual, its Patches, what it can be made of)"""
    name, attention = request.param
    cfg = tiny_cfg(tiny_recipe(tmp_path_factory.mktemp(name), name), MODEL__ATTENTION=attention)
    model = training_model(cfg)
    return model.backbone.model.visual, model.family.patches, model.family.own()


def passed(visual, patches, rows, columns, library):
    """([features, those of deeper layers], gradients) by this code, or by the library alone."""
    visual.zero_grad()
    if library:
        grid = torch.tensor([[1, rows, columns]]).expand(len(patches) // (rows * columns), 3)
        seen = visual(patches, grid_thw=grid)
    else:
        seen = see(visual, patches, rows, columns)
    features = [seen.pooler_output, *getattr(seen, "deepstack_features", [])]
    sum((f.float() * torch.linspace(-1, 1, f.numel()).view_as(f)).sum() for f in features).backward()
    return [f.detach() for f in features], [parameter.grad.clone() for parameter in visual.parameters()]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("side", [32, 64, 96])  # fewer patches than learned positions, as many, more
def test_features_and_gradients_are_the_librarys_at_any_size(tower, side, autocast):
    visual, kind, own = tower
    images = np.random.default_rng(side).integers(0, 256, (3, side, 2 * side, 3), dtype=np.uint8)
    patches, grid = image_patches(torch.from_numpy(images), kind)
    rows, columns = grid[0, 1:].tolist()
    found = []
    for ours in (True, False):
        use_own(visual, own, ours)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found.append(passed(visual, patches, rows, columns, library=not ours))
    use_own(visual, own)
    (features, gradients), (expected, of_library) = found
    dtype, forward, backward = (torch.bfloat16, 1, 1) if autocast else (torch.float32, 128, len(patches))
    for mine, theirs in zip(features, expected, strict=True):
        assert mine.shape == (3 * rows * columns // 4, 32)
        assert_close(mine, theirs, LAYERS * forward, dtype, "features")
    for (name, _), mine, theirs in zip(visual.named_parameters(), gradients, of_library, strict=True):
        assert_close(mine, theirs, 2 * LAYERS * backward, dtype, name)


def test_the_vocabulary_is_the_published_one():
    """Hashes of merges.txt and vocab.json of Qwen2.5."""
    merges = lzma.decompress(MERGES.read_bytes())
    assert hashlib.sha256(merges).hexdigest() == "b8e04af9c950e393054010dcef499c3f005e803e9b2da1a09b96a26c33266eb1"
    vocab = json.dumps(read_vocabulary()[0], ensure_ascii=False, separators=(",", ":")).encode()
    assert hashlib.sha256(vocab).hexdigest() == "ca10d7e9fb3ed18575dd1e277a2579c16d108e32f27439684afa0e10b1440910"
