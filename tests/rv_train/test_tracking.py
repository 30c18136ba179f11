"""What a run shows: TensorBoard's file, the console with and without a terminal, the meter."""

import contextlib
import fcntl
import os
import pty
import resource
import struct
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rv_train import tracking
from rv_train.distributed import Rank
from rv_train.run_pages import TensorBoard
from rv_train.tracking import Meter, Tracker, format_time, peak_memory

CPU = torch.device("cpu")
SCALARS = {
    "train/loss": 0.5,
    "train/lr": 4e-5,
    "train/grad_norm": 1.25,
    "speed/samples_per_s": 9.9,
    "speed/data_wait": 0.02,
}
MEMORY = [3 * 2**29, 2**31]  # bytes, of two ranks


def tracker_of(folder, start_step, total_steps):
    return Tracker([TensorBoard(folder, start_step + 1)], start_step, total_steps)


def read_events(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return events


def test_tensorboard_reads_scalars_texts_and_figures(tmp_path):
    figure = Figure(figsize=(2, 1), dpi=50, facecolor="red")
    with tracker_of(tmp_path, 0, 4) as tracker:
        tracker.text("config", "EXP:\n  ID: x")
        tracker.report(2, SCALARS, MEMORY)
        tracker.scalars(2, {"val/loss": 0.25})
        tracker.figure("val/chunks", figure, 2)
    events = read_events(tmp_path)
    peaks = {"memory/peak_gib_rank0": 1.5, "memory/peak_gib_rank1": 2.0}
    for tag, value in {**SCALARS, **peaks, "val/loss": 0.25}.items():
        assert [(point.step, point.value) for point in events.Scalars(tag)] == [(2, pytest.approx(value))], tag
    (text,) = events.Tensors("config/text_summary")
    assert b"EXP:\n  ID: x" in text.tensor_proto.string_val[0]
    (image,) = events.Images("val/chunks")
    pixels = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)  # BGR
    assert image.step == 2 and pixels.shape == (50, 100, 3) and (pixels == [0, 0, 255]).all()


def test_a_resumed_run_goes_on_where_its_checkpoint_was(tmp_path):
    for start, last in ((0, 5), (3, 6)):  # cut off after step 5, resumed from step 3
        with tracker_of(tmp_path, start, 6) as tracker:
            for step in range(start + 1, last + 1):
                tracker.report(step, {**SCALARS, "train/loss": start + step}, MEMORY)
    points = read_events(tmp_path).Scalars("train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 1), (2, 2), (3, 3), (4, 7), (5, 8), (6, 9)]


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, capfd):
    """A file size limit stands in for the disk. No thread is left to fail, and closing does not fail again."""
    threads = threading.active_count()
    tracker = tracker_of(tmp_path, 0, 1000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*events\.out\.tfevents") as raised:
            for step in range(1, 1000):
                tracker.report(step, SCALARS, MEMORY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert raised.value.filename == str(tracker.pages[0].path)
    tracker.close()
    assert threading.active_count() == threads
    assert capfd.readouterr().err == ""
    assert len(read_events(tmp_path).Scalars("train/loss")) > 0  # what fitted can be read


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    with tracker_of(tmp_path, 10, 1000) as tracker:
        tracker.advance(11)
        tracker.line("model    vla0")
        tracker.report(20, SCALARS, MEMORY)
        tracker.scalars(20, {"val/loss": 0.25, "val/parse_rate": 1.0, "val/dim0_mae": 0.1})
    assert capsys.readouterr().out.splitlines() == [
        "model    vla0",
        "step   20/1000  loss 0.5000  lr 4.00e-05  grad 1.25  9.9 samples/s  waiting for data 2%  "
        "peak memory 1.5 2.0 GiB  0:00 left",
        "step   20/1000  val/loss 0.25  val/parse_rate 1",
    ]


def _read_to_the_end(screen):
    """All that is written to a terminal until it is closed; one call of read gives what is there at that moment."""
    parts = []
    with contextlib.suppress(OSError):  # EIO: it was closed
        while part := screen.read(1 << 16):
            parts.append(part)
    return b"".join(parts)


def on_terminal(columns, show, monkeypatch):
    """What stands on a terminal of that width after `show()`: the lines as a person sees them."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with ThreadPoolExecutor(1) as other, os.fdopen(master, "rb", buffering=0) as screen:
        written = other.submit(_read_to_the_end, screen)
        with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
            patch.setattr("sys.stdout", terminal)
            show()
        text = written.result().decode()
    lines, column = [""], 0
    for character in text:
        if character == "\n":
            lines.append("")
        column = 0 if character in "\r\n" else column
        if character not in "\r\n":
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def test_a_bar_on_a_terminal_and_whole_lines_above_it(tmp_path, monkeypatch):
    def show():
        with tracker_of(tmp_path, 150, 300) as tracker:
            tracker.line("model    vla0\ndata     one file")
            for step in (151, 160, 170):
                tracker.advance(step)
                tracker.line(f"a line at {step}")
            tracker.report(180, SCALARS, MEMORY)
            tracker.scalars(180, {"val/loss": 0.25})

    lines = on_terminal(100, show, monkeypatch)
    assert lines[:-2] == [
        "model    vla0",
        "data     one file",
        *(f"a line at {step}" for step in (151, 160, 170)),
        "step 180/300  val/loss 0.25",
    ]
    bar, end = lines[-2:]
    assert bar.startswith(" 60% |█") and len(bar) < 100 and end == ""
    assert bar.endswith("| 180/300, loss 0.5000, lr 4.00e-05, 9.9 samples/s, 2.0 GiB, 0:00 left")


def test_a_resumed_bar_starts_at_its_step(tmp_path, monkeypatch):
    def show():
        tracker_of(tmp_path, 225, 300).close()

    assert on_terminal(60, show, monkeypatch)[0].startswith(" 75% |█")


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def test_meter_counts_samples_tokens_operations_and_waiting(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=clock.monotonic))

    def loader():
        while True:
            clock.now += 1.0
            yield {"lengths": torch.tensor([30, 20])}

    meter, batches = Meter(lambda batch: 5e12, Rank(0, 3, CPU), peak_tflops=50.0), loader()
    for _ in range(2):  # the second window starts from nothing
        meter.restart()
        for _ in range(4):
            assert meter.next(batches)["lengths"].tolist() == [30, 20]
            clock.now += 1.5
        with meter.paused():
            clock.now += 1000
        assert meter.scalars() == pytest.approx(
            {
                "speed/samples_per_s": 8 * 3 / 10,
                "speed/tokens_per_s": 200 * 3 / 10,
                "speed/data_wait": 4 / 10,
                "speed/mfu": 4 * 5 / 10 / 50,
            }
        )


def test_no_mfu_where_the_peak_is_unknown():
    meter = Meter(lambda batch: 1.0, Rank(0, 1, CPU), peak_tflops=0.0)
    meter.next(iter([{"lengths": torch.tensor([3])}]))
    time.sleep(0.001)
    assert "speed/mfu" not in meter.scalars()


def test_peak_memory_of_a_cpu_rank_is_its_resident_memory():
    with open("/proc/self/status") as status:
        (peak,) = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")]
    assert peak_memory(CPU) == pytest.approx(peak, rel=0.05)


def test_times():
    assert [format_time(s) for s in (0, 59.4, 59.6, 113, 3599.7, 3725, 90061)] == [
        "0:00", "0:59", "1:00", "1:53", "1:00:00", "1:02:05", "25:01:01",
    ]  # fmt: skip


def test_an_event_file_that_cannot_be_made_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        TensorBoard(tmp_path / "missing", 1)
