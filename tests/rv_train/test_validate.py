"""Validation: the same numbers on every rank and for any number of ranks, on samples that are always the same."""

import json
import random
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import nn

from rv_train.data.hdf5 import DemoDataset
from rv_train.data.load import load_data
from rv_train.data.training_set import TrainingSet
from rv_train.distributed import Rank, launch
from rv_train.optim import Precision
from rv_train.policies import build_encoder
from rv_train.policies.base import Prediction
from rv_train.validate import Validation, chunk_figure, due, milestones, spread
from tests.action_goals import write_goals
from tests.demo_files import write_synthetic_demo_file
from tests.manifests import write_foreign
from tests.tiny import tiny_cfg, tiny_model

pytestmark = pytest.mark.usefixtures("forked_ranks")

CPU = torch.device("cpu")
LOW = [-1.0, -1.0, -0.2, -0.2, -0.2, -0.2, -1.0]
HIGH = [1.0, 3.0, 0.2, 0.2, 0.2, 0.2, 1.0]


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "synthetic_demo.hdf5"
    write_synthetic_demo_file(path, num_demos=2, num_frames=7, resolution=64, seed=0)
    return path


def on_ranks(worker, num_ranks, tmp_path, *args):
    """What `worker(rank, *args)` returns on each rank."""
    launch(_write_result, [CPU] * num_ranks, worker, tmp_path, args)
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(num_ranks)]


def _write_result(rank, worker, folder, args):
    (folder / f"{rank.rank}.json").write_text(json.dumps(worker(rank, *args)))


def validation(rank, demos, **opts):
    cfg = tiny_cfg(**opts)
    dataset = DemoDataset([demos], cfg.DATA.VIEWS, cfg.ACTION.HORIZON)
    stats = {"min": LOW, "max": HIGH}
    return Validation(cfg, dataset, build_encoder(cfg, stats), stats, rank), cfg


def measure(rank, demos, opts):
    """Both measurements of the random tiny model."""
    checks, cfg = validation(rank, demos, **opts)
    model = tiny_model(cfg)
    metrics, figure = checks.generate(model)
    assert (figure is not None) == rank.is_main
    shares = [sum(map(len, checks.loss_samples)), len(checks.gen_samples)]
    return {**checks.loss(model, Precision("off", CPU)), **metrics, "shares": shares}


def measure_twice(rank, demos):
    return [
        measure(rank, demos, {"VALID__loss_batches": 0, "VALID__gen_samples": 9}),
        measure(rank, demos, {"TRAIN__batch_size": 1, "VALID__loss_batches": 1, "VALID__gen_samples": 1}),
    ]


@pytest.mark.slow
def test_two_ranks_measure_what_one_does_even_where_one_has_no_sample(tmp_path, demos):
    ((many, few),) = on_ranks(measure_twice, 1, tmp_path, demos)
    first, second = on_ranks(measure_twice, 2, tmp_path, demos)
    assert many.pop("shares") == [14, 9] and few.pop("shares") == [1, 1]
    assert [result.pop("shares") for result in first] == [[7, 5], [1, 1]]
    assert [result.pop("shares") for result in second] == [[7, 4], [0, 0]]
    assert first == second
    assert first[0] == pytest.approx(many, rel=1e-6) and first[1] == pytest.approx(few, rel=1e-6)


def loss_by_hand(rank, demos):
    checks, cfg = validation(rank, demos, VALID__loss_batches=0, TRAIN__batch_size=4, DATA__NUM_WORKERS=1)
    model = tiny_model(cfg).train()
    loss = checks.loss(model, Precision("off", CPU))["val/loss"]
    assert model.training and all(p.grad is None for p in model.parameters())
    samples = TrainingSet(checks.dataset, checks.encoder, 0, augment=False)
    total, tokens = 0.0, []
    for index in range(len(checks.dataset)):
        with torch.no_grad():
            result = model.eval()(checks.encoder.collate([samples[0, 0, index]]))
        total += result["loss"].item() * result["count"]
        tokens.append(result["count"])
    return {"loss": loss, "by_hand": total / sum(tokens), "tokens": tokens}


def test_loss_is_the_mean_over_learned_tokens(tmp_path, demos):
    (result,) = on_ranks(loss_by_hand, 1, tmp_path, demos)
    assert len(set(result["tokens"])) > 1  # else a mean over samples would be the same
    assert result["loss"] == pytest.approx(result["by_hand"], rel=1e-6)


class Parrot(nn.Module):
    """Answers with what it was told, in order."""

    def __init__(self, chunks, valid):
        super().__init__()
        self.chunks, self.valid = chunks, valid

    def predict(self, batch, generators):
        assert not self.training and batch["label_ids"].numel() == 0
        count = len(batch["lengths"])
        chunk, self.chunks = self.chunks[:count], self.chunks[count:]
        valid, self.valid = self.valid[:count], self.valid[count:]
        return Prediction(chunk, valid, np.zeros(count, dtype=bool), [""] * count)


