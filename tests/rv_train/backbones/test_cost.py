"""Operations and memory of the families that test_flops.py and test_memory.py do not measure: what PyTorch counts and
keeps."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rv_train.backbones.lora import adapter_sizes, attach
from rv_train.describe import model_lines
from rv_train.policies.encoding import ObservationEncoder
from tests.rv_train import test_flops, test_vla0
from tests.rv_train.test_memory import estimate, kept_for_backward
from tests.tiny import tiny_cfg, tiny_model, tiny_recipe

SIZES = {  # at which what the formulas leave out is small
    "IMAGE__SIZE": 128,
    "TRAIN__batch_size": 4,
    "MODEL__TEXT__HIDDEN": 128,
    "MODEL__TEXT__LAYERS": 6,
    "MODEL__TEXT__HEADS": 4,
    "MODEL__TEXT__KV_HEADS": 2,
    "MODEL__TEXT__MLP": 512,
    "MODEL__VISION__HIDDEN": 64,
    "MODEL__VISION__LAYERS": 6,
    "MODEL__VISION__HEADS": 4,
    "MODEL__VISION__MLP": 256,
}
MIDDLE = {
    "qwen3_vl": {**SIZES, "MODEL__TEXT__HEAD_DIM": 48, "MODEL__VISION__DEEPSTACK": [1, 3]},
    "smolvlm": SIZES,
}
LORA = {"MODEL__INIT": "pretrained", "MODEL__TOKENIZER": "of the model", "MODEL__LORA__RANK": 8}


@pytest.fixture(scope="module", params=MIDDLE)
def sizes(request, tmp_path_factory):
    """(recipe, sizes)"""
    return tiny_recipe(tmp_path_factory.mktemp(request.param), request.param), MIDDLE[request.param]


def adapted(recipe, sizes, **opts):
    """(cfg, model) with adapters, without going over the disk."""
    model = tiny_model(tiny_cfg(recipe, **sizes, **{k: v for k, v in opts.items() if k == "MODEL__ATTENTION"}))
    cfg = tiny_cfg(recipe, **sizes, **LORA, **opts)
    model.backbone.to(getattr(torch, cfg.AMP.frozen_dtype))
    attach(model.backbone, cfg, model.family, {"path": "memory", "weights_sha256": ""})
    if cfg.TRAIN.grad_checkpoint:
        model.recompute_activations()
    return cfg, model.train()


def expected(cfg, model, batch):
    """Bytes that the estimate says are kept between the passes."""
    parts = estimate(cfg, model, batch)
    names = ["activations", "activations between layers"]
    names += [] if cfg.TRAIN.grad_checkpoint else ["16-bit copies of weights"]
    softmax = 4 * batch["label_ids"].numel() * model.backbone.config.get_text_config().vocab_size
    return softmax + sum(parts.get(name, 0) for name in names)


@pytest.mark.parametrize("other", [False, True])
def test_training_flops_equal_a_real_pass(sizes, other):
    recipe, _ = sizes
    plain = tiny_cfg(recipe)
    # tiled pictures, and one per view; where only squares can be seen, another size
    pictures = {"IMAGE__TILE": other} if plain.IMAGE.TILE else {"IMAGE__SIZE": plain.IMAGE.SIZE * (1 + other)}
    cfg = tiny_cfg(recipe, MODEL__ATTENTION="eager", **pictures)
    model = tiny_model(cfg).train()
    batch = test_flops.training_batch(cfg, num_samples=2)
    with FlopCounterMode(display=False) as counted:
        model(batch)["loss"].backward()
    assert model.flops()(batch) == pytest.approx(counted.get_total_flops(), rel=0.001)


@pytest.mark.parametrize("vision", [False, True])
def test_flops_with_adapters_equal_a_real_pass(sizes, vision):
    """But for the first layer: its queries, keys and values pass no gradient on."""
    recipe, middle = sizes
    cfg, model = adapted(recipe, middle, MODEL__LORA__VISION=vision, MODEL__ATTENTION="eager")
    in_text, in_vision = adapter_sizes(model.named_parameters(), model.family)
    assert in_text > 0 and (in_vision > 0) == vision
    described = " ".join(text for _, text in model_lines(cfg, model)).split()
    seen = model.family.towers(model.backbone.config, model.prompt.pictures)[1]
    assert "down_proj" in described and (seen.last in described) == vision
    batch = test_flops.training_batch(tiny_cfg(recipe, **middle), num_samples=2)
    with FlopCounterMode(display=False) as counted:
        model(batch)["loss"].backward()
    assert 1 <= model.flops()(batch) / counted.get_total_flops() < 1.06


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_activations_are_those_that_autograd_keeps(sizes, attention):
    recipe, middle = sizes
    precisions = (("off", "float32"), ("bf16", "float32"), ("off", "bfloat16"))
    for (mode, dtype), checkpointed in itertools.product(precisions, (False, True)):
        opts = {"AMP__mode": mode, "AMP__param_dtype": dtype, "TRAIN__grad_checkpoint": checkpointed}
        cfg = tiny_cfg(recipe, MODEL__ATTENTION=attention, **opts, **middle)
        model = tiny_model(cfg).train()
        if checkpointed:
            model.recompute_activations()
        batch = test_vla0.training_batch(ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer), count=4)
        said, kept = expected(cfg, model, batch), kept_for_backward(cfg, model, batch)
        assert 0.85 < said / kept < 1.15, (opts, said, kept)


@pytest.mark.slow
@pytest.mark.parametrize("vision", [False, True])
def test_activations_with_adapters_are_those_that_autograd_keeps(sizes, vision):
    recipe, middle = sizes
    for (mode, dtype), checkpointed in itertools.product([("bf16", "bfloat16"), ("off", "float32")], (False, True)):
        opts = {"AMP__mode": mode, "AMP__frozen_dtype": dtype, "TRAIN__grad_checkpoint": checkpointed}
        opts |= {"MODEL__LORA__DROPOUT": 0.0, "MODEL__LORA__VISION": vision, "MODEL__ATTENTION": "sdpa"}
        cfg, model = adapted(recipe, middle, **opts)
        batch = test_vla0.training_batch(ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer), count=4)
        said, kept = expected(cfg, model, batch), kept_for_backward(cfg, model, batch)
        assert 0.85 < said / kept < 1.15, (opts, said, kept)
