"""The experts' table: what is kept of it, what is still missing, and what a row says."""

import json

import numpy as np
import pytest

from libs.errors import BadInput
from libs.libero_sim.suites import LiberoTask
from tools.dev.check_experts import Results, main, summarize, table, write_sheet

TASK = LiberoTask("libero_spatial", 0, "put_it_there", "put it there", "", 220, 50)
OTHER = LiberoTask("libero_goal", 8, "and_back", "and back", "", 300, 50)
KEY = TASK.suite, TASK.task_id


def episode(seed, success=True, steps=70, speed=0.3, depth=1.0):
    return {
        "seed": seed,
        "success": success,
        "steps": steps,
        "object_speed": speed,
        "fastest_object": "bowl",
        "hand_speed": 0.4,
        "penetration_mm": depth,
        "deepest_pair": ["bowl", "finger"],
    }


def test_a_row_counts_successes_and_names_the_worst_of_all_episodes():
    episodes = [episode(1, steps=90), episode(0, steps=70), episode(2, success=False, steps=220, speed=1.4, depth=6.0)]
    row = summarize(TASK, episodes)
    assert (row["successes"], row["resets"], row["failed_seeds"]) == (2, 3, [2])
    assert (row["mean_steps"], row["min_steps"], row["max_steps"]) == (80.0, 70, 90)
    assert (row["object_speed"], row["penetration_mm"]) == (1.4, 6.0), "a failure's motions count, too"
    line = table([row]).splitlines()[-1]
    assert "2/3" in line and "1.40" in line and "6.0 bowl - finger" in line
    assert summarize(TASK, [episode(0, success=False)])["mean_steps"] is None


@pytest.mark.libero
def test_a_table_continues_where_it_stands_and_keeps_other_tasks(tmp_path):
    path = tmp_path / "table.json"
    first = Results(path, [OTHER], range(2))
    first.add((OTHER.suite, OTHER.task_id), episode(0))
    results = Results(path, [TASK], range(3))
    assert results.missing(KEY) == [0, 1, 2]
    results.add(KEY, episode(1))
    again = Results(path, [TASK], range(3))
    assert again.missing(KEY) == [0, 2] and [row["resets"] for row in again.rows] == [1]
    assert [row["task_suite"] for row in json.loads(path.read_text())["tasks"]] == [TASK.suite, OTHER.suite]


@pytest.mark.parametrize("content", ["", "[]", '{"tasks": [{"task_id": 0, "resets": 20}]}'])
def test_a_file_that_is_no_such_table_is_not_overwritten(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(BadInput, match="no table of this command"):
        Results(path, [TASK], range(3))
    assert path.read_text() == content


def test_pictures_come_in_rows(tmp_path):
    import imageio.v3 as imageio

    pictures = [np.full((4, 4, 3), 10 * i, np.uint8) for i in range(16)]
    write_sheet(tmp_path / "sheet.png", pictures)
    sheet = imageio.imread(tmp_path / "sheet.png")
    assert sheet.shape == (8, 32, 3)
    assert sheet[4, 4, 0] == 90 and sheet[0, 28, 0] == 70


@pytest.mark.parametrize("wrong", [["--resets", "0"], ["--workers", "0"], ["--seed", "-1"]])
def test_numbers_that_make_no_sense_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--task_suite", "libero_goal", *wrong])
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err
