"""Operations of the families that test_flops.py does not measure: what PyTorch counts in a real pass."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rv_train.backbones.lora import adapter_sizes
from rv_train.describe import model_lines
from rv_train.policies.encoding import ObservationEncoder
from tests.rv_train.backbones.middle import MIDDLE, OTHER, adapted
from tests.rv_train.backbones.test_cost import training_batch
from tests.tiny import tiny_cfg, tiny_model, tiny_recipe

RECURRENT = "qwen3_5"


@pytest.fixture(scope="module", params=[name for name in MIDDLE if name != RECURRENT])
def sizes(request, tmp_path_factory):
    """(recipe, sizes, other samples)"""
    assert request.param in OTHER, "say in tests/rv_train/backbones/middle.py what makes its samples other ones"
    recipe = tiny_recipe(tmp_path_factory.mktemp(request.param), request.param)
    return recipe, MIDDLE[request.param], OTHER[request.param]


@pytest.mark.parametrize("other", [False, True])
def test_training_flops_equal_a_real_pass(sizes, other):
    recipe, _, others = sizes
    cfg = tiny_cfg(recipe, MODEL__ATTENTION="eager", **(others if other else {}))
    model = tiny_model(cfg).train()
    batch = training_batch(cfg, num_samples=2)
    if other:
        plain = training_batch(tiny_cfg(recipe), num_samples=2)
        assert batch["input_ids"].shape != plain["input_ids"].shape, "otherwise nothing else is counted"
    with FlopCounterMode(display=False) as counted:
        model(batch)["loss"].backward()
    assert model.flops()(batch) == pytest.approx(counted.get_total_flops(), rel=0.001)


@pytest.mark.parametrize("vision", [False, True])
def test_flops_with_adapters_equal_a_real_pass(sizes, vision):
    """But for the first layer: its queries, keys and values pass no gradient on."""
    recipe, middle, _ = sizes
    cfg, model = adapted(recipe, middle, MODEL__LORA__VISION=vision, MODEL__ATTENTION="eager")
    in_text, in_vision = adapter_sizes(model.named_parameters(), model.family)
    assert in_text > 0 and (in_vision > 0) == vision
    described = " ".join(text for _, text in model_lines(cfg, model)).split()
    text, seen = model.family.towers(model.backbone.config, model.prompt.pictures)
    assert text.last in described and (seen.last in described) == vision
    batch = training_batch(tiny_cfg(recipe, **middle), num_samples=2)
    with FlopCounterMode(display=False) as counted:
        model(batch)["loss"].backward()
    assert 1 <= model.flops()(batch) / counted.get_total_flops() < 1.06


def whole_chunks(cfg, length):
    """Two samples of `length` tokens each, a multiple of linear attention's chunks: it fills them up."""
    encoder = ObservationEncoder.from_cfg(cfg)
    for count in range(length):
        encoded = encoder.prompt.encode("go", " ".join(["11"] * (count % 2) + ["1"] * (count // 2)))
        if len(encoded["input_ids"]) == length:
            pictures = torch.zeros(1, cfg.IMAGE.SIZE, 2 * cfg.IMAGE.SIZE, 3, dtype=torch.uint8)
            return encoder.collate([{"images": pictures, **encoded}] * 2)
    raise AssertionError("no text is of that length")


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, False, True])
def test_linear_attention_is_counted_by_its_chunks(lora, tmp_path):
    """But for the state in front of the first chunk and behind the last, which pass no gradient on. (Convolutions are
    left out on both sides: of a grouped one PyTorch counts the gradient as if all were connected.)"""
    recipe, middle = tiny_recipe(tmp_path, RECURRENT), MIDDLE[RECURRENT]
    plain = tiny_cfg(recipe, MODEL__ATTENTION="eager", **middle)
    if lora is None:
        model = tiny_model(plain).train()
    else:
        model = adapted(recipe, middle, MODEL__LORA__VISION=lora, MODEL__ATTENTION="eager")[1]
    batch = whole_chunks(plain, 192)
    with FlopCounterMode(display=False) as counted:
        model(batch)["loss"].backward()
    found = sum(count for name, count in counted.get_flop_counts()["Global"].items() if "conv" not in str(name))
    assert 1 <= model.flops()(batch) / found < 1.04
