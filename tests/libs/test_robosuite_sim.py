"""libs.robosuite_sim: what needs no simulator of those that share it: child processes, cheaper pictures, no imports."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from libs.robosuite_sim import RemoteObject, SimCrash, SimTimeout
from libs.robosuite_sim.rendering import _merged_faces, get_render_setting
from tests.stuck import never_ends

ROOT = Path(__file__).resolve().parents[2]


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def gone(pid):
    """Whether a process has ended (a zombie that waits for its parent counts as ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize(
    "module", ["libs.robosuite_sim.collection", "libs.libero_sim.collection", "libs.stack_sim.collection"]
)
def test_importing_does_nothing(module):
    code = (
        f"import os, sys; before = dict(os.environ); import {module}; "
        "assert not {'mujoco', 'robosuite', 'libero'} & set(sys.modules); assert dict(os.environ) == before"
    )
    child = run_python(code)
    assert child.communicate()[0] == "" and child.returncode == 0


def test_unknown_render_setting():
    with pytest.raises(ValueError, match="known are standard, fast"):
        get_render_setting("pretty")


def test_merging_vertices_keeps_the_outline():
    """A flat grid of 1 mm squares in 4 mm cubes: fewer triangles, corners stay, no triangle collapses."""
    side = 33
    x, y = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    vertices = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3) * 0.001
    corner = (x[:-1, :-1] * side + y[:-1, :-1]).reshape(-1)
    faces = np.concatenate(
        [corner[:, None] + [0, 1, side], corner[:, None] + [side + 1, side, 1]]  # two per square
    )
    kept, corners = _merged_faces(vertices, faces, 0.004)
    assert len(kept) == len(corners) < len(faces) / 8
    assert (np.sort(corners, axis=1)[:, 1:] != np.sort(corners, axis=1)[:, :-1]).all()
    reach = vertices[corners.reshape(-1)]
    assert np.abs(reach.min(0) - vertices.min(0)).max() < 0.004
    assert np.abs(reach.max(0) - vertices.max(0)).max() < 0.004


def test_a_call_that_hangs_is_killed():
    remote = RemoteObject("threading:Event", {}, timeout_s=0.5)
    assert remote.call("is_set") is False
    with pytest.raises(SimTimeout, match=r"within 0\.5 s"):
        remote.call("wait", 1000)
    assert gone(remote.pid)
    with pytest.raises(SimCrash):
        remote.call("is_set")
    remote.close()


def test_a_child_that_nobody_can_kill_is_given_up(monkeypatch):
    """As one that waits for a driver which never answers: even SIGKILL waits for that."""
    remote = RemoteObject("threading:Event", {})
    child = remote._child
    with monkeypatch.context() as stuck:
        stuck.setattr(child, "kill", lambda: None)
        stuck.setattr(child, "wait", never_ends)
        remote.kill()
    child.kill()
    child.wait(10)


def test_errors_of_the_child():
    with RemoteObject("libs.robosuite_sim.rendering:get_render_setting", {"name": "pretty"}) as remote:
        with pytest.raises(ValueError, match="unknown render setting 'pretty'"):
            remote.call("anything")
        os.kill(remote.pid, signal.SIGKILL)
        with pytest.raises(SimCrash, match="code -9"):
            remote.call("anything")


def test_the_child_dies_with_its_parent():
    code = (
        "import time; from libs.robosuite_sim import RemoteObject; r = RemoteObject('threading:Event', {}); "
        "r.call('is_set'); r.send('wait', 1000); print(r.pid, flush=True); time.sleep(1000)"
    )
    parent = run_python(code)
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: gone(pid))
