"""Demo files on a full disk, and under Ctrl-C: what was whole stays whole, and no process crashes, as HDF5's own do."""

import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import EpisodeWriter, demo_files, verify_demo_file
from libs.demo_hdf5.opening import Unreadable
from libs.demo_hdf5.output import Output
from tests.full_disk import small_files
from tests.tiny import ROOT

BEGINNING = """
import resource, sys
from pathlib import Path
import numpy as np
from libs.demo_hdf5 import Demo, DemoWriter, EpisodeWriter
from libs.demo_hdf5.synthetic import synthetic_demo

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
def fill():  # no file grows beyond that, as if the disk were full
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
def episode(length):
    with writer.episode("do it") as episode:
        for _ in range(length):
            episode.add({"front": noise}, {"joints": np.zeros(2)}, np.zeros(2))
"""
EPISODES = """
writer = EpisodeWriter(folder, ["front"], {"joints": 2}, 2, rate=10)
episode(2)
fill()
try:
    episode(60)
except OSError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
episode(3)  # when there is room again
"""
DEMOS = """
fill()
demo = synthetic_demo(8, 64, 0)
demo.obs["agentview"] = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
try:
    with DemoWriter(folder / "demos.hdf5", {}) as writer:
        for _ in range(9):
            writer.add(demo)
except OSError as error:
    print(error)
"""


def child(program, *arguments):
    command = [sys.executable, "-c", BEGINNING + program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("limit", [1500, 20_000, 100_000])  # of some 190,000; what is early fills while it is made
def test_a_full_disk_costs_the_episode_that_it_meets(tmp_path, limit):
    done = child(EPISODES, tmp_path, limit)
    assert (done.returncode, done.stderr) == (0, "")
    part = tmp_path / ".episode_000001.part.hdf5"
    assert done.stdout == f"[Errno 27] File too large: '{part}'\n"
    assert sorted(os.listdir(tmp_path)) == ["episode_000000.hdf5", "episode_000001.hdf5", "key_map.json"]
    key_map = EpisodeWriter(tmp_path, ["front"], {"joints": 2}, 2, rate=10).key_map
    assert all(verify_demo_file(path, key_map) == [] for path in demo_files(tmp_path))


@pytest.mark.parametrize("limit", [500, 5000, 400_000])
def test_a_full_disk_leaves_no_half_file_of_demos(tmp_path, limit):
    done = child(DEMOS, tmp_path, limit)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"[Errno 27] File too large: '{tmp_path / 'demos.hdf5.tmp'}'\n"
    assert not os.listdir(tmp_path)


THREAD = """
import threading, time
def write():
    global writer
    writer = EpisodeWriter(folder, ["front"], {"joints": 2}, 2, rate=10)
    episode(10**9)
threading.Thread(target=write, daemon=True).start()
time.sleep(0.3)
"""


def test_a_program_that_ends_while_a_thread_writes_does_not_crash(tmp_path):
    done = child(THREAD, tmp_path, 0)
    assert (done.returncode, done.stderr) == (0, "")


def test_hdf5_reads_back_what_the_disk_did_not_take(tmp_path):
    """Else it would find its own tables damaged, and crash all the same."""
    output = Output(tmp_path / "new.hdf5")
    with pytest.raises(OSError, match=r"File too large: '.*new\.hdf5'"), output.writing() as file, small_files(1000):
        file["numbers"] = np.arange(1000)
        for number in range(100):
            file.create_dataset(f"more/{number}", data=np.full(100, number), chunks=(10,), compression="gzip")
        file.flush()
        assert [file[f"more/{number}"][99] for number in range(100)] == [*range(100)]
        np.testing.assert_array_equal(file["numbers"], np.arange(1000))
    with pytest.raises(OSError, match="File too large"):
        output.close()
    output.close()


@pytest.fixture
def interruptible():
    """What a shell starts in the background ignores Ctrl-C; this suite may have been started so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_until_hdf5_has_written(tmp_path, interruptible):
    """A handler that raises while HDF5 writes would be the same to it as a full disk."""
    output = Output(tmp_path / "new.hdf5")
    with pytest.raises(KeyboardInterrupt), output.writing() as file:
        file["before"] = np.arange(100)
        os.kill(os.getpid(), signal.SIGINT)
        file["after"] = np.arange(10_000)
    output.close()
    with h5py.File(tmp_path / "new.hdf5") as file:
        assert len(file["after"]) == 10_000
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_two_programs_do_not_write_one_file(tmp_path):
    output = Output(tmp_path / "new.hdf5")
    with pytest.raises(Unreadable, match=r"new\.hdf5 cannot be opened: locked, another program"):
        Output(tmp_path / "new.hdf5")
    with output.writing() as file:
        file["numbers"] = np.arange(10)
    output.close()
    with h5py.File(tmp_path / "new.hdf5") as file:
        np.testing.assert_array_equal(file["numbers"], np.arange(10))
