"""An object, usually a RobosuiteEnv, in a child process that can be given up when it crashes or hangs.

The child is a fresh interpreter (it does not import the caller's main module or share its OpenGL state),
runs one request after the other, and ends when its parent ends, however that happens.
"""

import contextlib
import functools
import importlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from libs.errors import BadInput
from libs.jobs import await_killed
from libs.robosuite_sim.gl import child_environment, give_back_device, take_device

_ROOT = Path(__file__).resolve().parents[2]  # the child must find the same packages
_SERVE = "import sys; sys.path[:0] = sys.argv[2:]; from libs.robosuite_sim.remote import serve; serve(int(sys.argv[1]))"
_CLOSE = "close"


class SimTimeout(RuntimeError):
    """A call took longer than it may; the child was killed."""


class SimCrash(RuntimeError):
    """The child died, or its object raised something other than BadInput."""


class SimStartFailed(SimCrash):
    """The object could not be made: it raised something other than BadInput."""


class RemoteObject:
    """The object that `factory(**kwargs)` makes, in a child process.

    factory: "module:name", importable from the repository root. timeout_s: limit of one call, counted
    from the moment its answer is awaited. start_timeout_s: added to the first call, which waits for the
    object. hide_cuda: the child computes nothing on a GPU; it may draw there, see child_environment.
    The constructor returns at once. Every method may raise SimTimeout or SimCrash; both leave the child dead.
    BadInput of the object arrives as BadInput, and the child lives on.
    """

    def __init__(
        self,
        factory: str,
        kwargs: dict,
        timeout_s: float = 120.0,
        start_timeout_s: float = 180.0,
        hide_cuda: bool = True,
    ) -> None:
        self.timeout_s = timeout_s
        self._extra_s = start_timeout_s
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        self._connection, other_end = Pipe()
        self._device = take_device()
        # Software rendering and numpy would each start a thread per core in every child.
        environment = {"LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **child_environment(self._device, hide_cuda)}
        with other_end:
            self._child = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(other_end.fileno()), str(_ROOT)],
                pass_fds=[other_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                env=environment,
            )
        self._write((factory, kwargs))

    @property
    def pid(self) -> int:
        return self._child.pid

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Send a request and wait for its answer."""
        self.send(method, *args)
        return self.recv(timeout_s)

    def send(self, method: str, *args: Any) -> None:
        """Queue a request; answers come in the order of the requests."""
        self._write((method, args))

    def recv(self, timeout_s: float | None = None) -> Any:
        """The answer to the oldest unanswered request."""
        limit = (self.timeout_s if timeout_s is None else timeout_s) + self._extra_s
        try:
            if not self._connection.poll(limit):
                self.kill()
                raise SimTimeout(f"no answer within {limit:g} s; the process was killed")
            status, value, *trace = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._crash() from error
        self._extra_s = 0.0
        if status == "ok":
            return value
        if status == "BadInput":
            raise BadInput(value)
        self.kill()
        crash = (SimStartFailed if status == "start" else SimCrash)(value)
        for text in trace:  # the child's traceback, shown below this one's
            crash.add_note(text)
        raise crash

    def fileno(self) -> int:
        """Readable when an answer is there: for multiprocessing.connection.wait."""
        return self._connection.fileno()

    def close(self, timeout_s: float = 10.0) -> None:
        """Let the child finish and clean up, or kill it after `timeout_s`. Never raises."""
        with contextlib.suppress(SimCrash):
            self.send(_CLOSE)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End the child now."""
        if self._child.poll() is None:
            self._child.kill()
            await_killed(self._child)
        self._connection.close()
        give_back_device(self._device)
        self._device = None

    def __enter__(self) -> "RemoteObject":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise self._crash() from error

    def _crash(self) -> SimCrash:
        """What is known about a child that is gone."""
        self.kill()
        code = self._child.returncode
        lines = []
        if not self._log.closed:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()[-3:]
        return SimCrash(f"the process ended with code {code}: {' / '.join(lines) or 'no message'}")


class SimProcess(RemoteObject):
    """The calls of a RobosuiteEnv, run in a child process: see RemoteObject for time-outs and errors. A subclass names
    the env.

    `process.step(action, views)` waits for the answer; `send("step", action, views)` and `recv()` do not.
    """

    FACTORY: str  # "module:class"
    METHODS = frozenset(
        ("reset", "settle", "step", "check_success", "sim_state", "set_sim_state", "render", "proprio_dict")
    ) | {"model_xml"}

    def __init__(
        self,
        task: Any,
        resolution: int = 256,
        render: str = "standard",
        timeout_s: float = 120.0,
        start_timeout_s: float = 180.0,
    ) -> None:
        kwargs = {"task": task, "resolution": resolution, "render": render}
        super().__init__(self.FACTORY, kwargs, timeout_s, start_timeout_s)

    def __getattr__(self, name: str) -> Any:
        if name in SimProcess.METHODS:
            return functools.partial(self.call, name)
        raise AttributeError(f"a {type(self).__name__} has no {name!r}")


def serve(fd: int) -> None:
    """The child's side: make the object, answer requests from the pipe `fd` until told to close."""
    connection = Connection(fd)
    requests: queue.Queue = queue.Queue()
    threading.Thread(target=_read, args=(connection, requests), daemon=True).start()
    factory, kwargs = requests.get()
    module, name = factory.split(":")
    target = failure = None
    try:
        target = getattr(importlib.import_module(module), name)(**kwargs)
    except Exception as error:
        failure = _describe(error, "start")
    while (request := requests.get())[0] != _CLOSE:
        method, args = request
        reply = failure
        if failure is None:
            try:
                reply = ("ok", getattr(target, method)(*args))
            except Exception as error:
                reply = _describe(error)
        connection.send(reply)
    if target is not None:
        target.close()


def _read(connection: Connection, requests: queue.Queue) -> None:
    """Requests are read while the simulator works, so that the end of the parent is noticed at any time."""
    try:
        while True:
            requests.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


def _describe(error: Exception, kind: str = "error") -> tuple[str, ...]:
    if isinstance(error, BadInput):
        return "BadInput", str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
    return kind, text, "".join(traceback.format_exception(error)).rstrip()
