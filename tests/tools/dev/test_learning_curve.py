"""The figures and the picture of what a policy learns from how many samples."""

import json

import pytest
from torch.utils.tensorboard import SummaryWriter

from tools.dev import learning_curve


@pytest.fixture
def run(tmp_path):
    """A run of 8 samples a step: its loss falls by one at each of 400 steps, and is validated twice."""
    folder = tmp_path / "run"
    with SummaryWriter(str(folder)) as writer:
        for step in range(1, 401):
            writer.add_scalar("train/loss", 400 - step, step)
        for step in (200, 400):
            writer.add_scalar("val/loss", step / 2, step)
    (folder / "run.json").write_text(json.dumps({"global_batch_size": 8}))
    return folder


def evaluation(folder, step, suite, solved):
    folder.mkdir()
    lines = [
        json.dumps({"model_folder": f"/elsewhere/{step}/model", "suite": suite, "success": success})
        for success in solved
    ]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_figures_and_picture(run, tmp_path, capsys, monkeypatch):
    folders = [
        evaluation(tmp_path / "a", "step_00000200", "libero_object", [True, False]),
        evaluation(tmp_path / "b", "step_00000400", "libero_object", [True, True]),
        evaluation(tmp_path / "c", "step_00000200", "libero_object", [True]),  # of the same step: counted together
        evaluation(tmp_path / "d", "step_00000200", "libero_goal", [False]),
    ]
    out, figure = tmp_path / "curve.json", tmp_path / "curve.png"
    words = ["learning_curve", run, *folders, "--out", out, "--figure", figure]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    learning_curve.main()
    curve = json.loads(out.read_text())
    assert curve["success"] == [
        {"samples": 1600, "suite": "libero_goal", "successes": 0, "episodes": 1},
        {"samples": 1600, "suite": "libero_object", "successes": 2, "episodes": 3},
        {"samples": 3200, "suite": "libero_object", "successes": 2, "episodes": 2},
    ]
    assert curve["losses"]["val/loss"] == [[1600, 100], [3200, 200]]
    train = curve["losses"]["train/loss"]  # two steps at a time
    assert len(train) == 200 and train[0] == [16, 398.5] and train[-1] == [3200, 0.5]
    assert "   1600   libero_object   2/3  21-94 %" in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_what_is_no_run_and_no_step_is_refused(run, tmp_path):
    with pytest.raises(learning_curve.BadInput, match=r"elsewhere is no run: it has no run\.json"):
        learning_curve.learning_curve(tmp_path / "elsewhere", [])
    with pytest.raises(learning_curve.BadInput, match="none holds no results"):
        learning_curve.learning_curve(run, [tmp_path / "none"])
    shipped = evaluation(tmp_path / "shipped", "libero_small", "libero_goal", [True])
    with pytest.raises(learning_curve.BadInput, match=r"shipped: played with .* names no step of a run"):
        learning_curve.learning_curve(run, [shipped])
