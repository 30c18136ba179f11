"""The memory estimate against what PyTorch does allocate and keep."""

import gc
import itertools
import weakref

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from rv_train.backbones.lora import attach
from rv_train.buckets import settle_buckets
from rv_train.memory import memory_estimate
from rv_train.optim import Precision, build_optimizer
from rv_train.policies.encoding import ObservationEncoder
from tests.rv_train.policies.text.test_text_policy import training_batch
from tests.tiny import tiny_cfg, tiny_model

MIDDLE = {
    "IMAGE__SIZE": 112,
    "TRAIN__batch_size": 4,
    "MODEL__TEXT__HIDDEN": 128,
    "MODEL__TEXT__LAYERS": 6,
    "MODEL__TEXT__HEADS": 4,
    "MODEL__TEXT__KV_HEADS": 2,
    "MODEL__TEXT__MLP": 512,
    "MODEL__VISION__HIDDEN": 64,
    "MODEL__VISION__LAYERS": 6,
    "MODEL__VISION__HEADS": 4,
    "MODEL__VISION__MLP": 192,
    "MODEL__VISION__FULL_ATTENTION": [1, 3],
}


def estimate(cfg, model, batch):
    number, length = batch["input_ids"].shape
    return memory_estimate(cfg, model, length, batch["label_ids"].numel() / number, cfg.AMP.mode)


class Packed:
    def __init__(self, tensor):
        self.tensor = tensor


