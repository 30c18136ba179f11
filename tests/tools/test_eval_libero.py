import json
import shutil
from pathlib import Path

import imageio
import pytest

from tests.tiny import make_tiny_checkpoint
from tools.eval_libero import main, run_name

SUITE = ["--task_suite", "libero_object"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(
    "path, name",
    [
        ("checkpoints/quickstart", "quickstart"),
        ("checkpoints/vla0/step_00001234", "vla0"),
        ("checkpoints/vla0/step_00001234/model", "vla0"),
        ("checkpoints/vla0/last/model", "vla0"),
    ],
)
def test_run_name(path, name):
    assert run_name(path) == name


@pytest.mark.sim
def test_an_episode_in_the_simulator(run, tmp_path, capsys):
    arguments = ["--model_path", str(run), *SUITE, "--task_id", "5", "--log_dir", str(tmp_path)]
    arguments += ["--num_steps", "5", "--episodes", "1"]
    main(arguments)
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["suite"], record["task_id"], record["init_state"]) == ("libero_object", 5, 0)
    assert (record["success"], record["steps"], record["queries"]) == (False, 5, 3)
    assert record["render"] == "fast" and record["versions"]["mujoco"] == "2.3.7"
    assert record["gl_backend"] and record["incidents"] == 0
    frames = imageio.mimread(record["video"], memtest=False)
    assert Path(record["video"]).name.endswith("_init000_failure.mp4") and frames[0].std() > 10
    printed = capsys.readouterr().out
    assert "0/1" in printed and "not a LIBERO result" in printed and str(tmp_path / "videos") in printed
    # The same command again: refused; with --skip_evaluated there is nothing left to do.
    assert "--skip_evaluated" in refused(arguments, capsys)
    main([*arguments, "--skip_evaluated"])
    assert (tmp_path / "results.jsonl").read_text().splitlines() == [line]


def refused(arguments, capsys):
    """The one line on stderr of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert len(printed.err.splitlines()) == 1 and printed.err.startswith("error: ")
    return printed.err


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--task_suite", "libero_objekt"], "libero_objekt"),
        ([*SUITE, "--task_id", "10"], "unknown task id 10"),
        ([*SUITE, "--episodes", "51"], "50 init states"),
        ([*SUITE, "--action_horizon", "3"], "action horizon 3"),
        ([*SUITE, "--ensemble_prediction", "2"], "no overlap"),
        ([*SUITE, "--num_envs", "0"], "num_envs"),
        ([*SUITE, "--video_every", "0"], "video frames"),
        ([*SUITE, "--render", "standard"], "render setting 'fast'"),
        ([*SUITE, "--device", "nonsense"], "nonsense"),
    ],
)
def test_wrong_input_is_one_line(run, tmp_path, monkeypatch, capsys, extra, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(["--model_path", str(run), *extra], capsys)
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_checkpoints_that_cannot_be_used_are_one_line(run, tmp_path, capsys):
    assert "does not exist" in refused(["--model_path", str(tmp_path / "no"), *SUITE], capsys)
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "last" / "model" / "action_stats.json").unlink()
    assert "action_stats.json" in refused(["--model_path", str(copy), *SUITE], capsys)
