"""tools/compare.py: what it is given it sees; evaluations are equal whatever the shards, different whatever differs."""

import json
import re
import shutil

import pytest

from tests.rv_eval.records import plan, record, write
from tests.tiny import ROOT, make_tiny_checkpoint
from tools.compare import main

QUICKSTART = ROOT / "checkpoints/quickstart"


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
    said = capsys.readouterr().out
    assert said.endswith("\n\nequal: libero_goal 0: init 0-3\n") and "same outcome in all 4 episodes" in said


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
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "B: several records: libero_goal 0: init 0",
        "B: planned, but not run: libero_goal 0: init 4",
    ]


def test_settings_must_be_the_same_unless_told_otherwise(one_run, tmp_path, capsys):
    lines = [record(init_state=i, success=i != 2, batch_rows=1) for i in range(4)]
    other = write(tmp_path / "other/results.jsonl", lines)
    with pytest.raises(SystemExit, match="1"):
        main([str(one_run), str(other)])
    assert capsys.readouterr().out.splitlines()[-1] == "batch_rows: 4 and 1"
    main([str(one_run), str(other), "--ignore", "batch_rows"])


def test_numbers_and_report(one_run, tmp_path, capsys):
    other = write(tmp_path / "other/results.jsonl", [record(init_state=i, n_action_steps=1) for i in range(5)])
    page, numbers = tmp_path / "new/b.html", tmp_path / "new/b.json"
    with pytest.raises(SystemExit, match="1"):
        main([str(one_run), str(other), "--out", str(page), "--json", str(numbers)])
    printed = capsys.readouterr().out
    assert "B is 25.0 points better" in printed and "n_action_steps: 8 | 1" in printed
    assert "1 episode only in B" in printed
    text = page.read_text()
    assert f"<title>{one_run} against {other}</title>" in text and "What it depends on (A)" in text
    assert re.search(r"A: 3/4, 75.0 % .*; B: 5/5, 100.0 %", text) and text.count("<h3>B</h3>") == 1
    found = json.loads(numbers.read_text())
    assert found["total"]["successes"] == 3 and found["comparison"]["only_b"] == 1
    assert found["comparison"]["alone_b"] == [["libero_goal", 0, 4, 7, None]]


def test_two_settings_in_one_folder(one_run, capsys):
    write(one_run / "results.jsonl", [record(init_state=i, n_action_steps=1) for i in range(4)])
    for options, told in (
        ([], "--only n_action_steps=1 (4 episodes)"),
        (["--only_b", "render=fast"], "--only n_action_steps=1"),
        (["--only", "n_action_steps=8", "--only_b", "seed=7"], "--only_b n_action_steps=1"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([str(one_run), str(one_run), *options])
        assert told in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        main([*[str(one_run)] * 2, "--only", "n_action_steps=8", "--only_b", "n_action_steps=1"])
    assert "B is 25.0 points better" in capsys.readouterr().out
    main([*[str(one_run)] * 2, "--only", "n_action_steps=8"])


def test_models(tmp_path, capsys):
    """A run folder stands for its last model where the other one is a model folder."""
    run = make_tiny_checkpoint(tmp_path)
    model = tmp_path / "copy"
    shutil.copytree(run / "last/model", model)
    main([str(run), str(model)])
    assert capsys.readouterr().out == "identical: weights, recipe, statistics\n"
    stats = json.loads((model / "action_stats.json").read_text())
    stats["max"][0] += 1
    (model / "action_stats.json").write_text(json.dumps(stats))
    with pytest.raises(SystemExit, match="1"):
        main([str(run / "last"), str(model)])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("statistics max[0]: ")


@pytest.mark.parametrize(
    "second, options, message",
    [
        ("empty", [], "empty holds no results.jsonl, no complete checkpoint and no model"),
        ("nowhere", [], "nowhere does not exist"),
        (str(QUICKSTART), [], "is an evaluation and .* a model folder: compare two of a kind"),
        ("one", ["--ignore", "n_action_steps", "--out", "empty"], "is a folder"),
    ],
)
def test_what_cannot_be_compared_is_one_line(one_run, tmp_path, monkeypatch, capsys, second, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(["one", second, *options])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and re.search(message, line)


def test_options_of_evaluations_are_refused_for_models(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(QUICKSTART), str(QUICKSTART), "--only", "seed=7"])
    assert "--only is for evaluations" in capsys.readouterr().err