def kept_for_backward(cfg, model, batch):
    """Bytes of the storages that autograd holds after a forward pass, parameters not counted."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held = weakref.WeakSet()

    def pack(tensor):
        packed = Packed(tensor)
        held.add(packed)
        return packed

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=cfg.AMP.mode == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor), mixed:
        loss = model(batch)["loss"]
    gc.collect()  # inputs of checkpointed layers that no gradient needs
    storages = [packed.tensor.untyped_storage() for packed in held]
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.data_ptr() not in known}
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_activations_are_those_that_autograd_keeps(attention):
    precisions = (("off", "float32"), ("bf16", "float32"), ("off", "bfloat16"))
    for (mode, dtype), checkpointed in itertools.product(precisions, (False, True)):
        opts = {"AMP__mode": mode, "AMP__param_dtype": dtype, "TRAIN__grad_checkpoint": checkpointed}
        cfg = tiny_cfg(MODEL__ATTENTION=attention, **opts, **MIDDLE)
        model = tiny_model(cfg).train()
        if checkpointed:
            model.recompute_activations()
        batch = training_batch(ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer), count=4)
        parts = estimate(cfg, model, batch)
        softmax = 4 * batch["label_ids"].numel() * model.backbone.config.text_config.vocab_size
        names = ("activations", "activations between layers") + (() if checkpointed else ("16-bit copies of weights",))
        expected = softmax + sum(parts.get(name, 0) for name in names)
        kept = kept_for_backward(cfg, model, batch)
        assert 0.8 < expected / kept < 1.25, (opts, expected, kept)


def adapted_model(**opts):
    """(cfg, model) of size MIDDLE with adapters, without going over the disk."""
    opts = {"MODEL__LORA__RANK": 8, "MODEL__ATTENTION": "sdpa", **opts, **MIDDLE}
    later = ("MODEL__LORA", "MODEL__QUANTIZE", "AMP__")
    model = tiny_model(tiny_cfg(**{key: value for key, value in opts.items() if not key.startswith(later)}))
    cfg = tiny_cfg(MODEL__INIT="pretrained", MODEL__TOKENIZER="of the model", **opts)
    model.backbone.to(getattr(torch, cfg.AMP.frozen_dtype))
    attach(model.backbone, cfg, model.family, {"path": "memory", "weights_sha256": ""})
    if cfg.TRAIN.grad_checkpoint:
        model.recompute_activations()
    return cfg, model.to("cpu").train()


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_activations_with_adapters_are_those_that_autograd_keeps(checkpointed):
    cases = [
        ("bf16", "bfloat16", False, 0.05, "nf4"),
        ("bf16", "bfloat16", True, 0.05, "none"),
        ("bf16", "float32", False, 0.0, "none"),
        ("off", "float32", False, 0.0, "none"),
    ]
    for mode, dtype, vision, dropout, kind in cases[:2] if checkpointed else cases:
        opts = {"MODEL__QUANTIZE": kind, "MODEL__LORA__VISION": vision, "MODEL__LORA__DROPOUT": dropout}
        amp = {"AMP__mode": mode, "AMP__frozen_dtype": dtype, "TRAIN__grad_checkpoint": checkpointed}
        cfg, model = adapted_model(**opts, **amp)
        batch = training_batch(ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer), count=4)
        parts = estimate(cfg, model, batch)
        softmax = 4 * batch["label_ids"].numel() * model.backbone.config.text_config.vocab_size
        names = ("activations", "activations between layers") + (() if checkpointed else ("16-bit copies of weights",))
        expected = softmax + sum(parts.get(name, 0) for name in names)
        if dropout and not checkpointed:  # on a CPU what dropout left is noted in float32, not in a byte
            number, patches = batch["input_ids"].numel(), batch["images"].numel() // 3 // 14**2
            expected += 3 * 6 * (number * (6 * 128 + 512) + vision * patches * (2 * 64 + 192))
        kept = kept_for_backward(cfg, model, batch)
        assert 0.85 < expected / kept < 1.1, (opts, amp, expected, kept)


def test_adapters_gradients_and_states_are_exact():
    for kind, optimizer in (("none", "adamw_8bit"), ("nf4", "adamw")):
        opts = {"MODEL__QUANTIZE": kind, "AMP__frozen_dtype": "bfloat16", "TRAIN__optimizer": optimizer}
        cfg, model = adapted_model(**opts)
        batch = training_batch(ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer), count=2)
        parts = estimate(cfg, model, batch)
        trained = [p for p in model.parameters() if p.requires_grad]
        adamw = build_optimizer(cfg.TRAIN, trained)
        model(batch)["loss"].backward()
        adamw.step()
        assert parts["adapter"] == sum(p.nbytes for p in trained)
        assert parts["gradients"] == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        assert parts[f"optimizer states ({optimizer})"] == bytes_of_states(adamw)
        frozen = [p for p in model.parameters() if not p.requires_grad]
        assert parts["frozen weights (bfloat16)"] == sum(p.nbytes for p in frozen if p.dtype == torch.bfloat16)
    assert parts["a matrix unpacked"] == 2 * 128 * 512
    packed = {name: value for name, value in model.state_dict().items() if "_proj.base_layer.weight" in name}
    numbers = sum(value.nbytes for name, value in packed.items() if "bitsandbytes" not in name)
    assert parts["frozen weights (nf4)"] == numbers + 4 * 6 * 7  # the offset of a matrix's scales is in another entry


def bytes_of_states(optimizer):
    tables = ("qmap1", "qmap2")  # bitsandbytes: the 256 values of a byte, one table for all parameters
    states = [item for state in optimizer.state.values() for item in state.items()]
    return sum(value.nbytes for name, value in states if isinstance(value, torch.Tensor) and name not in tables)


def test_one_layer_is_what_checkpointing_leaves_to_recompute():
    """Without checkpointing there are as many of them as there are layers."""
    cfg, whole = (tiny_cfg(TRAIN__grad_checkpoint=value, MODEL__ATTENTION="sdpa", **MIDDLE) for value in (True, False))
    model = tiny_model(cfg)
    batch = training_batch(ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer), count=4)
    one = estimate(cfg, model, batch)["activations of one layer"]
    everything = estimate(whole, model, batch)["activations"]
    assert 6 * one < everything < 2 * 6 * one


@pytest.mark.parametrize("kind, dtype", [("adamw", "float32"), ("adamw", "bfloat16"), ("adamw_8bit", "float32")])
def test_weights_gradients_and_states_are_exact(kind, dtype):
    cfg = tiny_cfg(TRAIN__optimizer=kind, AMP__param_dtype=dtype, **MIDDLE)
    model = tiny_model(cfg).train()
    batch = training_batch(ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer), count=2)
    parts = estimate(cfg, model, batch)
    optimizer = build_optimizer(cfg.TRAIN, list(model.parameters()))
    model(batch)["loss"].backward()
    optimizer.step()
    assert parts["weights"] == sum(p.nbytes for p in model.parameters())
    assert parts["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    assert parts[f"optimizer states ({kind})"] == bytes_of_states(optimizer)


def test_a_moving_average_is_counted():
    cfg = tiny_cfg(TRAIN__ema=0.99)
    model = tiny_model(cfg)
    numbers = sum(p.numel() for p in model.parameters())
    parts = memory_estimate(cfg, model, 10, 5, "off")
    assert parts["moving average"] == 4 * numbers


def test_gradients_of_all_passes_lie_in_ddps_buckets(alone):
    """So there is one copy of them, whatever TRAIN.grad_accum is; settled, from the first step on."""
    cfg = tiny_cfg()
    model, batch = tiny_model(cfg).train(), training_batch(ObservationEncoder.from_cfg(cfg))
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    parameters, precision = list(model.parameters()), Precision("off", torch.device("cpu"))
    before = torch.get_rng_state()
    settle_buckets(ddp, batch, precision, keep=True)
    assert torch.equal(torch.get_rng_state(), before)

    def places():
        return [p.grad.data_ptr() for p in parameters]

    def storages():
        return len({p.grad.untyped_storage().data_ptr() for p in parameters})

    settled, buckets = places(), storages()
    assert buckets < len(parameters) / 4 and all(not p.grad.any() for p in parameters)
    for _ in range(2):
        with ddp.no_sync():
            ddp(batch)["loss"].backward()
        assert places() == settled
        ddp(batch)["loss"].backward()
        assert places() == settled and all(p.grad.any() for p in parameters[:1])
        ddp.zero_grad(set_to_none=False)
    with ddp.no_sync():  # what the loop does without TRAIN.grad_accum: a gradient of its own for every parameter
        ddp.zero_grad(set_to_none=True)
        ddp(batch)["loss"].backward()
    assert storages() == len(parameters)
    ddp.zero_grad(set_to_none=True)


def estimate_of(**opts):
    cfg = tiny_cfg(**opts)
    model = tiny_model(cfg)
    return memory_estimate(cfg, model, 10, 5, "off")
