import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rv_eval.records import plan, record, write
from tests.tiny import ROOT
from tools.summarize_eval import main


@pytest.fixture
def logs(tmp_path):
    folder = write(tmp_path / "logs" / "results.jsonl", [record(0, init, success=init > 0) for init in range(4)])
    return write(folder / "planned.jsonl", [plan(0, range(4))])


def run(*arguments):
    """The exit code of the command."""
    try:
        main(list(map(str, arguments)))
    except SystemExit as stop:
        return stop.code
    return 0


def test_a_complete_evaluation(logs, capsys):
    assert run(logs) == 0
    printed = capsys.readouterr().out
    total = next(line for line in printed.splitlines() if line.startswith("total")).split()
    assert total[1:5] == ["3/4", "75.0", "30.1-95.4", "102"]
    size = (logs / "report.html").stat().st_size
    assert f"report:  {logs / 'report.html'} ({size / 1e6:.2f} MB)" in printed
    assert "checkpoints/run" in (logs / "report.html").read_text()


def test_missing_episodes_are_exit_code_1(logs, capsys):
    write(logs / "planned.jsonl", [plan(0, range(6))])
    assert run(logs, "--no_html") == 1
    assert "MISSING: 2 of 6 planned episodes" in capsys.readouterr().out and not (logs / "report.html").exists()


def test_a_contradiction_is_exit_code_1(logs, tmp_path, capsys):
    again = write(tmp_path / "again" / "results.jsonl", [record(0, 3, success=False)])
    assert run(logs, again) == 1
    assert "CONTRADICTION: 1 episode" in capsys.readouterr().out and (logs / "report.html").exists()


def test_a_comparison_as_before(logs, tmp_path, capsys):
    """--compare works for this release, and a line says what is written now: tests/tools/test_compare.py."""
    other = write(tmp_path / "other" / "results.jsonl", [record(0, init, n_action_steps=1) for init in range(5)])
    out, numbers = tmp_path / "new" / "b.html", tmp_path / "new" / "b.json"
    assert run(logs, "--compare", other, "--out", out, "--json", numbers) == 0
    printed, err = capsys.readouterr()
    assert err.startswith("warning: tools/summarize_eval.py A --compare B is written tools/compare.py A B now")
    assert "B is 25.0 points better" in printed and "n_action_steps: 8 | 1" in printed
    assert "1 episode only in B" in printed and "A against B" in out.read_text()
    found = json.loads(numbers.read_text())
    assert found["total"]["successes"] == 3 and found["comparison"]["only_b"] == 1
    assert found["comparison"]["alone_b"] == [["libero_goal", 0, 4, 7, None]]
    assert found["comparison"]["b"]["total"]["successes"] == 5


def test_two_settings_in_one_folder(logs, capsys):
    write(logs / "results.jsonl", [record(0, init, n_action_steps=1) for init in range(4)])
    assert run(logs, "--no_html") == 2
    assert "--only n_action_steps=1 (4 episodes)" in refused(capsys)
    assert run(logs, "--no_html", "--only", "n_action_steps=8") == 0


def refused(capsys):
    """The one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "neither a folder"),
        (["empty"], "holds no results"),
        (["logs", "--only", "n_action_steps"], "KEY=VALUE"),
        (["logs", "--out", "logs"], "is a folder"),
    ],
)
def test_bad_input_is_one_line(logs, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert run(*arguments) == 2
    assert message in refused(capsys)


@pytest.mark.parametrize(
    "flags", [["--no_html", "--embed_videos"], ["--no_html", "--out", "x"], ["--compare_only", "a=1"]]
)
def test_flags_that_exclude_each_other(logs, flags):
    assert run(logs, *flags) == 2
    assert not list(logs.glob("*.html"))


def test_it_runs_without_simulator_and_torch(logs):
    code = (
        "import sys; from tools.summarize_eval import main; main(sys.argv[1:]);"
        "print([m for m in ('torch', 'libero', 'robosuite', 'mujoco', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(logs)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and done.stderr == ""


def test_the_published_records_can_be_summarized(tmp_path, capsys):
    """They were written before some fields existed."""
    for path in sorted((ROOT / "benchmarks").glob("*_eval*.jsonl")):
        assert run(path, "--out", tmp_path / "report.html") == 0
        assert ("not a LIBERO result" in capsys.readouterr().out) == (not path.name.startswith("flow_stack_eval"))
