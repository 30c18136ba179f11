"""ddp, zero1 and fsdp: the same training, held differently; saved, resumed, and gone on with in another way."""

import json
import shutil

import pytest
import torch

from rv_train import config_checks
from rv_train.checkpoint import find_damage, load_model_folder, load_trainer
from rv_train.parallel import PARALLEL, partition
from rv_train.shares import part_name
from rv_train.train import main
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ROOT, tiny_opts
from tools.compare_runs import compare_runs, read_curves, read_weights

RUN = {
    "TRAIN__max_steps": 4,
    "TRAIN__save_every": 2,
    "TRAIN__grad_accum": 2,
    "TRAIN__grad_checkpoint": True,
    "TRAIN__schedule": "none",
    "TRAIN__ema": 0.9,
    "DATA__VAL_SHARE": 0.5,
    "VALID__loss_every": 2.0,
    "VALID__gen_every": 2.0,
    "VALID__gen_samples": 3,
}


@pytest.fixture(scope="module")
def train(tmp_path_factory, forked_ranks):
    """Call it: (folder of runs, name, flags and keys of the run) → the run folder."""
    demos = tmp_path_factory.mktemp("demos") / "synthetic_demo.hdf5"
    write_synthetic_demo_file(demos, num_demos=2, num_frames=12, resolution=64, seed=0)

    def train(folder, name, *flags, nproc=2, **opts):
        opts = {**RUN, "EXP__DIR": str(folder), "EXP__ID": name, "DATA__FILES": [str(demos)], **opts}
        command = ["--cfg", str(ROOT / "configs/tiny.yaml"), "--nproc", str(nproc), *flags]
        with pytest.raises(SystemExit) as stopped:
            main([*command, *map(str, tiny_opts(**opts))])
        assert stopped.value.code == 0
        return folder / name

    return train


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """{kind: run folder}"""
    folder = tmp_path_factory.mktemp("runs")
    return {kind: train(folder, kind, TRAIN__PARALLEL=kind) for kind in PARALLEL}


def test_the_keys_are_the_kinds():
    assert tuple(PARALLEL) == config_checks.PARALLEL


def test_zero1_computes_the_numbers_of_ddp(runs):
    ddp, zero1 = (load_model_folder(runs[kind])[0].state_dict() for kind in ("ddp", "zero1"))
    assert ddp.keys() == zero1.keys() and all(torch.equal(value, zero1[name]) for name, value in ddp.items())
    assert read_curves(runs["ddp"]) == read_curves(runs["zero1"])


def test_fsdp_computes_them_up_to_the_order_of_sums(runs):
    ddp, fsdp = (read_curves(runs[kind]) for kind in ("ddp", "fsdp"))
    assert ddp.keys() == fsdp.keys()
    for tag in ("train/loss", "train/grad_norm", "val/loss"):
        for (step, value), (other, close) in zip(ddp[tag], fsdp[tag], strict=True):
            assert step == other and close == pytest.approx(value, rel=1e-5), tag
