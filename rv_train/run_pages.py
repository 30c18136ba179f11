"""Where the curves, texts and pictures of a run go: TensorBoard's file, always, and what TRAIN.trackers names.

Every one of them is a `Page`. What has the interface of the package wandb is a line of TRACKERS.
"""

import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from yacs.config import CfgNode

from libs.config_tree import to_dict
from libs.errors import BadInput, first_line
from libs.files import read_json_object, write_whole

PROJECT = "vla0"  # unless WANDB_PROJECT, or TRACKIO_PROJECT, says another
IDS = "trackers.json"  # in the run folder: what a resumed run is called there, {tracker: id}
# TRAIN.trackers: packages with the interface of wandb, and how they are installed.
TRACKERS = {"wandb": "pip install -e '.[wandb]'", "trackio": "pip install trackio"}


class Page(Protocol):
    """What shows a run. Steps are optimizer steps, 1-based; those of a resumed run may repeat what was shown before."""

    name: str
    needed: bool  # whether an error of it ends the run

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """A point of each curve."""

    def text(self, step: int, tag: str, text: str) -> None:
        """A text of several lines."""

    def figure(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """A picture, (H, W, 3) uint8."""

    def close(self, failed: bool) -> None:
        """Nothing comes any more. failed: the run ended by an error."""


def check_trackers(names: list[str]) -> None:
    """BadInput unless TRAIN.trackers are known and their packages here: found out before anything is started."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise BadInput(f"TRAIN.trackers {name} needs the package {name}: {TRACKERS[name]}")


def log_in(names: list[str]) -> None:
    """Let the packages of TRAIN.trackers that need a login say so before ranks are started, on a terminal ask for it;
    BadInput where there is none. Not where WANDB_MODE says that nothing is sent."""
    for name in names:
        package = importlib.import_module(name)
        if hasattr(package, "login") and os.environ.get("WANDB_MODE", "online") == "online":
            with _refusals(name):
                package.login()


def open_pages(cfg: CfgNode, run: Path, start_step: int) -> list[Page]:
    """TensorBoard and TRAIN.trackers, of a run that has done `start_step` steps; BadInput where one cannot be opened,
    such as without a login."""
    pages: list[Page] = [TensorBoard(run, start_step + 1)]
    try:
        for name in cfg.TRAIN.trackers:
            pages.append(WandB(name, run, cfg, start_step))
    except BaseException:
        for page in pages:
            page.close(failed=True)
        raise
    return pages


class TensorBoard:
    """A file that TensorBoard reads, written in the caller's thread.

    `SummaryWriter` writes from a thread of its own: where the disk is full, the error comes out as that thread's
    traceback and the run goes on without its curves, or ends in a second traceback.

    Args:
        folder: where to make it.
        purge_step: points of older files in the folder from this step on are no longer shown.

    Raises:
        OSError: from the constructor and whatever writes; the file is closed then.
    """

    name = "TensorBoard"
    needed = True

    def __init__(self, folder: Path | str, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = Path(folder) / name
        self._file = open(self.path, "xb")  # noqa: SIM115 (close() closes it)
        self._records, self._event = RecordWriter(self._file), Event
        restart = SessionLog(status=SessionLog.START)
        self._append(Event(file_version="brain.Event:2"), Event(step=purge_step, session_log=restart))

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """In the SCALARS tab, in the file when this returns, as the others are."""
        from torch.utils.tensorboard import summary

        self._add(step, *(summary.scalar(tag, value) for tag, value in scalars.items()))

    def text(self, step: int, tag: str, text: str) -> None:
        """In the TEXT tab."""
        from torch.utils.tensorboard import summary

        self._add(step, summary.text(tag, "```\n" + text + "\n```"))

    def figure(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """In the IMAGES tab."""
        from torch.utils.tensorboard import summary

        self._add(step, summary.image(tag, pixels, dataformats="HWC"))

    def close(self, failed: bool = False) -> None:
        self._file.close()

    def _add(self, step, *summaries):
        self._append(*(self._event(step=step, summary=one) for one in summaries))

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


class WandB:
    """The run's page of Weights & Biases, or of another package with its interface, such as trackio. What it sends, and
    whether it does, is its own: WANDB_MODE=offline writes into the run folder, for `wandb sync`.

    A resumed run goes on on the same page. Its curves are drawn over an axis of their own, `step`, where the package
    has such: W&B's counter only grows, and would drop what a resumed run does once more.

    Args:
        package: a name of TRACKERS.
        run: the run folder, which remembers what the page is called.
        cfg: the config tree, shown there.
        start_step: optimizer steps done before; 0 begins a new page.

    Raises:
        BadInput: it cannot be opened.
    """

    needed = False

    def __init__(self, package: str, run: Path, cfg: CfgNode, start_step: int) -> None:
        self.name, self._package = package, importlib.import_module(package)
        identity = _identity(run, package, start_step)
        known = inspect.signature(self._package.init).parameters
        wanted = {
            "project": os.environ.get(f"{package.upper()}_PROJECT") or PROJECT,
            "id": identity,
            "name": cfg.EXP.ID if "id" in known else f"{cfg.EXP.ID}-{identity}",  # the name alone says which it is
            "resume": "allow",
            "config": to_dict(cfg),
            "dir": os.environ.get(f"{package.upper()}_DIR") or str(run),
        }
        with _refusals(package):
            self._page = self._package.init(**{name: value for name, value in wanted.items() if name in known})
        self._has_axes = hasattr(self._page, "define_metric")
        if self._has_axes:
            self._page.define_metric("step")
            self._page.define_metric("*", step_metric="step")

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Handed over to the package, whose own thread or process does the rest."""
        self._log(step, scalars)

    def text(self, step: int, tag: str, text: str) -> None:
        """As a table of one cell."""
        self._log(step, {f"text/{tag}": self._package.Table(columns=["text"], data=[[text]])})

    def figure(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """As one of its pictures."""
        self._log(step, {tag: self._package.Image(pixels)})

    def report(self, step: int, tag: str, path: Path) -> None:
        """An HTML page that loads nothing, where the package shows such: W&B does, trackio does not."""
        if hasattr(self._package, "Html"):
            with open(path, encoding="utf-8") as page:
                self._log(step, {tag: self._package.Html(page, inject=False)})

    def close(self, failed: bool = False) -> None:
        """Wait until all of it is written or sent."""
        finish = self._package.finish
        finish(**({"exit_code": int(failed)} if "exit_code" in inspect.signature(finish).parameters else {}))

    def _log(self, step, values):
        if self._has_axes:
            self._page.log({**values, "step": step})
        else:
            self._page.log(dict(values), step=step)


@contextlib.contextmanager
def _refusals(package):
    """What its package says of the network or a login."""
    try:
        yield
    except Exception as error:
        raise BadInput(
            f"TRAIN.trackers: {package} does not open a page ({first_line(error)}); WANDB_MODE=offline keeps one here"
        ) from error


def _identity(run, package, start_step):
    """What the page of a run is called: remembered where the run goes on, else a new one."""
    path = run / IDS
    known: dict[str, Any] = read_json_object(path) if start_step and path.is_file() else {}
    if not isinstance(known.get(package), str):
        known[package] = secrets.token_hex(4)
        write_whole(path, json.dumps(known, indent=1) + "\n")
    return known[package]
