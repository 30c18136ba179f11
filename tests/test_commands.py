"""The command `vla0`: each name leads to a main, and says what it does."""

import sys

import pytest

from tests.tiny import ROOT
from vla0.__main__ import COMMANDS, main


def test_every_command_leads_to_a_main_and_no_tool_is_forgotten():
    for module, _ in COMMANDS.values():
        assert "\ndef main(" in (ROOT / f"{module.replace('.', '/')}.py").read_text(), module
    tools = {path.stem for path in ROOT.glob("tools/*.py") if "\ndef main(" in path.read_text()}
    known = {module.removeprefix("tools.") for module, _ in COMMANDS.values()}
    assert tools - known == {"compare_evals", "compare_runs", "eval_stack"}  # for whoever builds; eval-env --env stack


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), ([], 2), (["no-such-command"], 2), (["stats", "--help"], 0)]
)
def test_how_it_ends(arguments, code, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vla0", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    said = "".join(capsys.readouterr())
    if "stats" in arguments:
        assert said.startswith("usage: vla0 stats")
    else:
        assert all(f"  {name} " in said for name in COMMANDS)


def test_the_nearest_command_is_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vla0", "tran"])
    with pytest.raises(SystemExit):
        main()
    assert "no command 'tran'; did you mean train?" in capsys.readouterr().err
