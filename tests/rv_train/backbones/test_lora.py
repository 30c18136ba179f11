"""LoRA adapters: that they act, on which layers, over which weights, and what goes to disk."""

import copy
import json
import re
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from libs.errors import BadInput
from rv_train.backbones import FAMILIES, family_named
from rv_train.backbones.lora import is_quantized, merge, num_values, target_pattern, weights_sha256
from rv_train.checkpoint import load_model_folder, save_model_folder
from rv_train.config import load_cfg
from rv_train.optim import build_optimizer
from rv_train.policies import build_encoder, outline_policy
from rv_train.policies.encoding import ObservationEncoder
from tests.rv_train.policies.text.test_text_policy import observation, training_batch
from tests.tiny import ACTION_STATS, ROOT, lora_opts, make_tiny_base, tiny_cfg, tiny_model, tiny_recipe, train_adapter

PER_LAYER = 4 * (32 + 32 + 32 + 16 + 32 + 16 + 32 + 32 + 32 + 64 + 32 + 64 + 64 + 32)  # rank x (in + out) of q ... down


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def encoder(base):
    return ObservationEncoder.from_cfg(tiny_cfg(**lora_opts(base)))


@pytest.fixture(scope="module")
def adapted(base):
    return train_adapter(tiny_model(tiny_cfg(**lora_opts(base))))


@pytest.fixture(scope="module")
def saved(adapted, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model_folder(folder, adapted, tiny_cfg(**lora_opts(base)), ACTION_STATS, {"render": "fast", "resolution": 64})
    return folder


@torch.no_grad()
def outputs(model, encoder):
    """The loss of a batch, and hidden states of the answer's first token under every layer: numbers that must agree."""
    batch = training_batch(encoder)
    hidden = model.hidden(batch)
    return torch.cat([model(batch)["loss"].reshape(1), model.backbone.lm_head(hidden).flatten()])


def assert_equal(found, expected):
    """To 1e-5, loss and logits alike: of the largest number, as float32 sums in another order round."""
    assert abs(found[0] - expected[0]) < 1e-5
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def answers(model, encoder):
    return model.predict(encoder.collate([encoder.encode(observation(seed)) for seed in range(4)])).texts


# ------------------------------------------------------------------------------------------------ the adapter acts


def test_an_adapter_changes_the_loss_and_what_is_answered(base, adapted, encoder):
    """A new one changes nothing; one that is not zero changes the loss, every logit's numbers and the decoded text."""
    plain = load_model_folder(base)[0]
    fresh = tiny_model(tiny_cfg(**lora_opts(base)))
    assert torch.equal(outputs(fresh, encoder), outputs(plain, encoder))
    assert answers(fresh, encoder) == answers(plain, encoder)
    differing = (outputs(adapted, encoder) - outputs(plain, encoder)).abs()
    assert differing[0] > 0.01 and (differing > 1e-4).float().mean() > 0.9
    assert answers(adapted, encoder) != answers(plain, encoder)


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
def test_decoding_knows_the_adapter_of_every_layer(base, encoder, name):
    """The step that writes token by token calls the layers itself: its numbers are those of the library's own pass."""
    model = train_adapter(tiny_model(tiny_cfg(**lora_opts(base, MODEL__LORA__TARGETS=[name]))))
    texts = answers(model, encoder)
    merge(model.backbone)
    assert answers(model, encoder) == texts
    assert (outputs(load_model_folder(base)[0], encoder) - outputs(model, encoder)).abs().max() > 1e-3


def test_dropout_is_for_training_only(base, encoder):
    cfg = tiny_cfg(**lora_opts(base, MODEL__LORA__DROPOUT=0.5))
    model, batch = train_adapter(tiny_model(cfg)), training_batch(encoder)
    without = train_adapter(tiny_model(tiny_cfg(**lora_opts(base, MODEL__LORA__DROPOUT=0.0))))
    assert torch.equal(outputs(model, encoder), outputs(without, encoder))
    assert answers(model, encoder) == answers(without, encoder)
    model.train()
    assert len({model(batch)["loss"].item() for _ in range(3)}) == 3


def test_merged_weights_answer_alike(base, adapted, encoder):
    expected, texts = outputs(adapted, encoder), answers(adapted, encoder)
    model = train_adapter(tiny_model(tiny_cfg(**lora_opts(base))))
    merge(model.backbone)
    assert_equal(outputs(model, encoder), expected)
    assert answers(model, encoder) == texts
    assert list(model.state_dict()) == list(load_model_folder(base)[0].state_dict())


# ------------------------------------------------------------------------------------------------ which layers


def test_only_the_text_towers_layers_are_adapted_and_nothing_else_is_trained(base):
    model = tiny_model(tiny_cfg(**lora_opts(base)))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name and "language_model" in name for name in trained)
    assert sum(p.numel() for p in trained.values()) == 2 * PER_LAYER
    whole = tiny_model(tiny_cfg(**lora_opts(base, MODEL__LORA__VISION=True)))
    seen = [name for name, p in whole.named_parameters() if p.requires_grad and ".visual." in name]
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in seen} == {"gate_proj", "up_proj", "down_proj"}
    assert len(seen) == 2 * 2 * 3
    few = tiny_model(tiny_cfg(**lora_opts(base, MODEL__LORA__TARGETS=["q_proj", "v_proj"])))
    assert len([name for name, p in few.named_parameters() if p.requires_grad]) == 2 * 2 * 2


