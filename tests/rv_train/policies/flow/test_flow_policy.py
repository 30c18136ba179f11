import re

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from libs.demo_hdf5.synthetic import write_synthetic_isaac_file
from rv_train import plan
from rv_train.checkpoint import load_model_folder, save_model_folder
from rv_train.config import load_cfg
from rv_train.data.load import load_data
from rv_train.data.training_set import TrainingSet
from rv_train.memory import memory_estimate
from rv_train.policies import build_encoder, build_policy
from rv_train.policies.encoding import take_row
from rv_train.policies.flow.expert import ActionExpert
from tests.rv_train.test_memory import kept_for_backward
from tests.tiny import ROOT, flow_opts, frozen_opts, make_tiny_base, tiny_cfg
from tests.waiting import assert_nobody_waits

PARTS = ["joint_pos", "eef_pos"]
ISAAC = {"DATA__KEY_MAP": "isaac_cosmos", "DATA__VIEWS": ["table_cam", "wrist_cam"], "DATA__PROPRIO": PARTS}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("isaac") / "demo.hdf5"
    write_synthetic_isaac_file(path, num_demos=4, num_frames=10, resolution=64, seed=0, instruction="go")
    return path


def flow_cfg(demos, **more):
    return tiny_cfg(**flow_opts(**{**ISAAC, "DATA__FILES": [str(demos)], **more}))


def setup(demos, seed=0, **more):
    """(cfg, samples, model with a head that says something)"""
    cfg = flow_cfg(demos, **more)
    data = load_data(cfg)
    encoder = build_encoder(cfg, data.action_stats)
    torch.manual_seed(seed)
    model = build_policy(cfg, encoder)
    torch.nn.init.normal_(model.action_expert.head.velocity.weight, std=0.3)
    return cfg, TrainingSet(data.train, encoder, cfg.EXP.SEED), model


def batch_of(samples, indices):
    return samples.encoder.collate([samples[0, 0, index] for index in indices])


def generators(seeds):
    return [np.random.default_rng(seed) for seed in seeds]


@pytest.mark.parametrize("condition", ["last", "all"])
def test_a_step_asks_the_device_for_nothing(demos, condition):
    cfg, samples, model = setup(demos, FLOW__CONDITION=condition, FLOW__PROPRIO_DROPOUT=0.3)
    assert_nobody_waits(cfg, model.train(), batch_of(samples, (0, 12, 25)))


@pytest.mark.parametrize("condition", ["last", "all"])
def test_rows_are_answered_as_alone(demos, condition):
    """Padding reaches neither loss nor answer; the loss of a batch is the mean of its rows'."""
    _, samples, model = setup(demos, FLOW__CONDITION=condition)
    model.eval()
    features = [samples[0, 0, index] for index in (0, 12, 25)]
    for name in ("input_ids", "labels"):  # a shorter prompt: there is padding
        features[1][name] = features[1][name][:-3]
    batch = samples.encoder.collate(features)
    rows = [take_row(batch, row) for row in range(3)]
    assert rows[1]["input_ids"].shape[1] == batch["input_ids"].shape[1] - 3
    with torch.no_grad():
        losses = [model(row)["loss"] for row in rows]
        result = model(batch)
    assert result["count"] == 3 * 2
    torch.testing.assert_close(torch.stack(losses).mean(), result["loss"])
    together = model.predict(batch, generators=generators((1, 2, 3))).chunk
    for row, seed in zip(range(3), (1, 2, 3), strict=True):
        np.testing.assert_allclose(
            model.predict(rows[row], generators=generators((seed,))).chunk[0], together[row], atol=1e-5
        )


def test_everything_it_is_given_matters(demos):
    """Pictures, instruction and robot state change the answer; noise changes it, at temperature 0 it does not."""
    _, samples, model = setup(demos, FLOW__CONDITION="all")
    model.eval()
    batch = batch_of(samples, [3, 17])

    def answer(**changes):
        return model.predict({**batch, **changes}, generators=generators((1, 2))).chunk

    plain = answer()
    np.testing.assert_array_equal(plain, answer())
    ids = batch["input_ids"].clone()
    ids[:, -5] = ids[:, -4]
    for changes in (
        {"images": 255 - batch["images"]},
        {"input_ids": ids},
        {"proprio": batch["proprio"] + 1},
    ):
        assert np.abs(answer(**changes) - plain).max() > 1e-5, changes.keys()
    other = model.predict(batch, generators=generators((3, 4))).chunk
    assert np.abs(other - plain).max() > 1e-3
    cold = [model.predict(batch, temperature=0.0, generators=generators(seeds)).chunk for seeds in ((1, 2), (3, 4))]
    np.testing.assert_array_equal(*cold)


