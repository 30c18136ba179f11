"""Ends of a run of several ranks, where one of them waits for something and hears nothing."""

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest
import torch

from libs.errors import BadInput
from rv_train.distributed import launch, leader, parse_devices, stop_requested
from tests.rv_train.waiting_ranks import CPUS, worker
from tests.tiny import ROOT
from tools.dev.processes import kill, processes


@pytest.fixture
def living(monkeypatch):
    """A function: the processes started in this test that live. Those still there at its end are killed."""
    name, value = "DISTRIBUTED_TEST", str(uuid.uuid4())
    monkeypatch.setenv(name, value)

    def living():
        found = processes(f"{name}={value}")
        # multiprocessing may have started one of its own here, which stays
        return [pid for pid, (parent, command) in found.items() if parent != os.getpid() or b"_tracker" not in command]

    yield living
    kill(living())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("refuses", "rank 0: bad input,\nin two lines"),
        ("loads", "rank 0: a picture,\nin two lines"),
    ],
)
def test_bad_input_of_a_rank_or_its_loader_is_bad_input_here(living, what, said, capfd):
    with pytest.raises(BadInput) as refused:
        launch(worker, CPUS, what)
    assert str(refused.value) == said and not living()
    assert capfd.readouterr() == ("waits\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("fails", "ValueError: a bug, libs.errors.BadInput: or not"),
        ("dies", "rank 0 died: process 0 terminated with signal SIGKILL; --resume continues"),
    ],
)
def test_another_failure_of_a_rank_keeps_its_traceback_whatever_the_others_wait_for(living, what, said, capfd):
    with pytest.raises(RuntimeError) as failed:
        launch(worker, CPUS, what)
    lines = str(failed.value).splitlines()
    assert lines[-1] == said and sum("in worker" in line for line in lines) == (what == "fails")
    assert not living() and capfd.readouterr() == ("waits\n", "")


@pytest.fixture
def start(living):
    def start(what):
        command = [sys.executable, "-m", "tests.rv_train.waiting_ranks", what]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process = subprocess.Popen(command, cwd=ROOT, env=environment, **streams)
        assert process.stdout.readline() == "waits\n"
        return process

    return start


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_its_parent(start, living, number):
    process = start("waits")
    process.send_signal(number)
    process.wait(200)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    deadline = time.monotonic() + 60
    while living() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not living()


@pytest.mark.slow
def test_ranks_are_told_of_a_signal_to_their_parent(start, living):
    process = start("listens")
    assert process.stdout.readline() == "waits\n"  # the other rank
    process.send_signal(signal.SIGUSR1)
    assert process.communicate(timeout=200) == ("", "") and process.returncode == 75
    assert not living()


@pytest.mark.slow
def test_a_run_that_failed_can_be_forgotten():
    """What DDP has of its model must not be what ends the process group, see `distributed._groups`."""
    command, environment = [sys.executable, "-m", "tests.rv_train.kept_group"], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "forgotten\n", "")


def test_a_rank_of_torchrun_sees_the_gpu_of_its_number(monkeypatch):
    """Not where there are fewer GPUs than ranks, nor where SLURM gives each task one of its own."""
    for name, value in (("RANK", "9"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "1"), ("CUDA_VISIBLE_DEVICES", "5")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        BadInput, match=r"LOCAL_RANK is 1, and this process sees GPUs 0 to 0 \(CUDA_VISIBLE_DEVICES is 5\)"
    ):
        leader([torch.device("cuda", 0)])


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    both = [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert parse_devices([0, 1], None) == parse_devices(None, None) == both
    assert parse_devices(None, 2) == [torch.device("cpu")] * 2
    for devices, nproc, message in (
        ([0, 2], None, "no GPU 2; this machine has 2"),
        ([-1, 0], None, "no GPU -1"),
        ([0, 0], None, "name each once"),
        ([0], 1, "not both"),
        (None, 0, "--nproc must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_devices(devices, nproc)


def until_stopped(rank, folder):
    (folder / str(rank.rank)).touch()
    deadline = time.monotonic() + 60
    while not stop_requested() and time.monotonic() < deadline:
        time.sleep(0.02)
    return stop_requested()


@pytest.mark.slow
def test_a_signal_that_wakes_nobody_is_passed_on(tmp_path):
    """As one that comes between Python's last look and the wait: the handler is due, and the wait goes on."""

    def signal_when_all_run():
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < len(CPUS) and time.monotonic() < deadline:
            time.sleep(0.02)
        _thread.interrupt_main(signal.SIGTERM)

    threading.Thread(target=signal_when_all_run, daemon=True).start()
    assert launch(until_stopped, CPUS, tmp_path)