def test_names_of_the_vision_tower_alone_need_it_to_be_adapted(tmp_path):
    """The plan says so, too."""
    recipe = tiny_recipe(tmp_path, "qwen3_vl")
    opts = {"MODEL__INIT": "pretrained", "MODEL__VOCAB_CUT": 0, "MODEL__PATH": str(tmp_path / "none")}
    opts |= {"MODEL__LORA__RANK": 4, "MODEL__LORA__TARGETS": ["qkv"]}
    cfg = tiny_cfg(recipe, **opts)
    with pytest.raises(BadInput, match=r"MODEL\.LORA\.TARGETS \['qkv'\] name no layer of the text .*LORA\.VISION True"):
        outline_policy(cfg, build_encoder(cfg), [])
    seeing = tiny_cfg(recipe, **opts, MODEL__LORA__VISION=True)
    outline, _ = outline_policy(seeing, build_encoder(seeing), [])
    assert sum(p.requires_grad for p in outline.parameters()) == 3 * 2


@pytest.mark.parametrize("vision", [False, True])
def test_the_plan_counts_what_peft_makes(base, vision):
    cfg = tiny_cfg(**lora_opts(base, MODEL__LORA__VISION=vision))
    made = {name: p for name, p in tiny_model(cfg).backbone.named_parameters() if p.requires_grad}
    outline, _ = outline_policy(cfg, build_encoder(cfg), [])
    planned = {name: p for name, p in outline.backbone.named_parameters() if p.requires_grad}
    assert all(p.is_meta for p in outline.parameters())
    assert {name: (p.shape, p.dtype) for name, p in made.items()} == {
        name: (p.shape, p.dtype) for name, p in planned.items()
    }


@pytest.mark.slow
def test_parameters_of_the_3b_model():
    """What stands in the recipe and in the document it follows, counted on the meta device."""

    def count(rank, vision):
        opts = ["MODEL.LORA.RANK", rank, "MODEL.LORA.VISION", vision]
        cfg = load_cfg(ROOT / "configs/vla0_lora.yaml", opts)
        model, _ = outline_policy(cfg, build_encoder(cfg), [])
        frozen, trained = (sum(p.numel() for p in model.parameters() if p.requires_grad == kind) for kind in (0, 1))
        assert frozen == 3_754_622_976
        return trained

    assert count(32, False) == 59_867_136
    assert count(32, True) == 59_867_136 + 14_438_400 == 74_305_536
    assert count(64, True) == 148_611_072  # the document's "148.6M"
    assert round(100 * 148_611_072 / (3_754_622_976 + 148_611_072), 1) == 3.8
    text = (ROOT / "configs/vla0_lora.yaml").read_text()
    for number in ("59,867,136", "74,305,536", "148,611,072", "3,754,622,976"):
        assert number in text


