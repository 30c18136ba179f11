import json

import pytest
import torch

from tools.dev import benchmark


def test_a_batch_beside_one_sample_after_another(tmp_path, capsys):
    out = tmp_path / "result.json"
    benchmark.main(["backbone", "--sizes", "tiny", "--batch", "3", "--rounds", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    (row,) = result["rows"]
    assert result["problems"] == [] and 0 < row["largest_difference"] < 1e-4
    assert len(row["ratios"]) == 2 and row["single_ms"] / row["batch_ms"] == pytest.approx(row["ratio"])
    assert "cpu, float32, 3 samples" in capsys.readouterr().out


def test_other_hidden_states_are_noticed(capsys, monkeypatch):
    from rv_train.backbones import running

    def shifted(family, backbone, batch, prompt):
        return hidden_states(family, backbone, batch, prompt) + 0.1 * (len(batch["lengths"]) > 1)

    hidden_states = running.hidden_states
    monkeypatch.setattr(running, "hidden_states", shifted)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["backbone", "--sizes", "tiny", "--batch", "3", "--rounds", "1"])
    assert stopped.value.code == 1 and "tiny: hidden states differ by" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_said(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["backbone", "--device", "cuda"])
    assert stopped.value.code == 2 and "there is no GPU here" in capsys.readouterr().err