def test_noise_and_times_belong_to_the_sample(demos):
    """The same in every process, others in another epoch, fixed in validation."""
    _, samples, _ = setup(demos)
    names = ("noise", "time")
    again, other = samples[0, 0, 5], samples[1, 0, 5]
    for name in names:
        assert torch.equal(samples[0, 0, 5][name], again[name]) and not torch.equal(again[name], other[name])
    assert again["noise"].shape == (2, 2, 7) and again["time"].shape == (2,)
    quiet = TrainingSet(samples.dataset, samples.encoder, 0, augment=False)
    assert torch.equal(quiet[0, 0, 5]["noise"], quiet[0, 0, 5]["noise"])


def test_some_samples_are_not_told_the_state(demos):
    _, samples, _ = setup(demos, FLOW__PROPRIO_DROPOUT=0.5)
    mean = torch.tensor(samples.encoder.stats["proprio"]["mean"])
    told = [not torch.equal(samples[epoch, 0, 5]["proprio"], mean) for epoch in range(60)]
    assert 15 < sum(told) < 45
    quiet = TrainingSet(samples.dataset, samples.encoder, 0, augment=False)
    assert all(not torch.equal(quiet[0, 0, index]["proprio"], mean) for index in range(40))
    _, without, _ = setup(demos, FLOW__PROPRIO_DROPOUT=1.0, DATA__PROPRIO=[])
    assert without[0, 0, 5]["proprio"].shape == (0,)


