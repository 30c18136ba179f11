"""What goes into the model, against the published description of VLA-0 and against the library.

The golden sample is the one that the notes on VLA-0's re-implementation print: 435 ids and labels. DATA.PREPROCESS
reference is compared in `torchvision_checks.py`, the whole model's loss in `test_vla0.py`, a stored frame and the same
frame as an observation in `test_demos.py`.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from libs.action_text import ActionTextCodec
from rv_train.backbones import family_of
from rv_train.backbones.base import Pictures
from rv_train.backbones.patches import mrope_position_ids, place_pictures
from rv_train.backbones.prompt import IGNORE
from rv_train.backbones.qwen2_5_vl.pictures import image_patches
from rv_train.config import load_cfg
from rv_train.data.base import Sample
from rv_train.policies.encoding import ObservationEncoder
from tests.tiny import ROOT, tiny_cfg, tiny_model

RECIPE = ROOT / "configs/vla0.yaml"


@pytest.fixture(scope="module")
def golden():
    return json.loads((ROOT / "tests/golden/vla0_collator.json").read_text())


@pytest.fixture(scope="module", params=[True, False], ids=["tiled", "separate"])
def recipe(request):
    """(config, encoder) of the published recipe, and of the same with one picture per view."""
    cfg = load_cfg(RECIPE, ["IMAGE.TILE", request.param])
    return cfg, ObservationEncoder.from_cfg(cfg)


@pytest.fixture(scope="module")
def published():
    return ObservationEncoder.from_cfg(load_cfg(RECIPE))


def frames(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(2)]


def collate(encoder, texts):
    """A training batch of (instruction, action text) pairs, without augmentation."""
    samples = [Sample(frames(row), text[0], None, None, "f", "demo_0", 0) for row, text in enumerate(texts)]
    return encoder.collate([encoder.encode_sample(s, text[1]) for s, text in zip(samples, texts, strict=True)])


# ------------------------------------------------------------------------------------------------ actions → text


def integer_of(action, low, high, bins):
    """The document's words in Python floats: to 0..1 by minimum and maximum, times the bins, rounded, clipped."""
    return min(max(round((action - low) / (high - low) * bins), 0), bins)


@pytest.mark.parametrize("bins", [1000, 100, 7])
def test_discretization(bins):
    low, high = np.array([-0.9375, -1.0, 0.0, -0.3282]), np.array([0.9375, 1.0, 0.125, 0.3557])
    rng = np.random.default_rng(0)
    ends = [low, high, low - 0.1, high + 3.0, np.nextafter(low, high), np.nextafter(high, low), (low + high) / 2]
    ties = low + (rng.integers(0, bins, (200, 1)) + 0.5) / bins * (high - low)  # between two integers
    actions = np.concatenate([rng.uniform(low - 0.2, high + 0.2, (2000, 4)), ties, ends])

    codec = ActionTextCodec(low, high, bins)
    (text,) = codec.encode(actions[None])
    expected = [integer_of(*value, bins) for row in actions for value in zip(row, low, high, strict=True)]
    assert text == " ".join(map(str, expected))

    decoded, valid = codec.decode([text], horizon=len(actions))
    half_a_bin = (high - low) / bins / 2
    assert valid.all() and (np.abs(decoded[0] - np.clip(actions, low, high)) <= half_a_bin + 1e-7).all()


# ------------------------------------------------------------------------------------------------ pictures


def test_tiling(published):
    """256 × 256 frames, the centre 7/8 of each, side by side: 224 × 448."""
    views = frames()
    picture = published.transform(views)
    assert picture.shape == (1, 224, 448, 3)
    for place, view in enumerate(views):
        np.testing.assert_array_equal(picture[0, :, 224 * place : 224 * (place + 1)], view[16:240, 16:240])


def test_pixels_equal_the_librarys(recipe):
    from transformers import Qwen2VLImageProcessorPil  # needs no torchvision; the other one: torchvision_checks.py

    cfg, encoder = recipe
    pictures = encoder.transform(frames())
    settings = family_of(cfg).processor_files(encoder.prompt.pictures)["preprocessor_config.json"]
    settings = {key: value for key, value in settings.items() if not key.endswith(("_type", "_class"))}
    library = Qwen2VLImageProcessorPil(**settings)([Image.fromarray(p) for p in pictures], return_tensors="pt")
    patches, grid = image_patches(torch.from_numpy(pictures))
    assert (patches - library["pixel_values"]).abs().max() <= 1e-6
    assert grid.tolist() == library["image_grid_thw"].tolist()


