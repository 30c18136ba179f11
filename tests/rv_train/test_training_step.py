"""One training step on the tiny model: precisions, attention, gradient checkpointing, accumulation, torch.compile."""

import importlib.util
import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel

from rv_train.backbones.qwen2_5_vl.pictures import image_patches
from rv_train.backbones.running import check_attention, check_compiler, without_flash
from rv_train.optim import Precision, build_optimizer
from rv_train.policies.encoding import ObservationEncoder
from tests.rv_train.policies.text.test_text_policy import observation, training_batch
from tests.tiny import tiny_cfg, tiny_model
from tests.waiting import WAITING, Operations, assert_nobody_waits


@pytest.fixture(scope="module")
def encoder():
    return ObservationEncoder.from_cfg(tiny_cfg())


def training_model(cfg):
    """A tiny model whose weights are large enough that a wrong attention shows in the loss."""
    model = tiny_model(cfg).train()
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise).to(parameter.dtype) * 0.1)
    if cfg.TRAIN.grad_checkpoint:
        model.recompute_activations()
    return model


def step(model, *batches, wrapped=None):
    """Mean loss and the gradients of its backward pass."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = (wrapped or model)(batch)["loss"] / len(batches)
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same(one, other, tolerance):
    assert abs(one[0] - other[0]) < tolerance
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=tolerance, atol=tolerance, msg=name)


def test_pixels_of_the_reference_preprocessing_take_the_pictures_place():
    for tiled in (True, False):
        cfg = tiny_cfg(IMAGE__TILE=tiled)
        batch, model = training_batch(ObservationEncoder.from_cfg(cfg)), training_model(cfg)
        other = {key: value for key, value in batch.items() if key != "images"}
        other["pixel_values"] = image_patches(batch["images"].flatten(0, 1))[0]
        assert_same(step(model, batch), step(model, other), tolerance=1e-7)
        assert model.eval().predict(batch).texts == model.predict(other).texts


# ------------------------------------------------------------------------------------------------ nobody waits


def test_the_list_of_waiting_operations_finds_them():
    with Operations() as done:
        values = torch.arange(4.0)
        assert values.max() > 2 and values[values > 2].shape == (1,) and values.nonzero().shape == (3, 1)
        assert float(values.masked_select(values > 2)) == 3
    assert done.names & WAITING >= {"_local_scalar_dense", "nonzero", "masked_select"}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("mode", ["off", "bf16", "fp16"])
def test_a_step_asks_the_device_for_nothing(encoder, mode, checkpointed):
    cfg = tiny_cfg(TRAIN__grad_checkpoint=checkpointed)
    assert_nobody_waits(cfg, training_model(cfg), training_batch(encoder), mode)


# ------------------------------------------------------------------------------------------------ attention


def test_sdpa_and_eager_attention_agree(encoder):
    batch = training_batch(encoder)
    results = [step(training_model(tiny_cfg(MODEL__ATTENTION=kind)), batch) for kind in ("sdpa", "eager")]
    assert_same(*results, tolerance=1e-5)


def test_flash_attention_says_what_it_needs(monkeypatch):
    flash = {"MODEL__ATTENTION": "flash_attention_2"}
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for kind in ("sdpa", "eager"):
        check_attention(tiny_cfg(MODEL__ATTENTION=kind), cpu, "off")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs flash-attn: pip install flash-attn .*MODEL\.ATTENTION sdpa"):
        check_attention(tiny_cfg(AMP__mode="bf16", **flash), gpu, "bf16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "found")
    with pytest.raises(ValueError, match="runs on GPUs only, this rank is on cpu"):
        check_attention(tiny_cfg(AMP__mode="bf16", **flash), cpu, "bf16")
    with pytest.raises(ValueError, match=r"gives it float32: set AMP\.mode bf16"):
        check_attention(tiny_cfg(AMP__mode="off", **flash), gpu, "off")
    check_attention(tiny_cfg(AMP__mode="bf16", **flash), gpu, "bf16")
    check_attention(tiny_cfg(AMP__mode="off", AMP__param_dtype="bfloat16", **flash), gpu, "off")


def test_answering_gives_flash_attention_up_for_a_moment():
    """Weights are float32 and nothing autocasts while a policy answers; flash kernels refuse that."""
    backbone = tiny_model(tiny_cfg()).backbone
    configs = backbone.config, backbone.model.language_model.config, backbone.model.visual.config
    for config in configs:
        config._attn_implementation = "flash_attention_2"
    with without_flash(backbone):
        assert [config._attn_implementation for config in configs] == ["sdpa"] * 3
    assert [config._attn_implementation for config in configs] == ["flash_attention_2"] * 3


def test_flash_attention_gets_whole_rows_and_windows(monkeypatch):
    """The library's flash path with the kernel replaced by one that does what its arguments say, on the CPU."""
    from transformers.modeling_flash_attention_utils import _is_packed_sequence
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def kernel(module, query, key, value, attention_mask, position_ids=None, cu_seq_lens_q=None, **kwargs):
        # A mask would mean unpadding, positions a search for packed sequences: see check_attention.
        assert attention_mask is None and not _is_packed_sequence(position_ids, batch_size=query.shape[0])
        ends = cu_seq_lens_q.tolist() if cu_seq_lens_q is not None else [0, query.shape[2]]
        causal = kwargs.get("is_causal", module.is_causal)
        pieces = [
            scaled_dot_product_attention(
                *(x[:, :, start:end] for x in (query, key, value)), is_causal=causal, enable_gqa=True
            )
            for start, end in itertools.pairwise(ends)
        ]
        return torch.cat(pieces, dim=2).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", kernel)
    cfg = tiny_cfg(IMAGE__SIZE=112, MODEL__VISION__FULL_ATTENTION=[1])  # two windows per picture in layer 0
    encoder = ObservationEncoder.from_cfg(cfg)
    for count in (1, 3):
        batch, model = training_batch(encoder, count), training_model(cfg)
        expected = step(model, batch)
        model.backbone.config._attn_implementation = "flash_attention_2"
        assert_same(step(model, batch), expected, tolerance=1e-5)