# ------------------------------------------------------------------------------------------------ on disk


def test_a_checkpoint_holds_the_adapter_only(base, saved, adapted):
    numbers = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    size = (saved / "adapter_model.safetensors").stat().st_size
    assert 4 * numbers < size < 4 * numbers + 6000  # a header
    assert [path.name for path in saved.glob("*.safetensors")] == ["adapter_model.safetensors"]
    weights = (base / "model.safetensors").stat().st_size
    assert size < 0.15 * weights, (size, weights)
    assert json.loads((saved / "base.json").read_text()) == {"path": str(base), "weights_sha256": weights_sha256(base)}
    with safe_open(saved / "adapter_model.safetensors", "pt") as file:
        assert all(re.search(r"language_model\.layers\.\d+\..*\.lora_[AB]\.weight", name) for name in file.keys())  # noqa: SIM118


def test_saved_and_loaded_it_is_the_same_model(saved, adapted, encoder):
    model, cfg, extras = load_model_folder(saved)
    assert torch.equal(outputs(model, encoder), outputs(adapted, encoder))
    assert answers(model, encoder) == answers(adapted, encoder)
    assert cfg.MODEL.LORA.RANK == 4 and extras["folder"] == saved.resolve()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, p in adapted.named_parameters() if p.requires_grad
    }


def test_peft_loads_it_without_this_repository(saved, adapted, base, encoder):
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, attn_implementation="eager")
    model = load_model_folder(base)[0]
    model.backbone = PeftModel.from_pretrained(plain, saved).base_model.model
    model.family.prepare(model.backbone)
    assert_equal(outputs(model.eval(), encoder), outputs(adapted, encoder))


def test_other_weights_below_an_adapter_are_refused(saved, base, encoder, adapted, tmp_path, monkeypatch):
    other = make_tiny_base(tmp_path, seed=1)
    monkeypatch.setenv("VLA0_BASE", str(other))
    with pytest.raises(ValueError, match=r"was trained over weights of sha256 .*those at .*base_1 have") as caught:
        load_model_folder(saved)
    assert weights_sha256(base)[:16] in str(caught.value) and weights_sha256(other)[:16] in str(caught.value)
    moved = shutil.copytree(base, tmp_path / "moved")  # the same weights in another place are the same weights
    monkeypatch.setenv("VLA0_BASE", str(moved))
    assert torch.equal(outputs(load_model_folder(saved)[0], encoder), outputs(adapted, encoder))


def test_what_is_missing_or_broken_is_named(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("VLA0_BASE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"needs the weights it was trained over.*nowhere.*VLA0_BASE") as caught:
        load_model_folder(saved)
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("VLA0_BASE")

    def damaged(name, change):
        folder = shutil.copytree(saved, tmp_path / name)
        change(folder)
        return folder

    def lose_a_matrix(folder):
        state = load_file(folder / "adapter_model.safetensors")
        del state[min(state)]
        save_file(state, folder / "adapter_model.safetensors")

    def cut(folder):
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])

    def other_rank(folder):
        path = folder / "vla_config.yaml"
        path.write_text(path.read_text().replace("RANK: 4", "RANK: 5"))

    for name, change, message in (
        ("matrix", lose_a_matrix, r"does not fit MODEL\.LORA, as .*lora_A\.weight shows"),
        ("cut", cut, r"adapter_model\.safetensors cannot be read"),
        ("rank", other_rank, r"does not fit MODEL\.LORA"),
        ("base", lambda folder: (folder / "base.json").write_text("{}"), r"base\.json does not say which weights"),
        ("adapter", lambda folder: (folder / "adapter_model.safetensors").unlink(), "holds no model .* no adapter"),
    ):
        with pytest.raises(ValueError, match=message):
            load_model_folder(damaged(name, change))