# ------------------------------------------------------------------------------------------------ the collator


def test_collator_output(published, golden):
    batch = collate(published, [(golden["instruction"], golden["action_text"])])
    assert batch["input_ids"].tolist() == [golden["input_ids"]]
    assert batch["lengths"].tolist() == [435] == [len(golden["labels"])]  # the attention mask is all ones
    assert int((batch["input_ids"] == published.prompt.image_id).sum()) == golden["num_image_tokens"] == 128
    assert len(golden["action_text"].split()) == 8 * 7
    # The labels, shifted: position p answers with label p + 1.
    learned = [place for place, label in enumerate(golden["labels"]) if label != IGNORE]
    assert batch["label_index"].tolist() == [place - 1 for place in learned] and len(learned) == 435 - 226
    assert batch["label_ids"].tolist() == [golden["labels"][place] for place in learned]


def test_system_and_user_turn_are_masked_the_answer_is_learned(published, golden):
    encoded = published.prompt.encode(golden["instruction"], golden["action_text"])
    ids, labels = encoded["input_ids"], encoded["labels"]
    assert labels.tolist() == golden["labels"]
    words = published.prompt.tokenizer.decode
    picture = "<|vision_start|>" + "<|image_pad|>" * 128 + "<|vision_end|>"
    assert words(ids[labels == IGNORE]) == (
        f"<|im_start|>system\n{golden['system']}<|im_end|>\n"
        f"<|im_start|>user\nPicture 1: {picture}{golden['instruction']}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert words(labels[labels != IGNORE]) == f"{golden['action_text']}<|im_end|>\n"


def test_an_observation_is_the_masked_part(published, golden):
    views = dict(zip(published.views, frames(), strict=True))
    features = published.encode({"views": views, "instruction": golden["instruction"]})
    assert features["input_ids"].tolist() == golden["input_ids"][:226]
    assert published.collate([features])["label_ids"].numel() == 0


def test_padding_equals_the_tokenizers(published, golden):
    """Ids and attention mask as the library's tokenizer pads whole chats; `lengths` says what the mask says."""
    tokenizer = published.prompt.tokenizer
    batch = collate(published, [(golden["instruction"], golden["action_text"]), ("stack it", "1 22 100")])
    chats = [tokenizer.decode(ids[:length]) for ids, length in zip(batch["input_ids"], batch["lengths"], strict=True)]
    library = tokenizer(chats, padding=True, padding_side="right", return_tensors="pt")
    assert torch.equal(batch["input_ids"], library["input_ids"])
    assert torch.equal((torch.arange(435) < batch["lengths"][:, None]).long(), library["attention_mask"])


# ------------------------------------------------------------------------------------------------ positions


def test_positions_equal_the_librarys(recipe, golden):
    """One tiled or several separate pictures, with padding: the model's own three-dimensional index."""
    _, encoder = recipe
    rows, columns = encoder.prompt.pictures.rows, encoder.prompt.pictures.columns
    batch = collate(encoder, [(golden["instruction"], golden["action_text"]), ("stack it", "1 22 100")])
    ids, image_id = batch["input_ids"], encoder.prompt.image_id
    pictures = 2 * encoder.prompt.pictures.number
    assert int((ids == image_id).sum()) == pictures * rows * columns
    real = torch.arange(ids.shape[1]) < batch["lengths"][:, None]
    theirs, _ = tiny_model(tiny_cfg()).backbone.model.get_rope_index(
        ids,
        (ids == image_id).int(),
        image_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns]] * pictures),
        attention_mask=real.long(),
    )
    ours = mrope_position_ids(ids, image_id, rows, columns)
    assert not real.all() and torch.equal(ours[:, real], theirs[:, real])


def test_features_go_to_the_image_tokens_of_their_own_row():
    pictures = Pictures(number=1, height=2, width=4, rows=1, columns=2, patches=2)
    ids = torch.tensor([[5, 9, 9, 5], [9, 5, 5, 9]])
    features = torch.arange(1.0, 5.0)[:, None]
    placed = place_pictures(torch.zeros(2, 4, 1), ids, 9, features, pictures)
    assert placed[..., 0].tolist() == [[0, 1, 2, 0], [3, 0, 0, 4]]
    with pytest.raises(AssertionError, match="3 features for the 4 image tokens of 2 prompts"):
        place_pictures(torch.zeros(2, 4, 1), ids, 9, features[:3], pictures)
