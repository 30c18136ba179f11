"""tools/eval_reading.py, and --wordings of the other evaluations."""

import argparse
import json

import pytest

from rv_eval.envs import SIMULATORS
from rv_eval.envs.libero_reading import ReadingSimulator
from rv_train.checkpoint import save_model_folder
from rv_train.policies import build_encoder, build_policy
from tests.tiny import ACTION_STATS, tiny_cfg
from tools.eval_env import main as evaluate
from tools.eval_reading import main
from tools.summarize_eval import main as summarize


def chosen(*words):
    simulator, parser = ReadingSimulator(), argparse.ArgumentParser()
    simulator.add_task_arguments(parser.add_argument)
    starts = simulator.choose_tasks(parser.parse_args(["--task_suite", *words]))
    return {start.task_id: [request.task_id for request in simulator.requests(start)] for start in starts}


def refused(main, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.libero
def test_what_is_asked_where():
    assert chosen("libero_goal") == {start: list(range(10)) for start in range(10)}
    assert chosen("libero_goal", "--start_ids", "3", "0", "--asked_ids", "7", "1") == {0: [1, 7], 3: [1, 7]}
    assert chosen("libero_spatial", "--start_ids", "0", "1") == {0: [0, 1], 1: [1, 6]}


@pytest.mark.libero
def test_wrong_input_is_one_line(capsys):
    arguments = ["--model_path", "nowhere", "--task_suite"]
    assert "none of --asked_ids can be asked" in refused(
        main, [*arguments, "libero_spatial", "--start_ids", "0", "--asked_ids", "9"], capsys
    )
    assert "unknown task id 10" in refused(main, [*arguments, "libero_goal", "--asked_ids", "10"], capsys)
    assert "51 episodes asked for" in refused(main, [*arguments, "libero_goal", "--episodes", "51"], capsys)
    assert "unrecognized arguments: --wordings" in refused(main, [*arguments, "libero_goal", "--wordings", "x"], capsys)


@pytest.mark.sim
@pytest.mark.libero
def test_two_cells_in_the_simulator(tmp_path, capsys):
    cfg = tiny_cfg()
    model = build_policy(cfg, build_encoder(cfg, ACTION_STATS)).eval()
    folder = tmp_path / "run" / "model"
    save_model_folder(folder, model, cfg, ACTION_STATS, {"render": "fast", "resolution": 32})
    arguments = [
        "--model_path",
        str(folder),
        "--task_suite",
        "libero_goal",
        "--start_ids",
        "7",
        "--asked_ids",
        "7",
        "8",
    ]
    arguments += ["--episodes", "1", "--num_steps", "3", "--log_dir", str(tmp_path / "log")]
    main(arguments)
    printed = capsys.readouterr().out
    assert "libero_goal 7 init 0, 'put the bowl on the plate': FAILURE after   3 steps" in printed
    assert "libero_goal: does it read?" in printed and "asked for another's" in printed
    records = [json.loads(line) for line in (tmp_path / "log" / "results.jsonl").read_text().splitlines()]
    found = {record["asked_task_id"]: record["facts"]["asked_for"] for record in records}
    assert found == {7: ["flat_stove_1"], 8: ["akita_black_bowl_1"]}
    summarize([str(tmp_path / "log"), "--json", str(tmp_path / "numbers.json")])
    cells = json.loads((tmp_path / "numbers.json").read_text())["reading"]["libero_goal"]["cells"]
    assert [(cell["start"], cell["asked"], cell["first_moved"]) for cell in cells] == [
        (7, 7, {"nothing": 1}),
        (7, 8, {"nothing": 1}),
    ]


def test_wordings_of_any_simulator(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SIMULATORS, "toy", "tests.rv_eval.envs.toy:ToySimulator")
    cfg = tiny_cfg(ACTION__DIM=4, DATA__VIEWS=["front"], ACTION__HORIZON=2)
    stats = {name: value[:4] if isinstance(value, list) else value for name, value in ACTION_STATS.items()}
    model, folder = build_policy(cfg, build_encoder(cfg, stats)).eval(), tmp_path / "run" / "model"
    save_model_folder(folder, model, cfg, stats, {"render": "plain", "resolution": 32})
    texts = [
        {"text": "grab the ball", "axes": ["action"]},
        {"text": "close the hand at the sphere", "axes": ["object"]},
    ]
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"close the hand at the ball": texts}))
    arguments = ["--env", "toy", "--model_path", str(folder), "--hurry", "--episodes", "4", "--save_video", "none"]
    arguments += ["--log_dir", str(tmp_path / "log"), "--wordings", str(file)]
    evaluate(arguments)
    printed = capsys.readouterr().out
    assert "Other wordings" in printed and "some new word" in printed and "in the wordings of some.json" in printed
    records = [json.loads(line) for line in (tmp_path / "log" / "results.jsonl").read_text().splitlines()]
    assert {record["init_state"]: record["asked"] for record in records} == {n: texts[n % 2]["text"] for n in range(4)}
    assert {tuple(record["new_words"]) for record in records} == {(), ("sphere",)}, "training grabs"
    evaluate([*arguments, "--skip_evaluated"])
    assert "4 of 4 episodes are in" in capsys.readouterr().out
    file.write_text(json.dumps({"do something": texts}))
    message = refused(evaluate, [*arguments, "--skip_evaluated"], capsys)
    assert "has no wordings of 'close the hand at the ball'" in message
