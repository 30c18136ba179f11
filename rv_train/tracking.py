"""What a person sees of a run: TensorBoard, the console, and how fast it is."""

import contextlib
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tqdm import tqdm

from rv_train.flops import peak_tflops as known_peak

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rv_train.distributed import Rank


T = TypeVar("T")


class Tracker:
    """Rank 0's eyes: TensorBoard, and a progress bar on a terminal or lines anywhere else.

    A context manager. While it is open, print with `line`: anything else would cut the bar.

    Args:
        folder: the run folder, which TensorBoard reads.
        start_step: steps done before; points written behind it by a run that was cut off are dropped.
        total_steps: of the whole run.
    """

    def __init__(self, folder: Path | str, start_step: int, total_steps: int) -> None:
        self.events = EventFile(folder, start_step + 1)
        self.start_step, self.total_steps = start_step, total_steps
        self.began = time.monotonic()
        self.bar = _Bar(start_step, total_steps) if sys.stdout.isatty() else None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def text(self, tag: str, text: str) -> None:
        """A text in TensorBoard's TEXT tab."""
        from torch.utils.tensorboard import summary

        self.events.add(self.start_step, summary.text(tag, "```\n" + text + "\n```"))

    def advance(self, step: int) -> None:
        """Optimizer step `step` (1-based) is done: moves the bar, where there is one."""
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def report(self, step: int, scalars: Mapping[str, float], memory: Sequence[int]) -> None:
        """Write the scalars of a window that ends with optimizer step `step` (1-based), and show them.

        Args:
            scalars: {"train/loss", "train/lr", "train/grad_norm", "speed/samples_per_s", "speed/data_wait", ...}.
            memory: `peak_memory` of every rank, bytes.

        Raises:
            OSError: the event file cannot be written.
        """
        peaks = [size / 2**30 for size in memory]
        self._write(step, {**scalars, **{f"memory/peak_gib_rank{rank}": peak for rank, peak in enumerate(peaks)}})
        seconds = (time.monotonic() - self.began) / (step - self.start_step) * (self.total_steps - step)
        loss, lr = f"loss {scalars['train/loss']:.4f}", f"lr {scalars['train/lr']:.2e}"
        speed, left = f"{scalars['speed/samples_per_s']:.1f} samples/s", f"{format_time(seconds)} left"
        if self.bar is not None:
            most = f"{max(peaks):.1f} GiB"
            self.bar.set_postfix_str(", ".join((loss, lr, speed, most, left)), refresh=False)
            self.advance(step)
            self.bar.refresh()
            return
        grad, wait = f"grad {scalars['train/grad_norm']:.2f}", f"waiting for data {scalars['speed/data_wait']:.0%}"
        peak = f"peak memory {' '.join(f'{peak:.1f}' for peak in peaks)} GiB"
        self.line("  ".join((self._step(step), loss, lr, grad, speed, wait, peak, left)))

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write scalars that are measured now and then, and print them as a line, without those per dimension."""
        self._write(step, scalars)
        shown = [f"{tag} {value:.4g}" for tag, value in scalars.items() if not tag.startswith("val/dim")]
        self.line("  ".join((self._step(step), *shown)))

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """A matplotlib Figure in TensorBoard's IMAGES tab."""
        import numpy as np
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from torch.utils.tensorboard import summary

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # (H, W, 3) uint8
        self.events.add(step, summary.image(tag, pixels, dataformats="HWC"))

    def line(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.bar is None:
            print(text, flush=True)
        else:
            self.bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        self.events.close()

    def _write(self, step, scalars):
        from torch.utils.tensorboard import summary

        self.events.add(step, *(summary.scalar(tag, value) for tag, value in scalars.items()))

    def _step(self, step):
        return f"step {step:>{len(str(self.total_steps))}}/{self.total_steps}"


class _Bar(tqdm):
    """Starts at the step a resumed run starts at. No monitor thread, no lock shared with other processes: neither
    survives a fork or a kill well."""

    monitor_interval = 0

    def __init__(self, start_step, total_steps):
        self.set_lock(threading.RLock())
        super().__init__(
            initial=start_step,
            total=total_steps,
            file=sys.stdout,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
        )


class EventFile:
    """A file that TensorBoard reads, written in the caller's thread.

    `SummaryWriter` writes from a thread of its own: where the disk is full, the error comes out as that thread's
    traceback and the run goes on without its curves, or ends in a second traceback.

    Args:
        folder: where to make it.
        purge_step: points of older files in the folder from this step on are no longer shown.

    Raises:
        OSError: from the constructor and `add`; the file is closed then.
    """

    def __init__(self, folder: Path | str, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = Path(folder) / name
        self._file = open(self.path, "xb")  # noqa: SIM115 (close() closes it)
        self._records, self._event = RecordWriter(self._file), Event
        restart = SessionLog(status=SessionLog.START)
        self._append(Event(file_version="brain.Event:2"), Event(step=purge_step, session_log=restart))

    def add(self, step: int, *summaries: Any) -> None:
        """Append summaries (`torch.utils.tensorboard.summary`) of a step, so that they are in the file now."""
        self._append(*(self._event(step=step, summary=summary) for summary in summaries))

    def close(self) -> None:
        self._file.close()

    def _append(self, *events):
        try:
            for event in events:
                event.wall_time = time.time()
                self._records.write(event.SerializeToString())
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()  # else its buffer would be written, and fail, once more at exit
            raise OSError(error.errno, error.strerror, str(self.path)) from None


class Meter:
    """How fast a run is, over windows. Counts this rank's batches; the ranks' batches are alike, so rates of the whole
    run are this rank's times their number.

    Args:
        flops: batch → operations of its forward and backward pass (`model.flops()`).
        rank: a distributed.Rank.
        peak_tflops: of one device at the precision in use; 0 looks the GPU's name up (dense bf16).
    """

    def __init__(self, flops: Callable[[Mapping[str, torch.Tensor]], float], rank: "Rank", peak_tflops: float) -> None:
        self.flops, self.rank = flops, rank
        self.peak = peak_tflops or known_peak(rank.device)  # TFLOP/s, None: unknown
        self.restart()

    def restart(self) -> None:
        """Begin a new window."""
        self.began, self.left_out, self.waited = time.monotonic(), 0.0, 0.0
        self.samples, self.tokens, self.operations = 0, 0, 0.0

    def next(self, batches: "Iterator[dict[str, torch.Tensor]]") -> "dict[str, torch.Tensor]":
        """`next(batches)`, its wait and its size counted. The batch must still be on the CPU."""
        began = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - began
        self.samples += len(batch["lengths"])
        self.tokens += int(batch["lengths"].sum())
        self.operations += self.flops(batch)
        return batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here (validation, saving) is no training time."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.left_out += time.monotonic() - began

    def scalars(self) -> dict[str, float]:
        """The window so far.

        speed/samples_per_s, speed/tokens_per_s: of all ranks; tokens without padding, image tokens included.
        speed/mfu: model FLOPs utilisation (PaLM, appendix B): operations per second of this rank / peak of its device.
            Only where the peak is known.
        speed/data_wait: share of the time that this rank waited for its loader.
        """
        seconds = max(time.monotonic() - self.began - self.left_out, 1e-9)
        scalars = {
            "speed/samples_per_s": self.samples * self.rank.world_size / seconds,
            "speed/tokens_per_s": self.tokens * self.rank.world_size / seconds,
            "speed/data_wait": self.waited / seconds,
        }
        if self.peak:
            scalars["speed/mfu"] = self.operations / seconds / (self.peak * 1e12)
        return scalars


def peak_memory(device: torch.device) -> int:
    """The most memory in use at once since this process started, bytes: of a GPU what torch allocated there, of a CPU
    rank the resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def format_time(seconds: float) -> str:
    """113 → 1:53, 3725 → 1:02:05"""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
