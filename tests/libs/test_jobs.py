"""Jobs in processes, and the folder that is held for them."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from libs.errors import BadInput
from libs.files import write_whole
from libs.jobs import held_folder, run_jobs


def _square(folder, number):
    if number == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    if number < 0:
        raise BadInput(f"{number} is too small")
    write_whole(folder / "made" / str(number), str(number**2).encode())


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_and_told_once(tmp_path, workers):
    done = []
    run_jobs(functools.partial(_square, tmp_path), list(range(11)), workers, done.append, "squares")
    assert sorted(done) == list(range(11)) and (workers > 1 or done == sorted(done))
    assert {path.name: int(path.read_text()) for path in (tmp_path / "made").iterdir()} == {
        str(number): number**2 for number in range(11)
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_job_raises_comes_out(tmp_path, workers):
    done = []
    with pytest.raises(BadInput, match="-3 is too small"):
        run_jobs(functools.partial(_square, tmp_path), [1, 2, -3], workers, done.append, "squares")
    assert set(done) <= {1, 2}


def test_a_process_that_dies_is_no_hang(tmp_path):
    with pytest.raises(RuntimeError, match=r"squares: a process died .*the same command continues"):
        run_jobs(functools.partial(_square, tmp_path), [1, 99, 2], 2, lambda job: None, "squares")


LONG_JOBS = """
import functools, os, signal, sys, time
from libs.jobs import run_jobs

def job(parent, seconds):
    if seconds == 0:
        os.kill(parent, signal.SIGINT)
    time.sleep(seconds)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_jobs(functools.partial(job, os.getpid()), [600, 0], 2, print, "naps")
"""


def test_ctrl_c_waits_for_no_job(tmp_path):
    (tmp_path / "naps.py").write_text(LONG_JOBS)
    root = Path(__file__).parents[2]
    command = [sys.executable, tmp_path / "naps.py"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert ended.stderr.endswith("KeyboardInterrupt\n"), ended.stderr


def test_a_folder_is_held_by_one_process(tmp_path):
    with held_folder(tmp_path / "new/folder", "somebody is there") as folder:
        assert folder.is_dir()
        code = "import sys; from libs.jobs import held_folder\nwith held_folder(sys.argv[1], 'somebody is there'): pass"
        root = Path(__file__).parents[2]
        command = [sys.executable, "-c", code, folder]
        other = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)})
        assert other.returncode == 1 and "BadInput: somebody is there" in other.stderr
    with held_folder(folder, "somebody is there"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made"), held_folder(tmp_path / "file", ""):
        pass
