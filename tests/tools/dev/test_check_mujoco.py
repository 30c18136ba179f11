"""tools/dev/check_mujoco.py: what counts as another picture, and a version that does not start."""

import subprocess

import numpy as np
import pytest

from tools.dev import check_mujoco


def seen(level=0, moved=0.0):
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    pictures[0, 0, 0, 0] = level
    return {"a/0/start": pictures * 0, "a/0/end": pictures, "a/0/state": np.full(5, moved)}


@pytest.mark.parametrize(("level", "share"), [(0, 0.0), (8, 0.0), (9, 1 / 96), (255, 1 / 96)])
def test_what_is_seen_to_differ_is_counted(level, share):
    row = check_mujoco.compare(seen(level, moved=-0.5), seen())
    assert row["start"] == {"mean": 0.0, "share": 0.0}
    assert row["end"] == {"mean": pytest.approx(level / 96), "share": pytest.approx(share)}
    assert row["state"] == 0.5 and row["tasks"] == 1


@pytest.mark.libero
def test_a_version_that_does_not_start_has_a_line_of_its_own(tmp_path, monkeypatch):
    """Somebody else's package of that name is found there first, and fails."""
    (tmp_path / "9.9" / "mujoco").mkdir(parents=True)
    (tmp_path / "9.9/mujoco/__init__.py").write_text("raise RuntimeError('no such door')")
    args = check_mujoco.parse_args(["--versions", "9.9", "--folder", str(tmp_path), "--task_ids", "0"])
    with pytest.raises(RuntimeError, match="RuntimeError: no such door"):
        check_mujoco.try_version("9.9", args)
    text = check_mujoco.table({"9.9": {"failed": "no such door"}, "2.3.7": check_mujoco.compare(seen(), seen())})
    assert "      9.9  no such door\n" in text and text.splitlines()[-1].split()[:2] == ["2.3.7", "1"]


def test_a_version_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "warning\nERROR: no matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(RuntimeError, match=r"mujoco 9\.9: ERROR: no matching distribution"):
        check_mujoco.install("9.9", tmp_path)
