"""tools/eval_stack.py, and the environment behind it. For what it shares with eval_libero see test_eval_libero.py."""

import json

import numpy as np
import pytest

from libs.stack_sim import VIEWS, StackEnv, StackTask, init_seed
from libs.stack_sim.expert import stack_actions
from rv_eval.envs.base import Episode
from rv_eval.envs.stack import StackEnvironment
from tests.tiny import make_tiny_checkpoint
from tools.eval_stack import main
from tools.summarize_eval import main as summarize

LAYOUT = {"DATA__KEY_MAP": "isaac_cosmos", "DATA__VIEWS": list(VIEWS)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("run"), **LAYOUT)


def refused(arguments, capsys):
    """The one line on stderr of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


def test_wrong_input_is_one_line(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model_path", str(run)]
    assert "50 init states" in refused([*arguments, "--episodes", "51"], capsys)
    assert "render setting 'fast'" in refused([*arguments, "--render", "standard"], capsys)
    assert "--device is decided" in refused(["--model_path", "ws://127.0.0.1:9", "--device", "cpu"], capsys)
    libero = make_tiny_checkpoint(tmp_path / "libero")
    assert "agentview" in refused(["--model_path", str(libero)], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["libero"], "nothing half-written"


@pytest.mark.sim
@pytest.mark.libero  # whose version a result tells
def test_an_episode_in_the_simulator(run, tmp_path, capsys):
    arguments = ["--model_path", str(run), "--episodes", "1", "--num_steps", "5", "--log_dir", str(tmp_path / "log")]
    main([*arguments, "--save_all_data"])
    (line,) = (tmp_path / "log" / "results.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["suite"], record["task_id"], record["init_state"]) == ("stack", 0, 0)
    assert (record["success"], record["steps"], record["incidents"]) == (False, 5, 0)
    assert record["instruction"] == StackTask().instruction and record["versions"]["robosuite"] == "1.4.0"
    assert (tmp_path / "log" / record["video"]).is_file() and (tmp_path / "log" / record["data"]).is_file()
    summarize([str(tmp_path / "log")])
    printed = capsys.readouterr().out
    assert "LIBERO" not in printed and printed.count("not a stack result: a step limit") == 2
    assert "stack the red cube" in (tmp_path / "log" / "report.html").read_text()


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_an_init_state_is_a_reset_of_its_own_seed():
    """Through the process, the expert's actions bring what they brought here, whatever the episode's seed is."""
    env = StackEnv(StackTask(), resolution=64, render="fast")
    try:
        env.reset(init_seed(3), ())
        seen, actions = [env.settle()], []
        for action in stack_actions(env):
            actions.append(action)
            observation, success = env.step(action)
            if success:
                break
        seen.append(observation)
    finally:
        env.close()
    remote = StackEnvironment(StackTask(), 64, "fast")
    try:
        remote.begin(Episode(StackTask(), init_state=3, seed=123, max_steps=300, num_settle_steps=10), VIEWS)
        for action in actions:
            remote.act(action, ())
        replies = [remote.receive() for _ in range(2 + len(actions))][1:]  # the reset's answer says nothing
    finally:
        remote.close()
    assert [reply.success for reply in replies] == [False] * len(actions) + [True]
    for reply, expected in zip((replies[0], replies[-1]), seen, strict=True):
        for part, values in expected["proprio"].items():
            np.testing.assert_array_equal(reply.observation["proprio"][part], values)
    for view in VIEWS:
        np.testing.assert_array_equal(replies[0].observation["views"][view], seen[0]["views"][view])