# ------------------------------------------------------------------------------------------------ memory for time


@pytest.mark.parametrize("mode", ["off", "bf16"])
def test_gradient_checkpointing_changes_nothing_but_memory(encoder, mode):
    batch, results = training_batch(encoder), []
    for checkpointed in (False, True):
        cfg = tiny_cfg(TRAIN__grad_checkpoint=checkpointed, AMP__mode=mode)
        model, precision = training_model(cfg), Precision(mode, torch.device("cpu"))
        with precision.autocast():
            loss = model(batch)["loss"]
        loss.backward()
        results.append((loss.item(), {name: p.grad for name, p in model.named_parameters()}))
    assert_same(*results, tolerance=1e-6)


def test_two_passes_of_two_samples_are_one_of_four(encoder):
    """The mean over passes is the mean over tokens where every sample learns equally many."""
    cfg = tiny_cfg()
    model = training_model(cfg)
    features = [sample_features(encoder, seed) for seed in range(4)]
    whole = step(model, encoder.collate(features))
    halves = step(model, encoder.collate(features[:2]), encoder.collate(features[2:]))
    assert_same(whole, halves, tolerance=1e-5)


def sample_features(encoder, seed):
    encoded = encoder.prompt.encode(observation(seed)["instruction"], "1 22 100 0 5 66 7")
    pictures = encoder.encode(observation(seed))["images"]
    return {"images": pictures, **encoded}


def test_training_in_bfloat16_parameters(encoder):
    """Weights, gradients and states are all bfloat16, and the loss falls."""
    cfg = tiny_cfg(AMP__param_dtype="bfloat16")
    model, batch = tiny_model(cfg).train(), training_batch(encoder)
    parameters = list(model.parameters())
    optimizer = build_optimizer(cfg.TRAIN, parameters)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    losses = []
    for _ in range(15):
        loss = model(batch)["loss"]
        assert loss.dtype == torch.float32
        loss.backward()
        optimizer.step()
        assert {p.grad.dtype for p in parameters} == {torch.bfloat16}
        optimizer.zero_grad()
        losses.append(loss.item())
    assert {p.dtype for p in parameters} == {torch.bfloat16}
    assert all(state["exp_avg"].dtype == torch.bfloat16 for state in optimizer.state.values())
    assert losses[-1] < 0.5 * losses[0]


# ------------------------------------------------------------------------------------------------ torch.compile


@pytest.mark.compiler
def test_compiled_training_step_equals_the_eager_one(encoder, alone, tmp_path):
    """Under DDP with gradient checkpointing; batches of other sizes run the same code; weights keep their names."""
    cfg = tiny_cfg(TRAIN__grad_checkpoint=True)
    model = training_model(cfg)
    batches = [training_batch(encoder, count) for count in (2, 3)]
    assert batches[0]["input_ids"].shape[1] != batches[1]["input_ids"].shape[1]
    names, eager = list(model.state_dict()), [step(model, batch) for batch in batches]
    answers = model.eval().predict(batches[0]).texts

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model.train().compile()
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    for batch, expected in zip(batches, eager, strict=True):
        assert_same(step(model, batch, wrapped=ddp), expected, tolerance=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # a decoder layer and a vision MLP
    assert not torch._dynamo.utils.counters["graph_break"]
    assert list(model.state_dict()) == names

    assert model.eval().predict(batches[0]).texts == answers
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # answering compiles nothing
    model.backbone.save_pretrained(tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "_orig_mod" in name]  # noqa: SIM118 - not a dict
    torch._dynamo.reset()


def test_compiling_on_a_gpu_needs_what_triton_needs(monkeypatch):
    there = {"g++", "gcc"}
    monkeypatch.setattr("shutil.which", lambda name: name if name in there else None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    check_compiler()  # a CPU needs none of it
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"TRAIN\.compile on a GPU needs the package triton"):
        check_compiler()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "found")
    there.remove("gcc")
    with pytest.raises(ValueError, match="needs a C compiler for Triton"):
        check_compiler()
    there.add("clang")
    monkeypatch.setattr("os.path.isfile", lambda path: False)
    with pytest.raises(ValueError, match=r"needs Python's headers for Triton, .*Python\.h"):
        check_compiler()
    monkeypatch.setattr("os.path.isfile", lambda path: True)
    check_compiler()


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler and finds no no-such-compiler"):
        tiny_model(tiny_cfg()).compile()