def known_errors(rank, demos):
    checks, _ = validation(rank, demos, VALID__gen_samples=5)
    truths = np.stack([checks.dataset[index].actions for index in checks.gen_samples])
    errors = np.zeros_like(truths)
    errors[:, :, 1], errors[0, 0, 6] = 0.5, -2.0
    parrot = Parrot(truths + errors, np.array([True, True, True, False, True])).train()
    metrics, figure = checks.generate(parrot)
    assert parrot.training
    labels = [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel()]
    return {"metrics": metrics, "labels": labels, "panels": len(figure.axes)}


def test_generation_metrics_of_known_errors(tmp_path, demos):
    """5 chunks of 2 actions: dimension 1 is off by 0.5 everywhere, dimension 6 by 2 once."""
    (result,) = on_ranks(known_errors, 1, tmp_path, demos)
    expected = {f"val/dim{i}_mae": 0.0 for i in range(7)} | {"val/dim1_mae": 0.5, "val/dim6_mae": 0.2}
    expected |= {"val/mae": 0.1, "val/mse": (10 * 0.25 + 4) / 70, "val/parse_rate": 0.8}
    assert result["metrics"] == pytest.approx(expected, abs=1e-6)
    assert result["panels"] == 4 * 7 and len(result["labels"]) == 4
    assert result["labels"][0] == "demo_0\nframe 1" and result["labels"][2] == "demo_1\nframe 2\nunreadable"


def hidden_errors(rank, folder):
    """Every answer is off by 0.5; of dimension 0 nothing is known, of dimension 1 half of it."""
    cfg = tiny_cfg(DATA__SOURCE="manifest", DATA__FILES=[str(folder)], DATA__VIEWS=["camera"], VALID__gen_samples=6)
    data = load_data(cfg)
    stats = {"min": [-1.0] * 7, "max": [1.0] * 7}
    checks = Validation(cfg, data.train, build_encoder(cfg, stats), stats, rank)
    known = checks.encoder.codec.from_integers([50, 50, 0, 0, 0, 0, 0])
    chunk = np.tile(known + 0.5, (len(checks.gen_samples), 2, 1))
    metrics, figure = checks.generate(Parrot(chunk, np.ones(len(chunk), dtype=bool)))
    return {"metrics": metrics, "labels": [panel.get_ylabel() for panel in figure.axes if panel.get_ylabel()]}


def test_numbers_that_the_data_hides_are_no_targets(tmp_path, demos):
    folder = write_foreign(tmp_path / "theirs", [("go", 6)], text="X 50 0 0 0 0 0 1XX 5X 0 0 0 0 0")
    (result,) = on_ranks(hidden_errors, 1, tmp_path, folder)
    assert np.isnan(result["metrics"].pop("val/dim0_mae"))
    expected = {f"val/dim{i}_mae": 0.5 for i in range(1, 7)}
    expected |= {"val/mae": 0.5, "val/mse": 0.25, "val/parse_rate": 1.0, "val/hidden_targets": 3 / 14}
    assert result["metrics"] == pytest.approx(expected, abs=1e-6)
    assert result["labels"] == ["line 1", "line 3", "line 4", "line 6"]


def turned_errors(rank, demos):
    """Every answer is turned 0.3 radians too far, many of them from this side of half a turn to the other."""
    turns = {"ACTION__ROTATION__DIMS": [3], "ACTION__ROTATION__WRITTEN": "6d_columns"}
    cfg = tiny_cfg(DATA__FILES=[str(demos)], VALID__gen_samples=20, **turns)
    data = load_data(cfg)
    checks = Validation(cfg, data.train, build_encoder(cfg, data.action_stats), data.action_stats, rank)
    chunks = np.stack([data.train[index].actions for index in checks.gen_samples])
    turn = Rotation.from_rotvec([0.0, 0.0, 0.3])
    chunks[..., 3:6] = (turn * Rotation.from_rotvec(chunks[..., 3:6].reshape(-1, 3))).as_rotvec().reshape(-1, 2, 3)
    sides = np.sign(chunks[..., 5]) != [np.sign(data.train[index].actions[:, 5]) for index in checks.gen_samples]
    chunks = checks.encoder.form.write(chunks, np.zeros((len(chunks), 0)))
    return [checks.generate(Parrot(chunks, np.ones(len(chunks), dtype=bool)))[0], int(sides.sum())]


