import json
import shutil
from importlib.metadata import version

import imageio
import pytest

from rv_eval.agent import AgentSettings
from rv_eval.envs.libero import LiberoSimulator, select_tasks
from rv_eval.policy import Policy
from tests.tiny import make_tiny_checkpoint
from tools.eval_libero import main
from tools.evaluation import agent_settings, parse_args, run_name

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
@pytest.mark.libero
def test_an_episode_in_the_simulator(run, tmp_path, capsys):
    arguments = ["--model_path", str(run), *SUITE, "--task_ids", "5", "--log_dir", str(tmp_path)]
    arguments += ["--num_steps", "5", "--episodes", "1"]
    main(arguments)
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["suite"], record["task_id"], record["init_state"]) == ("libero_object", 5, 0)
    assert (record["success"], record["steps"], record["queries"]) == (False, 5, 3)
    assert record["render"] == "fast" and record["versions"]["mujoco"] == version("mujoco")
    assert record["gl_backend"] and record["incidents"] == 0
    frames = imageio.mimread(tmp_path / record["video"], memtest=False)
    assert "_init000_failure_" in record["video"] and frames[0].std() > 10
    printed = capsys.readouterr().out
    assert "0/1" in printed and "not a LIBERO result" in printed and str(tmp_path / "videos") in printed
    # The same command again: refused; with --skip_evaluated there is nothing left to do.
    assert "--skip_evaluated" in refused(arguments, capsys)
    main([*arguments, "--skip_evaluated"])
    assert (tmp_path / "results.jsonl").read_text().splitlines() == [line]


@pytest.mark.libero
def test_suites_and_tasks_are_selected_in_order_and_once():
    tasks = select_tasks(["all"])
    assert [task.suite for task in tasks[::10]] == ["libero_spatial", "libero_object", "libero_goal", "libero_10"]
    assert len(tasks) == 40 and sum(task.num_init_states for task in tasks) == 2000
    tasks = select_tasks(["libero_goal", "libero_goal_swap", "libero_goal"], [3, 1, 3])
    assert [(task.suite, task.task_id) for task in tasks] == [
        ("libero_goal", 1),
        ("libero_goal", 3),
        ("libero_goal_swap", 1),
        ("libero_goal_swap", 3),
    ]
    names = ["open_the_middle_drawer_of_the_cabinet", "pick_up_the_milk_and_place_it_in_the_basket"]
    assert [task.name for task in select_tasks(["libero_object", "libero_goal"], task_names=names)] == names[::-1]


def test_the_preset_of_a_recipe_holds_where_nothing_else_is_said(tmp_path):
    preset = {"EVAL__ACTION_HORIZON": 1, "EVAL__ENSEMBLE_PREDICTION": 2, "EVAL__ENSEMBLE_WEIGHT": 1.0}
    policy = Policy.from_checkpoint(make_tiny_checkpoint(tmp_path, **preset))
    assert policy.preset == AgentSettings(1, 2, 1, 1.0)
    arguments = ["--model_path", "x", *SUITE]

    def settings(*given):
        return agent_settings(parse_args(LiberoSimulator(), "", [*arguments, *given]), policy.preset)

    assert settings() == policy.preset
    given = ["--action_horizon", "0", "--ensemble_prediction", "1", "--ensemble_version", "2"]
    assert settings(*given) == AgentSettings(0, 1, 2, 1.0)


def refused(arguments, capsys):
    """The one line on stderr of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert len(printed.err.splitlines()) == 1 and printed.err.startswith("error: ")
    return printed.err


@pytest.mark.libero
@pytest.mark.parametrize(
    "extra, message",
    [
        (["--task_suite", "libero_objekt"], "libero_objekt"),
        ([*SUITE, "--task_ids", "10"], "unknown task id 10"),
        ([*SUITE, "--episodes", "51"], "50 init states"),
        ([*SUITE, "--action_horizon", "3"], "action horizon 3"),
        ([*SUITE, "--ensemble_prediction", "2"], "no overlap"),
        ([*SUITE, "--num_envs", "0"], "num_envs"),
        ([*SUITE, "--video_every", "0"], "video frames"),
        ([*SUITE, "--render", "standard"], "render setting 'fast'"),
        ([*SUITE, "--device", "nonsense"], "nonsense"),
        ([*SUITE, "--task_names", "open_the_door"], "unknown task 'open_the_door' of libero_object: there are pick_up"),
        ([*SUITE, "--task_names", "open_the_door", "--task_ids", "1"], "--task_ids and --task_names"),
        ([*SUITE, "--shard_id", "8", "--num_shards", "8"], "shard 8 of 8: shards are numbered 0 to 7"),
        ([*SUITE, "--recycle_after", "0"], "at least 1 episode"),
        ([*SUITE, "--timeout", "nan"], "more than 0 s, got nan"),
        ([*SUITE, "--seed", "-1"], "seed must be from 0 to 4294967295, got -1"),
        ([*SUITE, "--generate_temperature", "-1"], "temperature"),
        ([*SUITE, "--api_key_file", "key"], "--api_key_file is for a served policy"),
        ([*SUITE, "--model_path", "ws://127.0.0.1:9", "--device", "cpu"], "--device is decided where the policy is"),
    ],
)
def test_wrong_input_is_one_line(run, tmp_path, monkeypatch, capsys, extra, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(["--model_path", str(run), *extra], capsys)
    assert not list(tmp_path.iterdir()), "nothing half-written"


@pytest.mark.libero
def test_checkpoints_that_cannot_be_used_are_one_line(run, tmp_path, capsys):
    assert "does not exist" in refused(["--model_path", str(tmp_path / "no"), *SUITE], capsys)
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "last" / "model" / "action_stats.json").unlink()
    assert "action_stats.json" in refused(["--model_path", str(copy), *SUITE], capsys)
