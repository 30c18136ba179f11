"""What a person sees of a run: its pages (TensorBoard and others), the console, and how fast it is."""

import contextlib
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from tqdm import tqdm

from libs.errors import first_line
from rv_train.flops import peak_tflops as known_peak

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rv_train.distributed import Rank
    from rv_train.run_pages import Page


T = TypeVar("T")


class Tracker:
    """Rank 0's eyes: the run's pages, and a progress bar on a terminal or lines anywhere else.

    A context manager. While it is open, print with `line`: anything else would cut the bar.

    Args:
        pages: what shows the run beside the console; closed with it.
        start_step: steps done before.
        total_steps: of the whole run.
    """

    def __init__(self, pages: "Sequence[Page]", start_step: int, total_steps: int) -> None:
        self.pages = list(pages)
        self.start_step, self.total_steps = start_step, total_steps
        self.began = time.monotonic()
        self.bar = _Bar(start_step, total_steps) if sys.stdout.isatty() else None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        self.close(failed=kind is not None)

    def text(self, tag: str, text: str) -> None:
        """A text of several lines."""
        self._show(lambda page: page.text(self.start_step, tag, text))

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
            OSError: TensorBoard's file cannot be written.
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
        """A matplotlib Figure, as a picture."""
        import numpy as np
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # (H, W, 3) uint8
        self._show(lambda page: page.figure(step, tag, pixels))

    def line(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.bar is None:
            print(text, flush=True)
        else:
            self.bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self, failed: bool = False) -> None:
        """failed: the run ended by an error."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        self._show(lambda page: page.close(failed))

    def _write(self, step, scalars):
        self._show(lambda page: page.scalars(step, scalars))

    def _show(self, how):
        """how(page) on every page. TensorBoard's is needed; another that fails is told once and gets nothing more."""
        for page in list(self.pages):
            try:
                how(page)
            except Exception as error:
                if page.needed:
                    raise
                self.pages.remove(page)
                what = f"{page.name} fails ({type(error).__name__}: {first_line(error)})"
                self.line(f"warning: {what}; nothing more is shown there, the run goes on")

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