def test_an_answered_turn_is_off_by_what_it_turns_too_far(tmp_path):
    """However the numbers of its form jump: on the other side of half a turn they have the other sign."""
    demos = write_goals(tmp_path / "goals.hdf5", num_demos=2, num_frames=10)
    ((metrics, sides),) = on_ranks(turned_errors, 1, tmp_path, demos)
    assert sides > 1
    expected = {f"val/dim{i}_mae": 0.0 for i in range(7)} | {"val/dim5_mae": 0.3}
    assert metrics == pytest.approx(
        {**expected, "val/mae": 0.3 / 7, "val/mse": 0.09 / 7, "val/parse_rate": 1.0}, abs=1e-5
    )


def unreadable(rank, demos):
    checks, cfg = validation(rank, demos, VALID__gen_samples=4)
    model = tiny_model(cfg)
    model.codec = checks.encoder.codec
    model.decoder.generate = lambda prompt, lengths, *rest: ([[]] * len(lengths), [0] * len(lengths))
    truths = np.stack([checks.dataset[index].actions for index in checks.gen_samples])
    middle = (np.array(LOW) + HIGH) / 2
    return [checks.generate(model)[0], {"mse": ((truths - middle) ** 2).mean(), "mae": abs(truths - middle).mean()}]


def test_an_unreadable_text_is_the_mid_range_chunk(tmp_path, demos):
    ((metrics, expected),) = on_ranks(unreadable, 1, tmp_path, demos)
    assert metrics["val/parse_rate"] == 0.0
    assert metrics["val/mse"] == pytest.approx(expected["mse"]) and metrics["val/mae"] == pytest.approx(expected["mae"])


def generators():
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


def untouched(rank, demos):
    torch.manual_seed(3)
    checks, cfg = validation(rank, demos, VALID__gen_samples=3, DATA__NUM_WORKERS=1)
    model = tiny_model(cfg)
    before = generators()
    measured = [(checks.loss(model, Precision("off", CPU)), checks.generate(model)[0]) for _ in range(2)]
    assert generators() == before
    return measured


def test_validation_repeats_itself_and_draws_from_no_generator(tmp_path, demos):
    ((first, second),) = on_ranks(untouched, 1, tmp_path, demos)
    assert first == second


def test_prompts_have_one_of_few_lengths_on_a_gpu(demos):
    lengths = {}
    for device in ("cpu", "cuda"):
        checks, _ = validation(Rank(0, 1, torch.device(device)), demos)
        lengths[device] = [checks._padded_length([{"input_ids": range(n)} for n in (3, size)]) for size in (5, 64, 65)]
    assert lengths == {"cpu": [None] * 3, "cuda": [64, 64, 128]}


def test_the_figure_needs_no_global_state():
    known = set(sys.modules)
    chunks = np.zeros((1, 1, 14))
    figure = chunk_figure(chunks, chunks + 1, ["demo_0"], np.zeros(14), np.zeros(14))
    assert len(figure.axes) == 14
    assert "matplotlib.pyplot" not in set(sys.modules) - known


def test_due_is_a_pure_function_of_the_step():
    def steps(every, per_epoch, total):
        return [step for step in range(1, total + 1) if due(step, every, per_epoch, total)]

    assert steps(1.0, 10, 35) == [10, 20, 30, 35]
    assert steps(2.0, 10.0, 40) == [20, 40]
    assert steps(0.5, 5, 10) == [3, 5, 8, 10]  # the first step at which half an epoch more is complete
    assert steps(0.01, 5, 4) == [1, 2, 3, 4]
    assert steps(1.0, 10 / 3, 12) == [4, 7, 10, 12]
    assert steps(5.0, 1000, 3) == [3]


def test_milestones_are_every_so_many_epochs_and_the_end():
    def links(every, per_epoch, total):
        cfg = tiny_cfg(TRAIN__save_every_epochs=every)
        named = {step: milestones(step, total, per_epoch, cfg) for step in range(1, total + 1)}
        return {step: names for step, names in named.items() if names}

    assert links(0, 4, 12) == {12: ["final"]}
    assert links(5, 2.5, 30) == {13: ["epoch_5"], 25: ["epoch_10"], 30: ["final"]}
    assert links(1, 10 / 3, 10) == {4: ["epoch_1"], 7: ["epoch_2"], 10: ["epoch_3", "final"]}
    assert links(1, 0.5, 2) == {1: ["epoch_2"], 2: ["epoch_4", "final"]}


def test_spread_is_even_and_never_twice_the_same():
    assert spread(10, 5) == [1, 3, 5, 7, 9]
    assert spread(3, 5) == [0, 1, 2]
    assert spread(1_000_000, 1) == [500_000]
    for whole, count in ((7, 3), (100, 33), (101, 100)):
        chosen = spread(whole, count)
        assert len(set(chosen)) == count and min(chosen) >= 0 and max(chosen) < whole