# ------------------------------------------------------------------------------------------------ numbers


def test_the_adapter_stays_float32_beside_frozen_bfloat16(base, encoder):
    model = tiny_model(tiny_cfg(**lora_opts(base, AMP__frozen_dtype="bfloat16"))).train()
    dtypes = {p.requires_grad: p.dtype for p in model.parameters()}
    assert dtypes == {False: torch.bfloat16, True: torch.float32}
    assert all(p.dtype == dtypes[p.requires_grad] for p in model.parameters())
    model(training_batch(encoder))["loss"].backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
        assert p.grad is None or p.grad.dtype == torch.float32


def training(model, encoder, cfg, steps=8):
    batch, optimizer = (
        training_batch(encoder),
        build_optimizer(cfg.TRAIN, [p for p in model.parameters() if p.requires_grad]),
    )
    losses = []
    for _ in range(steps):
        loss = model.train()(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plan_finds_by_name_what_is_packed_in_four_bits(family, tmp_path):
    """The linear layers of the text tower, whatever a family calls them."""
    model = tiny_model(tiny_cfg(tiny_recipe(tmp_path, family)))
    linear = {m.weight for m in model.family.text(model.backbone).modules() if isinstance(m, nn.Linear)}
    found = {p for name, p in model.named_parameters() if is_quantized(name, p, model.family)}
    assert found == linear and found
    model.family = copy.copy(model.family)
    model.family.text_layers = "dense"  # as a layer's own name may be
    weight = torch.zeros(4, 2)
    assert is_quantized("model.dense.0.mlp.dense_h_to_4h.base_layer.weight", weight, model.family)
    assert not is_quantized("model.dense.0.mlp.dense_h_to_4h.lora_A.default.weight", weight, model.family)
    assert not is_quantized("model.dense.0.norm.weight", weight[0], model.family)


def test_weights_in_four_bits(base, encoder, tmp_path):
    """bitsandbytes quantizes, multiplies and passes gradients on a CPU, too."""
    cfg = tiny_cfg(**lora_opts(base, MODEL__QUANTIZE="nf4", MODEL__LORA__DROPOUT=0.0, TRAIN__lr=0.01))
    model = tiny_model(cfg).to("cpu")
    packed = {name: p for name, p in model.named_parameters() if p.dtype == torch.uint8}
    assert len(packed) == 2 * 7 and all("language_model.layers" in name for name in packed)
    plain = dict(load_model_folder(base)[0].named_parameters())
    for name, p in packed.items():
        original = plain[name.replace(".base_layer", "")]
        assert num_values(p) == original.numel()
    close = (outputs(model, encoder) - outputs(load_model_folder(base)[0], encoder)).abs()
    assert 1e-4 < close.mean() < 0.5  # four bits: near, not equal

    before = outputs(model, encoder)
    answers(model, encoder)
    losses = training(model, encoder, cfg)  # after answering: gradients still pass, see `quantize`
    assert losses[-1] < losses[0] - 0.05
    assert torch.equal(outputs(tiny_model(cfg).to("cpu"), encoder), before)

    save_model_folder(tmp_path / "model", model.eval(), cfg, ACTION_STATS, {})
    again = load_model_folder(tmp_path / "model")[0]
    assert torch.equal(outputs(again, encoder), outputs(model, encoder))
    assert answers(again, encoder) == answers(model, encoder)
    assert [p.name for p in (tmp_path / "model").glob("*.safetensors")] == ["adapter_model.safetensors"]


@pytest.mark.parametrize(
    "opts, message",
    [
        ({"MODEL__INIT": "random"}, r"MODEL\.LORA trains beside pretrained weights, MODEL\.INIT is 'random'"),
        ({"MODEL__LORA__RANK": 0, "MODEL__QUANTIZE": "nf4"}, r"MODEL\.QUANTIZE nf4 is for frozen weights"),
        ({"MODEL__QUANTIZE": "nf4", "AMP__mode": "fp16", "AMP__frozen_dtype": "bfloat16"}, "fp16 cannot mix"),
        ({"MODEL__LORA__TARGETS": ["qkv"]}, r"MODEL\.LORA\.TARGETS are some of q_proj, .*got \['qkv'\]"),
        ({"MODEL__LORA__TARGETS": []}, "got none"),
        ({"MODEL__LORA__DROPOUT": 1.0}, r"MODEL\.LORA\.DROPOUT must be"),
        ({"EVAL__ACTION_HORIZON": 3}, r"EVAL\.ACTION_HORIZON 3 is more than the ACTION\.HORIZON 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(base, opts, message):
    with pytest.raises(ValueError, match=message):
        tiny_cfg(**lora_opts(base, **opts))


def test_the_pattern_is_for_whole_names(base):
    pattern = target_pattern(tiny_cfg(**lora_opts(base)).MODEL.LORA, family_named("qwen2_5_vl"))
    for name, fits in (
        ("model.language_model.layers.11.self_attn.q_proj", True),
        ("model.language_model.layers.0.mlp.down_proj", True),
        ("model.visual.blocks.0.mlp.down_proj", False),
        ("model.language_model.layers.0.mlp.down_proj.base_layer", False),
        ("lm_head", False),
    ):
        assert bool(re.fullmatch(pattern, name)) == fits, name


# ------------------------------------------------------------------------------------------------ DDP, torch.compile


def gradients(model, batch):
    model.zero_grad()
    loss = model(batch)["loss"]
    loss.backward()
    bare = getattr(model, "module", model)
    named = ((name, p.grad) for name, p in bare.named_parameters() if p.grad is not None)
    return {"loss": loss.detach(), **{name: gradient.clone() for name, gradient in named}}


def test_ranks_reduce_and_hold_gradients_of_the_adapter_only(base, encoder, alone):
    """Every adapter takes part in every step, so DDP need not look for unused ones."""
    model = train_adapter(tiny_model(tiny_cfg(**lora_opts(base)))).train()
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    found = gradients(ddp, training_batch(encoder))
    assert len(found) == 1 + 2 * 7 * 2 and all(value.abs().max() > 0 for value in found.values())
    buckets = [p.grad.untyped_storage() for p in ddp.parameters() if p.grad is not None]
    assert sum({bucket.data_ptr(): bucket.nbytes() for bucket in buckets}.values()) == 4 * 2 * PER_LAYER


def test_recomputed_layers_pass_no_gradient_through_what_is_frozen(base, encoder):
    """With dropout the second time must drop what the first did; and the vision tower is not passed backward."""
    results = []
    for checkpointed in (False, True):
        model = train_adapter(tiny_model(tiny_cfg(**lora_opts(base, MODEL__LORA__DROPOUT=0.2)))).train()
        if checkpointed:
            model.recompute_activations()
        embeds = model._embed(training_batch(encoder)).embeds
        assert not embeds.requires_grad
        torch.manual_seed(4)
        results.append(gradients(model, training_batch(encoder)))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.compiler
def test_a_compiled_step_equals_the_eager_one(encoder, alone, tmp_path):
    small = make_tiny_base(tmp_path, MODEL__TEXT__LAYERS=1, MODEL__VISION__LAYERS=1, MODEL__VISION__FULL_ATTENTION=[0])
    opts = lora_opts(small, MODEL__LORA__DROPOUT=0.0, MODEL__LORA__TARGETS=["q_proj", "down_proj"])
    model, batch = train_adapter(tiny_model(tiny_cfg(**opts))).train(), training_batch(encoder)
    expected = gradients(model, batch)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model.compile()
    found = gradients(DistributedDataParallel(model, gradient_as_bucket_view=True), batch)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # a decoder layer and a vision MLP
    assert not torch._dynamo.utils.counters["graph_break"]
    torch._dynamo.reset()
