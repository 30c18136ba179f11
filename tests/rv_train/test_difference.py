"""Two runs: one flipped bit anywhere in a run folder is found and named."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard import SummaryWriter

from rv_train.checkpoint import load_trainer
from rv_train.difference import compare_runs
from tools.compare import main

TRAINER = "step_00000004/trainer.pt"
WEIGHT = torch.arange(6, dtype=torch.float32).reshape(2, 3)


def write_run(run, lr=0.5):
    for step in (2, 4):
        folder = run / f"step_{step:08d}"
        (folder / "model").mkdir(parents=True)
        save_file({"a": WEIGHT, "b": WEIGHT + step}, folder / "model/model.safetensors")
        optimizer = {"state": {0: {"exp_avg": WEIGHT / 3}}, "param_groups": [{"lr": lr, "params": [0]}]}
        torch.save({"step": step, "optimizer": optimizer, "best": (float("nan"), 2)}, folder / "trainer.pt")
        (folder / "complete").write_text("{}")
    (run / "last").symlink_to("step_00000004")
    (run / "best").symlink_to("step_00000002")
    with SummaryWriter(run) as writer:
        for step in range(1, 5):
            writer.add_scalar("train/loss", 1 / step, step)
            writer.add_scalar("speed/samples_per_s", 7 * lr, step)


@pytest.fixture
def runs(tmp_path):
    for name in ("first", "second"):
        write_run(tmp_path / name)
    return tmp_path / "first", tmp_path / "second"


def flip_a_weight(run):
    path = run / "step_00000002/model/model.safetensors"
    tensors = load_file(path)
    tensors["b"][1, 2] = torch.nextafter(tensors["b"][1, 2], torch.tensor(100.0))
    save_file(tensors, path)


def change_trainer(change):
    def apply(run):
        trainer = load_trainer(run / "step_00000004")
        change(trainer)
        torch.save(trainer, run / "step_00000004/trainer.pt")

    return apply


def negative_zero(trainer):
    trainer["optimizer"]["state"][0]["exp_avg"][0, 0] *= -1  # 0.0 == -0.0, but not bit by bit


def log_more(run):
    with SummaryWriter(run) as writer:
        writer.add_scalar("train/loss", 0.1, 5)


def point_best_elsewhere(run):
    (run / "best").unlink()
    (run / "best").symlink_to("step_00000004")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip_a_weight, "step_00000002/model b: tensors differ, by up to 4.77e-07"),
        (
            change_trainer(negative_zero),
            "step_00000004/trainer.pt optimizer state 0 exp_avg: tensors differ, by up to 0",
        ),
        (change_trainer(lambda t: t.update(step=5)), f"{TRAINER} step: 4 and 5"),
        (change_trainer(lambda t: t.pop("best")), f"{TRAINER} best: only in the first run"),
        (change_trainer(lambda t: t.update(step=4.0)), f"{TRAINER} step: int and float"),
        (log_more, "curve train/loss: 4 and 5 entries"),
        (point_best_elsewhere, "run folder best: 'step_00000002' and 'step_00000004'"),
        (lambda run: shutil.rmtree(run / "step_00000002"), "run folder step_00000002: only in the first run"),
    ],
)
def test_a_difference_is_named(runs, change, said, capsys):
    change(runs[1])
    assert said in compare_runs(*runs)
    with pytest.raises(SystemExit, match="1"):
        main([str(run) for run in runs])
    assert said in capsys.readouterr().out


def test_identical_runs(runs, capsys):
    """Speeds differ, times differ, NaN is NaN."""
    shutil.rmtree(runs[1])
    write_run(runs[1])
    assert compare_runs(*runs) == []
    main([str(run) for run in runs])
    assert capsys.readouterr().out == "identical: step_00000002, step_00000004; curves train/loss\n"


def test_a_folder_without_checkpoints_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="has no complete checkpoint"):
        compare_runs(runs[0], tmp_path)
