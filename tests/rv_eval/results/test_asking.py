"""Tables of evaluations that asked other instructions than the tasks' own."""

import json

import pytest

from rv_eval.results.asking import asked_json, asked_tables
from rv_eval.results.records import ALL_OF_SUITE, wilson_interval
from rv_eval.results.report import write_report
from rv_eval.results.summary import gather
from rv_eval.results.summary_text import as_json, run_text
from tests.rv_eval.records import record, write

THINGS = {0: "drawer", 1: "bowl_1", 2: "bottle_1"}


def worded(init, success, axes, new_words=()):
    about = {"asked": f"wording {init}", "asked_task_id": 0, "axes": axes, "new_words": list(new_words)}
    return record(0, init, success, instructions="in the wordings of x 12", **about)


def crossed(start, asked, moved, reached, init=0, suite="libero_goal"):
    """moved: the thing that moved first; reached: tasks, in their order."""
    facts = {"asked_for": [THINGS[asked]], "first_moved": moved, "first_moved_step": moved and 9}
    facts["reached"] = [{"task_id": task_id, "step": 50} for task_id in reached]
    about = {"asked": f"do task {asked}", "asked_task_id": asked, "facts": facts, "instructions": ALL_OF_SUITE}
    return record(start, init, asked in reached, suite, **about)


MATRIX = [
    crossed(0, 0, "drawer", [0]),
    crossed(1, 1, "bowl_1", []),
    crossed(0, 1, "bowl_1", [1]),
    crossed(0, 1, "bottle_1", [2, 1], init=1),
    crossed(0, 2, "drawer", [0]),
    crossed(1, 0, None, []),
]


def row(table, name):
    return next(cells for block in table.blocks for cells in block if cells[0].strip().startswith(name))


def test_wordings_by_axis_and_by_words():
    records = [
        worded(0, True, ["object"]),
        worded(1, False, ["object", "action"], ["hob"]),
        worded(2, True, ["action"]),
        worded(3, False, []),
    ]
    (table,) = asked_tables(records)
    assert row(table, "object")[1:3] == row(table, "action")[1:3] == ("1/2", "50.0")
    assert row(table, "no axis given")[1] == "0/1" and row(table, "all")[1] == "2/4"
    assert row(table, "only words of training")[1] == "2/3" and row(table, "some new word")[1] == "0/1"
    assert not any(cells[0] == "place" for block in table.blocks for cells in block), "no wording differs there"
    found = asked_json(records)["wordings"]
    assert found["words"]["some new word"] == {
        "count": 0,
        "of": 1,
        "rate": 0.0,
        "interval": list(wilson_interval(0, 1)),
    }


def test_shares_of_the_matrix():
    found = asked_json(MATRIX)["reading"]["libero_goal"]
    assert found["own"]["first_moved"]["count"] == 2 and found["own"]["reached"]["count"] == 1
    other = found["other"]
    assert (other["first_moved"]["count"], other["first_moved"]["of"]) == (1, 4)
    assert other["first_moved"]["interval"] == list(wilson_interval(1, 4))
    assert other["reached"]["count"] == 2 and other["asked_first"]["count"] == 1
    assert (other["another_first"]["count"], other["none"]["count"]) == (2, 1)
    cell = found["cells"][1]
    assert (cell["start"], cell["asked"], cell["episodes"], cell["asked_moved_first"], cell["reached"]) == (
        0,
        1,
        2,
        1,
        2,
    )
    assert cell["first_moved"] == {"bottle_1": 1, "bowl_1": 1} and cell["first_reached"] == {"1": 1, "2": 1}
    assert json.loads(json.dumps(found)) == found


def test_tables_of_the_matrix():
    shares, things, goals, moved, reached = asked_tables(MATRIX)
    assert row(shares, "asked for another's")[1:4] == ("1/4", "25.0", "4.6-69.9")
    assert [" ".join(filter(None, column)) for column in zip(*things.header, strict=True)] == [
        "asked", "bottle 1", "bowl 1", "drawer", "nothing"
    ]  # fmt: skip
    assert [cells[1:] for cells in things.blocks[0]] == [
        ("·", "·", "·", "1"),
        ("1", "1", "·", "·"),
        ("·", "·", "1", "·"),
    ]
    assert things.asked == {(0, 3), (1, 2), (2, 1)} and things.shades[1, 2] == 0.5
    assert [cells[1:] for cells in goals.blocks[0]] == [
        ("·", "·", "·", "1"),
        ("·", "1", "1", "·"),
        ("1", "·", "·", "·"),
    ]
    assert [cells[1:] for cells in moved.blocks[0]] == [("1/1", "1/2", "0/1"), ("0/1", "1/1", "")]
    assert [cells[1:] for cells in reached.blocks[0]] == [("1/1", "2/2", "0/1"), ("0/1", "0/1", "")]
    assert moved.asked == {(0, 0 + 1), (1, 1 + 1)}
    assert "[1]" in things.text and max(map(len, things.text.splitlines())) <= 120


def test_starts_alone_have_no_table_of_others():
    assert len(asked_tables(MATRIX[:2])) == 3 and asked_tables([record()]) == [] and asked_json([record()]) == {}


def test_several_suites_are_told_apart():
    assert set(asked_json([*MATRIX, crossed(0, 0, "drawer", [], suite="libero_10")])["reading"]) == {
        "libero_goal",
        "libero_10",
    }


def test_text_json_and_page_of_a_run(tmp_path):
    run = gather([write(tmp_path / "results.jsonl", MATRIX)])
    assert "libero_goal: does it read?" in run_text(run) and "reading" in as_json(run)
    write_report(tmp_path / "report.html", run)
    page = (tmp_path / "report.html").read_text()
    assert (
        "libero_goal: moved first, where another&#x27;s goal is asked" in page
        and '<td class="shade2 asked">1</td>' in page
    )
    assert "style=" not in page.split("</style>")[1], "the page's security policy would not apply it"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"asked_task_id": None}, "facts is"),
        ({"asked": 3}, "asked is 3"),
        ({"facts": {"asked_for": ["a"], "first_moved": 3, "reached": []}}, "facts is"),
        ({"facts": {"asked_for": ["a"], "first_moved": None, "reached": [3]}}, "facts is"),
        ({"axes": [["object"]]}, "axes is"),
    ],
)
def test_damaged_results_are_named(tmp_path, change, message):
    write(tmp_path / "results.jsonl", [MATRIX[0] | change])
    with pytest.raises(ValueError, match=f"line 1 is not a result: {message}"):
        gather([tmp_path])
