"""The example of docs/adding_policy.md: what only it promises. The rest is asked by tests/test_model_contract.py."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rv_train.data.load import load_data
from rv_train.data.training_set import TrainingSet
from rv_train.policies import POLICIES, build_encoder, build_policy
from rv_train.policies.shared import load_own, save_own
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ROOT, tiny_cfg

FOLDER = "tests/rv_train/policies/regression"


@pytest.fixture(scope="module", autouse=True)
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(POLICIES, "regression", "tests.rv_train.policies.regression")
        yield


@pytest.fixture(scope="module")
def learned(tmp_path_factory, example):
    """(model, encoder, batch of training, losses) after a few steps on four samples."""
    path = tmp_path_factory.mktemp("demos") / "demo.hdf5"
    write_synthetic_demo_file(path, num_demos=2, num_frames=6, resolution=64, seed=0)
    sizes = {"MODEL__TEXT__HIDDEN": 128, "MODEL__TEXT__MLP": 256}
    cfg = tiny_cfg(MODEL__NAME="regression", DATA__FILES=[str(path)], **sizes)
    data = load_data(cfg)
    encoder = build_encoder(cfg, data.action_stats)
    samples = TrainingSet(data.train, encoder, cfg.EXP.SEED)
    torch.manual_seed(0)
    model = build_policy(cfg, encoder).train()
    batch = encoder.collate([samples[0, 0, index] for index in (0, 3, 6, 9)])
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-3), []
    for _ in range(100):
        loss = model(batch)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), encoder, batch, losses


@pytest.mark.parametrize("name", ["__init__.py", "encoder.py", "model.py"])
def test_the_example_is_that_of_the_docs(name):
    source = (ROOT / FOLDER / name).read_text()
    assert f"```python\n{source}```" in (ROOT / "docs/adding_policy.md").read_text()


def test_it_learns_a_batch_by_heart_and_answers_in_units_of_the_data(learned):
    model, encoder, batch, losses = learned
    assert losses[-1] < 0.05 * losses[0], losses
    answer = model.predict(batch).chunk
    error = np.abs(answer - batch["actions"].numpy()).mean((0, 1))
    spread = np.array(encoder.stats["max"]) - np.array(encoder.stats["min"])
    assert answer.dtype == np.float32 and (error <= 0.2 * spread).all()


def test_who_knows_nothing_answers_with_the_middle(learned):
    model, _, batch, _ = learned
    nobody = copy.deepcopy(model)
    for weights in nobody.head.parameters():
        torch.nn.init.zeros_(weights)
    assert nobody(batch)["loss"].item() == pytest.approx(model.chance(batch)[0])


def test_what_is_counted_is_what_the_loss_is_a_mean_over(learned):
    model, _, batch, _ = learned
    result = model(batch)
    wanted = model.actions.normalize(batch["actions"])
    torch.testing.assert_close(result["loss"], (model._chunk(batch) - wanted).square().sum() / result["count"])


def test_flops_are_those_that_are_run(learned):
    model, _, batch, _ = learned
    with FlopCounterMode(display=False) as counted:
        model.train()(batch)["loss"].backward()
    assert 0.93 < model.eval().flops()(batch) / counted.get_total_flops() < 1.04


def test_weights_of_other_sizes_are_refused(learned, tmp_path):
    save_own(learned[0].head, tmp_path)
    with pytest.raises(ValueError, match=r"expert.safetensors is no head of two: "):
        load_own(torch.nn.Linear(3, 2), tmp_path, "head of two")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            {"DATA__SOURCE": "manifest"},
            r"regression trains on DATA.SOURCE hdf5 or lerobot or mix( or \w+)*$",
        ),
        ({"ACTION__RANGE": "q01_q99"}, "MODEL.NAME regression writes none: leave it min_max$"),
        ({"DATA__PROPRIO": ["robot_states"]}, "regression takes no robot's state"),
    ],
)
def test_what_it_does_not_know_is_refused(opts, message):
    with pytest.raises(ValueError, match=message):
        tiny_cfg(MODEL__NAME="regression", **opts)