@pytest.mark.slow
def test_it_learns_what_only_pictures_and_only_the_state_show(demos, tmp_path):
    """Action 0 is where the stripe is, action 1 minus the first number of eef_pos, see the synthetic file."""
    _, samples, model = setup(demos, FLOW__CONDITION="all", FLOW__HIDDEN=32, FLOW__MLP=64, FLOW__DRAWS=8)
    torch.nn.init.zeros_(model.action_expert.head.velocity.weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = batch_of(samples, range(0, 40, 4))
    true = batch["actions"].numpy()

    def errors():
        answer = model.eval().predict(batch, generators=generators(range(10))).chunk
        model.train()
        return np.abs(answer - true).mean(axis=(0, 1))[:2] / np.ptp(true, axis=(0, 1))[:2]

    before = errors()
    for step in range(120):
        rng = np.random.default_rng(step)
        batch["noise"] = torch.from_numpy(rng.standard_normal(batch["noise"].shape, dtype=np.float32))
        batch["time"] = torch.from_numpy(rng.random(batch["time"].shape, dtype=np.float32))
        optimizer.zero_grad()
        model(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    after = errors()
    assert (after < 0.15).all() and (after < before / 2).all(), (before, after)


def test_a_frozen_backbone_is_only_passed_forward(demos, tmp_path):
    base = make_tiny_base(tmp_path)
    _, samples, model = setup(demos, **frozen_opts(base))
    hidden = []
    model.backbone.model.language_model.register_forward_hook(lambda *call: hidden.append(call[2].last_hidden_state))
    model.train()(batch_of(samples, [0, 1]))["loss"].backward()
    assert len(hidden) == 1 and len(hidden[0]) == 2 and not hidden[0].requires_grad  # the whole batch at once
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.action_expert.parameters())


def test_every_trained_weight_gets_a_gradient(demos):
    """DistributedDataParallel waits for all of them."""
    for more in ({}, {"MODEL__TEXT__TIED": False}):
        _, samples, model = setup(demos, **more)
        model(batch_of(samples, [0, 1]))["loss"].backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_bfloat16_answers_like_float32(demos):
    _, samples, model = setup(demos, FLOW__CONDITION="all", FLOW__STEPS=100)
    batch = batch_of(samples, [3, 17])
    wide = model.eval().predict(batch, generators=generators((1, 2))).chunk
    assert wide.dtype == np.float32
    narrow = model.to(torch.bfloat16).predict(batch, generators=generators((1, 2))).chunk
    assert narrow.dtype == np.float32
    spread = np.ptp(wide)
    assert 0 < np.abs(wide - narrow).max() < 0.05 * spread


@pytest.mark.compiler
def test_compiled_and_recomputed_steps_equal_the_plain_one(demos):
    def losses(prepare):
        _, samples, model = setup(demos)
        prepare(model)
        loss = model.train()(batch_of(samples, [0, 11, 22]))["loss"]
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        return torch.stack([loss.detach(), norm])

    plain = losses(lambda model: None)
    torch.testing.assert_close(losses(lambda model: model.recompute_activations()), plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses(lambda model: model.compile()), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.compiler
def test_a_compiled_head_answers_alike(demos):
    _, samples, model = setup(demos)
    batch = batch_of(samples, [3, 17])
    plain = model.eval().predict(batch, generators=generators((1, 2))).chunk
    model.compile_predict()
    np.testing.assert_allclose(model.predict(batch, generators=generators((1, 2))).chunk, plain, atol=1e-5)


def test_solvers_and_statistics_are_part_of_the_recipe(demos, tmp_path):
    cfg, samples, model = setup(demos, FLOW__SOLVER="heun", FLOW__STEPS=7, FLOW__NORMALIZE="mean_std")
    stats = samples.encoder.stats
    save_model_folder(tmp_path / "model", model, cfg, stats, {})
    loaded, kept, extras = load_model_folder(tmp_path / "model")
    assert (kept.FLOW.SOLVER, loaded.steps) == ("heun", 7) and extras["encoder"].proprio == {
        "joint_pos": 9,
        "eef_pos": 3,
    }
    torch.testing.assert_close(loaded.actions.denormalize(torch.zeros(7)), torch.tensor(stats["mean"]))
    batch = batch_of(samples, [3, 17])
    calls = []
    loaded.velocity = lambda features, x, time: calls.append(0) or torch.zeros_like(x)
    loaded.predict(batch, generators=generators((1, 2)))
    assert len(calls) == 2 * 7
    (tmp_path / "model/expert.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expert\.safetensors is no action expert"):
        load_model_folder(tmp_path / "model")


def test_an_expert_of_other_sizes_is_refused(demos, tmp_path):
    cfg, samples, model = setup(demos)
    save_model_folder(tmp_path / "model", model, cfg, samples.encoder.stats, {})
    with pytest.raises(ValueError, match="no action expert of FLOW's sizes") as caught:
        load_model_folder(tmp_path / "model", opts=["FLOW.MLP", 48])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "opts, message",
    [
        ({"FLOW__HIDDEN": 18, "FLOW__HEADS": 4}, "FLOW.HIDDEN must be a multiple of 2 x HEADS, got 18 and 4"),
        ({"MODEL__FREEZE": True}, "MODEL.FREEZE keeps pretrained weights"),
        ({"DATA__SOURCE": "manifest", "DATA__PROPRIO": []}, "trains on DATA.SOURCE hdf5"),
        ({"TRAIN__save_base": True}, "TRAIN.save_base is for frozen weights"),
        ({"FLOW__SOLVER": "rk4"}, "FLOW.SOLVER is 'rk4'; choose one of euler, heun"),
        ({"DATA__PROPRIO": ["joint_pos", "joint_pos"]}, "twice"),
    ],
)
def test_settings_that_make_no_sense_are_refused(opts, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_cfg(**flow_opts(**opts))


def test_what_an_observation_lacks_is_named(demos):
    _, samples, _ = setup(demos)
    views = {view: np.zeros((64, 64, 3), np.uint8) for view in samples.encoder.views}
    observation = {"views": views, "instruction": "go"}
    for state, message in (
        (None, "has no proprio; the model needs joint_pos (9), eef_pos (3)"),
        ({"joint_pos": np.zeros(9)}, "proprio has no eef_pos"),
        ({"joint_pos": np.zeros(7), "eef_pos": np.zeros(3)}, "joint_pos has shape (7,)"),
        (np.zeros(11), "shape (11,)"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            samples.encoder.encode({**observation, "proprio": state})
    parts = {"eef_pos": np.array([1.0, 2, 3]), "wheels": np.zeros(4), "joint_pos": np.arange(9.0)}
    flat = np.concatenate([parts["joint_pos"], parts["eef_pos"]])
    named, plain = (samples.encoder.encode({**observation, "proprio": state})["proprio"] for state in (parts, flat))
    assert torch.equal(named, plain) and named.dtype == torch.float32 and named[9:].tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", ["trained", "frozen"])
def test_flops_are_those_that_are_run(demos, tmp_path, kind):
    sizes = {"MODEL__TEXT__HIDDEN": 128, "MODEL__TEXT__MLP": 256, "FLOW__HIDDEN": 64, "FLOW__MLP": 128}
    vision = {"MODEL__VISION__HIDDEN": 64, "MODEL__VISION__MLP": 128, "FLOW__PROJECTOR": 96, "FLOW__CONDITION": "all"}
    more = frozen_opts(make_tiny_base(tmp_path, **{k: v for k, v in (sizes | vision).items() if "FLOW" not in k}))
    _, samples, model = setup(demos, **sizes, **vision, **(more if kind == "frozen" else {}))
    batch = batch_of(samples, [0, 11, 22, 33])
    with FlopCounterMode(display=False) as counted:
        model.train()(batch)["loss"].backward()
    assert 0.93 < model.flops()(batch) / counted.get_total_flops() < 1.04


@pytest.mark.parametrize("kind", ["trained", "frozen"])
def test_memory_is_what_autograd_keeps(demos, tmp_path, kind):
    sizes = {"MODEL__TEXT__HIDDEN": 128, "MODEL__TEXT__MLP": 512, "MODEL__TEXT__LAYERS": 4, "MODEL__ATTENTION": "sdpa"}
    flow = {"FLOW__HIDDEN": 128, "FLOW__MLP": 512, "FLOW__LAYERS": 6, "FLOW__PROJECTOR": 256, "FLOW__DRAWS": 4}
    flow |= {"FLOW__HEAD_LAYERS": 2, "FLOW__CONDITION": "all", "ACTION__HORIZON": 16}
    base = make_tiny_base(tmp_path, **sizes)
    cfg, samples, model = setup(demos, **sizes, **flow, **(frozen_opts(base) if kind == "frozen" else {}))
    batch = batch_of(samples, range(cfg.TRAIN.batch_size))
    tokens, draws = batch["input_ids"].shape[1], batch["time"].shape[1]
    parts = memory_estimate(cfg, model, tokens, draws, "off")
    assert parts["action expert"] == sum(p.nbytes for p in model.action_expert.parameters())
    assert parts["gradients"] == sum(p.nbytes for p in model.parameters() if p.requires_grad)
    expected = parts["activations of the expert"] + (parts["activations"] if kind == "trained" else 0)
    kept = kept_for_backward(cfg, model.train(), batch)
    assert 0.75 < expected / kept < 1.3, (expected, kept)
    mixed = memory_estimate(cfg, model, tokens, draws, "bf16")
    if kind == "frozen":  # no gradient passes its weights: autocast's copies of them do not stay
        copied = sum(p.numel() for p in model.action_expert.parameters() if p.dim() > 1)
        assert mixed["16-bit copies of weights"] == 2 * copied


def test_the_documents_architecture(capsys):
    """Of the 7B model: 8.29 billion weights; the sizes of projector, expert and head follow from their layers."""
    plan.dry_run(load_cfg(ROOT / "configs/flow_cosmos.yaml"))
    out = capsys.readouterr().out
    rows = {
        name: (int(a.replace(",", "")), int(b.replace(",", "")))
        for name, a, b in re.findall(r"(\w+) +([\d,]+) trained, +([\d,]+) frozen", out)
    }
    assert rows["vision"][1] + rows["text"][1] == 8_292_166_656 and rows["vision"][0] == 0
    assert rows["text"][0] == 40_370_176  # LoRA of rank 16
    assert rows["projector"] == (2 * 3584 + 3584 * 1344 + 1344 + 1344 * 512 + 512, 0)
    with torch.device("meta"):
        expert = ActionExpert(3584, 27, 16, 7, 1344, 512, 6, 8, 2048, 2)
    assert len(expert.expert.layers) == 6 and expert.expert.queries.shape == (16, 512)
    for part in ("expert", "head"):
        assert rows[part] == (sum(p.numel() for p in getattr(expert, part).parameters()), 0)
    assert "16 x 7 numbers come out of the action expert" in out and "stack the red cube" in out
