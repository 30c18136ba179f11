"""run.json holds what somebody needs to repeat a run."""

import json
import subprocess

import pytest
import torch

from rv_train import provenance
from rv_train.distributed import Rank
from rv_train.provenance import git_commit, write_run_json
from tests.tiny import tiny_cfg, tiny_model

CPU = torch.device("cpu")


def test_the_commit_is_that_of_this_code_not_of_a_project_that_it_is_installed_in(tmp_path, monkeypatch):
    def git(*args):
        name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *name, *args], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    installed = tmp_path / "site-packages/rv_train/provenance.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    (tmp_path / "theirs.py").write_text("")
    git("init")
    git("add", "theirs.py")
    git("commit", "-m", "a project")
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert git_commit() is None
    git("add", "--force", "site-packages")
    git("commit", "-m", "a copy that is kept with it")
    assert git_commit() == git("rev-parse", "HEAD").strip()
    installed.write_text("changed")
    assert git_commit() == git("rev-parse", "HEAD").strip() + "+"


def test_run_json_tells_how_to_repeat_a_run(tmp_path):
    cfg, info = (
        tiny_cfg(TRAIN__lr=1e-5, TRAIN__scale_lr=True, TRAIN__grad_accum=3),
        {"fingerprint": "f", "num_clipped": 2},
    )
    model = tiny_model(cfg)
    model.backbone.lm_head.weight.requires_grad_(False)
    write_run_json(tmp_path, cfg, Rank(0, 4, CPU), info, model, start_step=0)
    run = json.loads((tmp_path / "run.json").read_text())
    total = sum(p.numel() for p in model.parameters())
    frozen = model.backbone.lm_head.weight.numel()
    assert run["parameters"] == {"total": total, "trainable": total - frozen}
    assert (run["world_size"], run["global_batch_size"], run["lr"]) == (4, 24, pytest.approx(4e-5))
    assert run["precision"] == {"amp": "off", "parameters": "float32"} and run["device"] == "cpu"
    assert run["data"] == info and run["data_fingerprint"] == "f" and run["seed"] == 0 and run["versions"]["torch"]
    for step in (5, 9):
        write_run_json(tmp_path, cfg, Rank(0, 2, CPU), {"fingerprint": "g"}, model, start_step=step)
    again = json.loads((tmp_path / "run.json").read_text())
    resumed = again.pop("resumed")
    assert {**again, "resumed": []} == run
    assert [(r["step"], r["world_size"], r["data_fingerprint"]) for r in resumed] == [(5, 2, "g"), (9, 2, "g")]
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
