"""tools/compare_evals.py: equal whatever the shards, different whatever differs."""

import pytest

from tests.rv_eval.records import plan, record, write
from tools.compare_evals import main


@pytest.fixture
def one_run(tmp_path):
    return write(tmp_path / "one/results.jsonl", [record(init_state=i, success=i != 2) for i in range(4)])


def sharded(folder, **changes):
    """The same four episodes in two shards, in another order; changes: of episode 3."""
    for shard in range(2):
        lines = [record(init_state=i, success=i != 2, shard_id=shard, num_shards=2, incidents=1) for i in (3, 2, 1, 0)]
        lines[0] |= changes
        write(folder / f"results_{shard:03d}_of_002.jsonl", lines[shard::2])
    return folder


def test_shards_equal_one_run(one_run, tmp_path, capsys):
    main([str(one_run), str(sharded(tmp_path / "shards"))])
    assert capsys.readouterr().out == "equal: libero_goal 0: init 0-3\n"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 104}, "libero_goal 0: init 3: steps: 103 and 104"),
        ({"success": False}, "libero_goal 0: init 3: success: True and False"),
        ({"repaired": 1}, "libero_goal 0: init 3: repaired: 0 and 1"),
        ({"init_state": 4}, "not in the other: libero_goal 0: init 4"),
    ],
)
def test_a_difference_is_told(one_run, tmp_path, capsys, changes, message):
    other = sharded(tmp_path / "shards", **changes)
    with pytest.raises(SystemExit, match="1"):
        main([str(one_run), str(other)])
    assert message in capsys.readouterr().out


def test_each_episode_counts_once_and_none_may_be_missing(one_run, tmp_path, capsys):
    other = sharded(tmp_path / "shards")
    write(other / "results_001_of_002.jsonl", [record(init_state=0)])
    write(other / "planned_000_of_002.jsonl", [plan(init_states=range(5))])
    with pytest.raises(SystemExit, match="1"):
        main([str(one_run), str(other)])
    assert capsys.readouterr().out.splitlines() == [
        f"{other}: several records: libero_goal 0: init 0",
        f"{other}: planned, but not run: libero_goal 0: init 4",
    ]


def test_settings_must_be_the_same_unless_told_otherwise(one_run, tmp_path, capsys):
    lines = [record(init_state=i, success=i != 2, batch_rows=1) for i in range(4)]
    other = write(tmp_path / "other/results.jsonl", lines)
    with pytest.raises(SystemExit, match="1"):
        main([str(one_run), str(other)])
    assert capsys.readouterr().out == "batch_rows: 4 and 1\n"
    main([str(one_run), str(other), "--ignore", "batch_rows"])


def test_a_folder_without_results_is_bad_input(one_run, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(one_run), str(tmp_path)])
    assert "holds no results" in capsys.readouterr().err
