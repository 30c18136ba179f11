"""Losses that are not finite, over two real ranks: skipped alike, counted, and traced to their samples."""

import os

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rv_train import checkpoint, train
from rv_train.bad_steps import BadSteps
from rv_train.distributed import launch
from rv_train.optim import Precision
from rv_train.policies import build_policy
from rv_train.prepare import prepare_run
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import tiny_cfg

pytestmark = pytest.mark.usefixtures("forked_ranks")


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "synthetic_demo.hdf5"
    write_synthetic_demo_file(path, num_demos=2, num_frames=12, resolution=64, seed=0)
    return path


def poisoned(bad_indices):
    """build_policy with a model whose loss is infinite where a batch holds one of some samples."""

    def build(*args):
        model = build_policy(*args)
        forward = model.forward

        def wrapped(batch):
            output = forward(batch)
            bad = torch.isin(batch["index"], torch.tensor(bad_indices)).any()
            return {**output, "loss": output["loss"] + torch.where(bad, torch.inf, 0.0)}

        model.forward = wrapped
        return model

    return build


def train_poisoned(rank, cfg, job, bad_indices):
    train.build_policy = poisoned(bad_indices)
    return train.train(rank, cfg, job)


def run(cfg, bad_indices, ranks=2):
    devices = [torch.device("cpu")] * ranks
    job = prepare_run(cfg, devices[0], ranks)
    return launch(train_poisoned, devices, cfg, job, bad_indices)


@pytest.mark.slow
def test_a_bad_step_is_skipped_on_all_ranks_and_counted(tmp_path, demos):
    cfg = tiny_cfg(EXP__DIR=str(tmp_path), DATA__FILES=[str(demos)], TRAIN__max_steps=12, TRAIN__schedule="none")
    assert run(cfg, bad_indices=[5]) == 0  # each rank meets sample 5 once in 12 steps of 2 samples, at its own time
    events = EventAccumulator(str(tmp_path / "tiny"))
    events.Reload()
    skipped = [point.value for point in events.Scalars("train/skipped_steps")]
    losses = [point.value for point in events.Scalars("train/loss")]
    assert skipped[-1] == 2 and len(losses) == 12
    assert sum(loss != loss for loss in losses) == 2  # no good step in the window: nothing to average
    trainer = checkpoint.load_trainer(tmp_path / "tiny/last")
    assert trainer["bad_steps"] == {"skipped": 2, "in_a_row": trainer["bad_steps"]["in_a_row"]}
    weights = checkpoint.load_model_folder(tmp_path / "tiny")[0].state_dict()
    assert all(torch.isfinite(value).all() for value in weights.values())
    # 10 steps were made: that is what the optimizer counted, on the rank that saved
    assert {int(state["step"]) for state in trainer["optimizer"]["state"].values()} == {10}


@pytest.mark.slow
def test_too_many_in_a_row_stop_the_run_and_name_the_samples(tmp_path, demos):
    cfg = tiny_cfg(
        EXP__DIR=str(tmp_path),
        DATA__FILES=[str(demos)],
        TRAIN__max_steps=12,
        TRAIN__max_bad_steps=3,
        DATA__NUM_WORKERS=1,
    )
    with pytest.raises(ValueError, match=r"3 steps in a row were skipped; the loss of these samples is not finite"):
        run(cfg, bad_indices=list(range(24)))
    with pytest.raises(ValueError) as caught:
        run(cfg, bad_indices=list(range(24)))  # the folder holds nothing but leftovers: it may be used again
    assert f"{demos}, demo_" in str(caught.value) and ", frame " in str(caught.value) and "more" in str(caught.value)


@pytest.mark.slow
def test_overflowing_gradients_are_told_from_bad_samples(tmp_path, demos, monkeypatch):
    cfg = tiny_cfg(EXP__DIR=str(tmp_path), DATA__FILES=[str(demos)], TRAIN__max_bad_steps=2, TRAIN__max_steps=4)

    def build(*args):
        model = build_policy(*args)
        next(model.parameters()).register_hook(lambda gradient: gradient * torch.inf)
        return model

    monkeypatch.setattr(train, "build_policy", build)
    device = torch.device("cpu")
    with pytest.raises(ValueError, match="2 steps in a row were skipped; the loss of every single sample is finite"):
        launch(train.train, [device], cfg, prepare_run(cfg, device, 1))
    assert os.listdir(tmp_path / "tiny")


def test_looking_for_bad_samples_draws_from_no_generator():
    """When it is done depends on TRAIN.log_every, saves and signals: dropout behind it must not."""

    def model(batch):  # sample 7 is bad, the other is not
        noise = torch.nn.functional.dropout(torch.ones(4), 0.5).sum()
        return {"loss": noise + torch.where(batch["index"] == 7, torch.inf, 0.0).sum()}

    empty = torch.zeros(0, dtype=torch.int64)
    batch = {"input_ids": torch.zeros(2, 3, dtype=torch.int64), "lengths": torch.tensor([3, 2])}
    batch |= {"label_index": empty, "label_ids": empty, "index": torch.tensor([7, 8])}
    steps = BadSteps(5, "sample {}".format)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    steps.note_bad(model, Precision("off", torch.device("cpu")), [batch, batch])
    assert torch.equal(torch.get_rng_state(), before)
    assert steps._suspects == ["sample 7"] * 2
