"""tools/eval_env.py: a simulator that is one line in the registry goes all the way, from the command to the report."""

import json

import h5py
import imageio.v2 as imageio
import numpy as np
import pytest

from rv_eval.envs import SIMULATORS
from rv_train.checkpoint import save_model_folder
from rv_train.policies import build_encoder, build_policy
from tests.tiny import ACTION_STATS, tiny_cfg
from tools.eval_env import main
from tools.summarize_eval import main as summarize


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(SIMULATORS, "toy", "tests.rv_eval.envs.toy:ToySimulator")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random policy of four numbers that looks at one camera."""
    cfg = tiny_cfg(ACTION__DIM=4, DATA__VIEWS=["front"], ACTION__HORIZON=2)
    stats = {name: value[:4] if isinstance(value, list) else value for name, value in ACTION_STATS.items()}
    model = build_policy(cfg, build_encoder(cfg, stats)).eval()
    folder = tmp_path_factory.mktemp("run") / "toy_run" / "model"
    save_model_folder(folder, model, cfg, stats, {"render": "dark", "resolution": 32})
    return folder


def refused(arguments, capsys):
    """What a command that ends with exit code 2 says."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.slow
def test_a_toy_simulator_from_the_command_to_the_report(model, tmp_path, capsys):
    log = tmp_path / "log"
    arguments = ["--env", "toy", "--model_path", str(model), "--hurry", "--episodes", "3", "--num_envs", "2"]
    arguments += ["--log_dir", str(log), "--video_every", "1", "--save_all_data"]
    main(arguments)
    records = [json.loads(line) for line in (log / "results.jsonl").read_text().splitlines()]
    assert sorted(record["init_state"] for record in records) == [0, 1, 2]
    for record in records:
        assert (record["suite"], record["max_steps"], record["num_settle_steps"]) == ("toy", 6, 0)
        assert record["environment"] == {
            "name": "toy",
            "benchmark": "toy",
            "actions": [
                {"name": "position", "size": 3, "levels": None},
                {"name": "gripper", "size": 1, "levels": None},
            ],
            "control_hz": 5,
            "reported_render": "plain",
        }
        assert 0.0 <= record["facts"]["nearest"] <= 1.0, "what the simulator told last"
        assert record["simulator_packages"] == ["toy"] and record["versions"]["toy"] == "1.0"
        with imageio.get_reader(log / record["video"]) as video:
            assert video.get_meta_data()["fps"] == pytest.approx(5), "five steps are a second"
        with h5py.File(log / record["data"]) as file:
            actions, chunks = file["actions"][:], file["chunks"][:]
            assert actions.shape == (record["steps"], 4) and file["proprio/hand"].shape == (record["steps"] + 1, 3)
            np.testing.assert_array_equal(actions, chunks.reshape(-1, 4)[: len(actions)], "no number is snapped")
            assert json.loads(file.attrs["record"])["environment"]["control_hz"] == 5
    assert "not a toy result: pictures of render setting dark" in capsys.readouterr().out
    main([*arguments, "--skip_evaluated"])
    assert "3 of 3 episodes are in" in capsys.readouterr().out
    summarize([str(log)])
    printed = capsys.readouterr().out
    for text in (printed, (log / "report.html").read_text()):
        assert "close the hand at the ball" in text and "not a toy result" in text and "LIBERO" not in printed


def test_other_versions_of_its_packages_are_another_measurement(model, tmp_path, capsys, monkeypatch):
    arguments = ["--env", "toy", "--model_path", str(model), "--episodes", "1", "--save_video", "none"]
    arguments += ["--log_dir", str(tmp_path / "log")]
    main(arguments)
    monkeypatch.setattr("tests.rv_eval.envs.toy.ToySimulator.versions", lambda self: {"toy": "2.0"})
    main(arguments)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        summarize([str(tmp_path / "log")])
    assert stop.value.code == 2 and "versions.toy=2.0" in capsys.readouterr().err
    summarize([str(tmp_path / "log"), "--only", "versions.toy=2.0"])


def test_help_is_that_of_the_simulator(model, tmp_path, capsys):
    known = ", ".join(SIMULATORS)
    for arguments, told in ((["--help"], known), (["--env=toy", "--help"], "5 steps are a second")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        printed = " ".join(capsys.readouterr().out.split())
        assert stop.value.code == 0 and told in printed
    assert "--hurry" in printed and "[--task_suite" not in printed
    assert f"unknown environment 'toys': there are {known}" in refused(["--env", "toys"], capsys)
    assert "--env" in refused([], capsys)
    assert "render setting 'dark'" in refused(["--env", "toy", "--model_path", str(model), "--render", "plain"], capsys)
