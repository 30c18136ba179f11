"""Ends of a run of several ranks, where one of them waits for something and hears nothing."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest
import torch

from rv_train.distributed import parse_devices
from tests.tiny import ROOT
from tools.dev.processes import processes

# Rank 1 stands for one that waits inside NCCL: Python's signal handlers do not run there.
PROGRAM = """
import os, signal, sys, time, torch
from libs.errors import BadInput
from rv_train.distributed import launch, stop_requested

def worker(rank, what):
    if what == "listens":
        os.write(1, b"waits\\n")  # at once: the other rank writes, too
        while not stop_requested():
            time.sleep(0.02)
        return 75
    if rank.rank == 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        print("waits", flush=True)
    torch.distributed.barrier()  # not before it was printed: the first rank to fail ends the others
    if rank.rank == 1:
        time.sleep(600)
    elif what == "refuses":
        raise BadInput("bad input,\\nin two lines")
    elif what == "loads":
        next(iter(torch.utils.data.DataLoader(BadData(), num_workers=1)))
    elif what == "fails":
        raise ValueError("a bug, libs.errors.BadInput: or not")
    elif what == "dies":
        signal.raise_signal(signal.SIGKILL)
    time.sleep(600)

class BadData(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise BadInput("a picture,\\nin two lines")

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    try:
        sys.exit(launch(worker, [torch.device("cpu")] * 2, sys.argv[1]))
    except BadInput as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def start(tmp_path):
    mark = f"DISTRIBUTED_TEST={uuid.uuid4()}"
    (tmp_path / "program.py").write_text(PROGRAM)

    def start(what):
        name, _, value = mark.partition("=")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", name: value}
        streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process = subprocess.Popen([sys.executable, tmp_path / "program.py", what], env=environment, **streams)
        assert process.stdout.readline() == "waits\n"
        return process, mark

    yield start
    for pid in processes(mark):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("refuses", "error: rank 0: bad input,\nin two lines\n"),
        ("loads", "error: rank 0: a picture,\nin two lines\n"),
    ],
)
def test_bad_input_of_a_rank_or_its_loader_is_bad_input_here(start, what, said):
    process, mark = start(what)
    assert process.communicate(timeout=200)[1] == said
    assert process.returncode == 1 and not processes(mark)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("fails", "ValueError: a bug, libs.errors.BadInput: or not"),
        ("dies", "RuntimeError: rank 0 died: process 0 terminated with signal SIGKILL; --resume continues"),
    ],
)
def test_another_failure_of_a_rank_keeps_its_traceback_whatever_the_others_wait_for(start, what, said):
    process, mark = start(what)
    lines = process.communicate(timeout=200)[1].splitlines()
    assert lines[-1] == said and sum("in worker" in line for line in lines) == (what == "fails")
    assert process.returncode == 1 and not processes(mark)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_its_parent(start, number):
    process, mark = start("runs")
    process.send_signal(number)
    process.wait(200)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    deadline = time.monotonic() + 60
    while processes(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes(mark)


@pytest.mark.slow
def test_ranks_are_told_of_a_signal_to_their_parent(start):
    process, mark = start("listens")
    assert process.stdout.readline() == "waits\n"  # the other rank
    process.send_signal(signal.SIGUSR1)
    assert process.communicate(timeout=200) == ("", "") and process.returncode == 75
    assert not processes(mark)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    both = [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert parse_devices("0,1", None) == parse_devices(None, None) == both
    assert parse_devices(None, 2) == [torch.device("cpu")] * 2
    for devices, nproc, message in (
        ("0,2", None, "no GPU 2; this machine has 2"),
        ("0,,1", None, "no GPU without a number"),
        ("0,0", None, "name each once"),
        ("0", 1, "not both"),
        (None, 0, "--nproc must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_devices(devices, nproc)
