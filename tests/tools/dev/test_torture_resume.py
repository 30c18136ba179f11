"""tools/dev/torture_resume.py in short: a run that is killed ends as if nothing had happened."""

import re
import uuid

import pytest

from tools.dev.processes import processes
from tools.dev.torture_resume import MARK, main


@pytest.mark.slow
def test_a_kill_leaves_no_trace(tmp_path, capsys, monkeypatch):
    mark = uuid.uuid4()  # known here, so that another torture on this machine is not taken for what is left of this one
    monkeypatch.setattr(uuid, "uuid4", lambda: mark)
    # Seed 2: a rank, while a checkpoint is written.
    main(["--kills", "1", "--steps", "14", "--seed", "2", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    kills = re.findall(r"^ +(\d)  (parent|rank|loader|all) +(start-up|training|saving) ", said, re.MULTILINE)
    assert [number for number, _, _ in kills] == ["1"]
    assert "killed 1 times" in said
    assert re.search(r"^identical: .*step_00000014; curves .*train/loss", said, re.MULTILINE)
    assert (tmp_path / "out/killed/last").resolve().name == "step_00000014"
    assert not processes(f"{MARK}={mark}")


def test_bad_arguments_are_refused(tmp_path, capsys):
    (tmp_path / "precious").write_text("")
    for arguments, message in (
        (["--kills", "0"], "--kills must be at least 1"),
        (["--out", str(tmp_path)], "is not empty"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert message in capsys.readouterr().err
