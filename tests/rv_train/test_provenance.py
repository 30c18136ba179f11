"""run.json holds what somebody needs to repeat a run."""

import json

import pytest
import torch

from rv_train.distributed import Rank
from rv_train.provenance import write_run_json
from tests.tiny import tiny_cfg, tiny_model

CPU = torch.device("cpu")


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
