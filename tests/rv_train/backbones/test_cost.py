"""Operations against PyTorch's own count of a real pass, and memory against what autograd keeps."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rv_train.backbones import FAMILIES, build_prompt, family_of
from rv_train.backbones.cost import Layers, Numbers, TrainingFlops, kept_layers, picture_flops
from rv_train.backbones.lora import attach
from rv_train.backbones.qwen2_5_vl.sizes import random_config
from rv_train.memory import memory_estimate
from rv_train.policies.encoding import ObservationEncoder
from tests.rv_train.test_memory import kept_for_backward
from tests.tiny import tiny_cfg, tiny_model, tiny_recipe


def training_batch(cfg, num_samples):
    """`num_samples` equally long samples of noise, as the loader would collate them."""
    encoder = ObservationEncoder.from_cfg(cfg)
    features = []
    for _ in range(num_samples):
        views = len(cfg.DATA.VIEWS)
        shape = (1, cfg.IMAGE.SIZE, views * cfg.IMAGE.SIZE, 3) if cfg.IMAGE.TILE else (views, *[cfg.IMAGE.SIZE] * 2, 3)
        pictures = torch.randint(0, 256, shape, dtype=torch.uint8)
        features.append({"images": pictures, **encoder.prompt.encode("go", "1 2 3 45 6 7 8")})
    return encoder.collate(features)


@pytest.mark.parametrize(
    "opts",
    [
        {"IMAGE__SIZE": 56, "MODEL__VISION__FULL_ATTENTION": [0, 1]},
        {"IMAGE__SIZE": 168, "MODEL__VISION__FULL_ATTENTION": [1]},  # windows of 4 and 2 image tokens
        {"IMAGE__SIZE": 84, "IMAGE__TILE": False, "MODEL__TEXT__KV_HEADS": 2},
    ],
)
def test_training_flops_equal_a_real_pass(opts):
    cfg = tiny_cfg(MODEL__ATTENTION="eager", **opts)
    model = tiny_model(cfg).train()
    batch = training_batch(cfg, num_samples=2)
    with FlopCounterMode(display=False) as counted:
        model(batch)["loss"].backward()
    assert model.flops()(batch) == pytest.approx(counted.get_total_flops(), rel=0.001)


@pytest.mark.parametrize("vision", [False, True])
def test_flops_with_adapters_equal_a_real_pass(vision):
    """But for the first layer: its queries, keys and values pass no gradient on, a share of 3 % here."""
    sizes = {"MODEL__TEXT__LAYERS": 8, "MODEL__VISION__LAYERS": 8, "MODEL__ATTENTION": "eager", "IMAGE__SIZE": 84}
    model = tiny_model(tiny_cfg(**sizes)).train()
    lora = {"MODEL__LORA__RANK": 8, "MODEL__LORA__VISION": vision, "MODEL__INIT": "pretrained"}
    cfg = tiny_cfg(**sizes, **lora, MODEL__TOKENIZER="of the model")
    attach(model.backbone, cfg, model.family, {"path": "flops", "weights_sha256": ""})
    batch = training_batch(tiny_cfg(**sizes), num_samples=2)
    with FlopCounterMode(display=False) as counted:
        model(batch)["loss"].backward()
    assert 1 <= model.flops()(batch) / counted.get_total_flops() < 1.04


def test_padding_and_recomputation_do_not_count():
    flops = tiny_model(tiny_cfg()).flops()
    assert flops.count([30, 20], 10) == pytest.approx(flops.count([30], 5) + flops.count([20], 5))


def test_the_published_recipe():
    """Six operations per weight and token are the bulk: 3.09 billion text weights without embeddings and head."""
    from rv_train.config import load_cfg
    from tests.tiny import ROOT

    cfg = load_cfg(ROOT / "configs/vla0.yaml")
    prompt = build_prompt(cfg)
    towers = family_of(cfg).towers(random_config(cfg, prompt.tokenizer), prompt.pictures)
    flops = TrainingFlops(towers, prompt.pictures)
    text_weights = 36 * (2048 * (2048 + 256 + 256) + 2048 * 2048 + 3 * 2048 * 11008)
    assert flops.per_token == 6 * text_weights
    sample = flops.count([435], 209)
    assert sample == pytest.approx(6 * text_weights * 435 + 6 * 209 * 2048 * 151936 + 2.1e12, rel=0.02)
    assert 0 < picture_flops(towers[1], prompt.pictures) < 0.3 * sample


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_knows_what_it_costs(tmp_path, family):
    """Its tiny model, trained: operations as PyTorch counts them, and what autograd keeps."""
    cfg = tiny_cfg(tiny_recipe(tmp_path, family), MODEL__ATTENTION="eager")
    model = tiny_model(cfg).train()
    batch = training_batch(cfg, num_samples=2)
    with FlopCounterMode(display=False) as counted:
        model(batch)["loss"].backward()
    told, total = model.flops()(batch), counted.get_total_flops()
    # PyTorch counts grouped convolutions as if all were connected, and linear attention fills up its chunks:
    # test_operations.py looks at such a family closely.
    recurrent = getattr(model.backbone.config.text_config, "layer_types", None) or ()
    assert told < total if "linear_attention" in recurrent else told == pytest.approx(total, rel=0.02)
    learned = batch["label_ids"].numel() / 2
    parts = memory_estimate(cfg, model, batch["input_ids"].shape[1], learned, "off")
    kept = kept_for_backward(cfg, model, batch)
    assert 0.7 < (parts["activations"] + parts["logits and loss"]) / kept < 1.4


def test_patches_that_go_straight_into_the_text_tower_keep_what_their_product_reads():
    cfg = tiny_cfg()
    model = tiny_model(cfg)
    pictures = model.prompt.pictures
    text, vision = model.family.towers(model.backbone.config, pictures)
    none = replace(vision, layers=0, matrices=0, pairs=0, merger=0, merged=0, linear=())
    of_text, seen = kept_layers(cfg, (text, none), pictures, Numbers.of(cfg, 4, "off"), 50)
    assert of_text.number == text.layers and seen == Layers(0, 0, 0, 0, 4 * vision.values)
    assert picture_flops(none, pictures) == 2 * 2 * pictures.patches * vision.values * vision.hidden
