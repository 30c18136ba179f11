"""The memory estimate against what PyTorch does allocate and keep."""

import itertools

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from rv_train.data.features import ObservationEncoder
from rv_train.memory import memory_estimate
from rv_train.optim import build_optimizer
from tests.rv_train.test_vla0 import training_batch
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
    rows, columns = model.picture
    return memory_estimate(
        cfg,
        model.backbone.config,
        list(model.named_parameters()),
        tokens=length,
        learned=batch["label_ids"].numel() / number,
        patches=4 * rows * columns * batch["images"].shape[1],
        amp=cfg.AMP.mode,
    )


def kept_for_backward(cfg, model, batch):
    """Bytes of the storages that autograd saves in a forward pass, parameters not counted."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor stays alive: no address comes twice
        return tensor

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=cfg.AMP.mode == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), mixed:
        model(batch)["loss"]
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_activations_are_those_that_autograd_keeps(attention):
    precisions = (("off", "float32"), ("bf16", "float32"), ("off", "bfloat16"))
    for (mode, dtype), checkpointed in itertools.product(precisions, (False, True)):
        opts = {"AMP__mode": mode, "AMP__param_dtype": dtype, "TRAIN__grad_checkpoint": checkpointed}
        cfg = tiny_cfg(MODEL__ATTENTION=attention, **opts, **MIDDLE)
        model = tiny_model(cfg).train()
        if checkpointed:
            model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        batch = training_batch(ObservationEncoder.from_cfg(cfg, model.prompt.tokenizer), count=4)
        parts = estimate(cfg, model, batch)
        softmax = 4 * batch["label_ids"].numel() * model.backbone.config.text_config.vocab_size
        names = ("activations", "activations between layers") + (() if checkpointed else ("16-bit copies of weights",))
        expected = softmax + sum(parts.get(name, 0) for name in names)
        kept = kept_for_backward(cfg, model, batch)
        assert 0.8 < expected / kept < 1.25, (opts, expected, kept)


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
    tables = ("qmap1", "qmap2")  # bitsandbytes: the 256 values of a byte, one table for all parameters
    states = sum(
        value.nbytes
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and name not in tables
    )
    assert parts[f"optimizer states ({kind})"] == states


def test_a_moving_average_is_counted():
    cfg = tiny_cfg(TRAIN__ema=0.99)
    model = tiny_model(cfg)
    numbers = sum(p.numel() for p in model.parameters())
    parts = memory_estimate(cfg, model.backbone.config, list(model.named_parameters()), 10, 5, 32, "off")
    assert parts["moving average"] == 4 * numbers


def test_accumulated_gradients_lie_beside_ddps_buckets(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8, bias=False) for _ in range(3)))
    ddp, x = DistributedDataParallel(model, gradient_as_bucket_view=True), torch.ones(1, 8)

    def storages():
        return len({p.grad.untyped_storage().data_ptr() for p in model.parameters()})

    for _ in range(2):
        with ddp.no_sync():
            ddp(x).sum().backward()
        assert storages() == 3
        ddp(x).sum().backward()
        assert storages() == 1  # the bucket
        model.zero_grad(set_to_none=True)
    dist.destroy_process_group()
    one, two = (estimate_of(TRAIN__grad_accum=passes) for passes in (1, 2))
    assert two == {**one, "gradients of earlier passes": one["gradients"]}


def estimate_of(**opts):
    cfg = tiny_cfg(**opts)
    model = tiny_model(cfg)
    return memory_estimate(cfg, model.backbone.config, list(model.named_parameters()), 10, 5, 32, "off")
