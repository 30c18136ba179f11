"""Memory of the families that test_memory.py does not measure: what autograd keeps between the passes."""

import itertools

import pytest

from rv_train.policies.encoding import ObservationEncoder
from tests.rv_train.backbones.middle import MIDDLE, adapted
from tests.rv_train.test_memory import estimate, kept_for_backward
from tests.rv_train.test_vla0 import training_batch
from tests.tiny import tiny_cfg, tiny_model, tiny_recipe


@pytest.fixture(scope="module", params=MIDDLE)
def sizes(request, tmp_path_factory):
    """(recipe, sizes)"""
    return tiny_recipe(tmp_path_factory.mktemp(request.param), request.param), MIDDLE[request.param]


def expected(cfg, model, batch):
    """Bytes that the estimate says are kept between the passes."""
    parts = estimate(cfg, model, batch)
    names = ["activations", "activations between layers"]
    names += [] if cfg.TRAIN.grad_checkpoint else ["16-bit copies of weights"]
    softmax = 4 * batch["label_ids"].numel() * model.backbone.config.get_text_config().vocab_size
    return softmax + sum(parts.get(name, 0) for name in names)


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
        batch = training_batch(ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer), count=4)
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
        batch = training_batch(ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer), count=4)
        said, kept = expected(cfg, model, batch), kept_for_backward(cfg, model, batch)
        assert 0.85 < said / kept < 1.15, (opts, said, kept)
