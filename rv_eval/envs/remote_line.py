"""A conversation with an environment that runs in a program of its own, perhaps one that is still starting."""

import contextlib
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections import deque

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from libs.errors import BadInput
from libs.jobs import await_killed
from rv_eval.envs.base import CannotStart, WorkerFailure
from rv_eval.envs.remote_messages import MAX_BYTES, Greeting, read_greeting, unpack
from rv_eval.serving.connection import abort

PAUSE_S = 0.1
ANSWER_S = 10.0  # until the greeting, and for a request to be taken
LAST_BYTES = 2**16  # of what a process has said, in which its last words are
MAX_WAITING = 10_000  # answers that nobody has taken: far more than were asked for

_ADDRESS = re.compile(rb"^(ws://\S+)\s*$", re.MULTILINE)
# What would make another Python find our packages.
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class StandingServer:
    """An environment at an address, started by somebody else. patience_s: how long it is tried while nobody answers."""

    def __init__(self, url: str, patience_s: float) -> None:
        self.url, self.patience_s = url, patience_s

    def address(self) -> str:
        return self.url

    def last_words(self) -> str | None:
        """Nothing is known of it."""
        return None

    def close(self) -> None:
        """It goes on living."""


class StartedServer:
    """An environment that is started here, by a command to which --child is added, and ends with this process.

    It says its address on a line of standard output, and ends where its standard input does. BadInput: there is no such
    program.
    """

    patience_s = float("inf")  # as long as it lives; who waits for an answer has a limit of his own

    def __init__(self, command: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        words = split_command(command)
        # Software rendering and numpy would each start a thread per core in every child.
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        environment |= {"LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(
                [*words, "--child"],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to handle, and all of it can be ended
                env=environment,
            )
        except OSError as error:
            raise BadInput(f"--env_command: {words[0]} cannot be started ({error.strerror})") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def address(self) -> str | None:
        """None: not yet. CannotStart: it ended, and its last words."""
        if self._process.poll() is not None:
            raise CannotStart(self.last_words())
        found = _ADDRESS.search(os.pread(self._log.fileno(), 2**20, 0))
        return found[1].decode() if found else None

    def last_words(self) -> str | None:
        """How its process ended; None where it lives on. Given a moment: a connection may be lost a little sooner."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return None
        end = os.fstat(self._log.fileno()).st_size
        said = os.pread(self._log.fileno(), LAST_BYTES, max(0, end - LAST_BYTES))
        last = " / ".join(said.decode(errors="replace").strip().splitlines()[-3:])
        return f"its process ended with code {code}: {last or 'no message'}"

    def close(self) -> None:
        """End it now, with whatever it started in its group."""
        assert self._process.stdin is not None, "a pipe"
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await_killed(self._process)


class Line:
    """Requests to a server and its answers, in order. The constructor returns at once; what is sent before the server
    is there waits. A thread of its own receives, so `fileno` is readable when there is something to `receive`.

    wanted: the Greeting that the server must have, None: any; `greeting` is its own, once it is there.
    """

    def __init__(self, server: StandingServer | StartedServer, wanted: Greeting | None = None) -> None:
        self.server, self.greeting = server, wanted
        self._ready, self._lock, self._closed = threading.Event(), threading.Lock(), False
        self._error: Exception | None = None
        self._connection: ClientConnection | None = None
        self._unsent: list[bytes] = []
        self._arrived: deque[dict | Exception] = deque()
        self._arriving = threading.Lock()
        self._bell, self._rung = socket.socketpair()  # holds a byte as long as something has arrived
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self, timeout_s: float) -> Greeting:
        """The greeting. Raises what went wrong instead; CannotStart: nothing within `timeout_s`."""
        if not self._ready.wait(timeout_s):
            raise CannotStart(f"it says nothing within {timeout_s:g} s")
        if self._error is not None:
            raise self._error
        assert self.greeting is not None, "it was read before it was ready"
        return self.greeting

    def send(self, message: bytes) -> None:
        """Never raises: that the other end is gone is what `receive` says."""
        with self._lock:
            if self._connection is None:
                self._unsent.append(message)
                return
            with contextlib.suppress(OSError, ConnectionClosed):
                self._connection.send(message)

    def fileno(self) -> int:
        return self._bell.fileno()

    def receive(self) -> dict:
        """The next answer: call when readable. Raises what went wrong instead: BadInput, CannotStart, WorkerFailure."""
        with self._arriving:
            answer = self._arrived.popleft()
            if not self._arrived:
                self._bell.recv(1)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Hang up, and end a server that was started here. Never raises, and does not wait for the other end."""
        with self._lock:
            self._closed = True
            connection = self._connection
        self.server.close()
        if connection is not None:
            abort(connection)
        self._bell.close()
        self._rung.close()

    def _run(self):
        try:
            connection = self._connect()
        except Exception as error:
            self._error = error
            self._deliver(error)
            self._ready.set()
            return
        self._ready.set()
        try:
            while len(self._arrived) < MAX_WAITING:
                self._deliver(unpack(connection.recv()))
            raise BadInput("it answers what nobody has asked")
        except BadInput as error:
            self._deliver(error)
        except (OSError, ConnectionClosed) as error:
            if not self._closed:
                lost = self.server.last_words() or f"the connection is lost: {_reason(error)}"
                self._deliver(WorkerFailure(lost))

    def _connect(self):
        """The connection, its greeting read and what waited sent."""
        deadline = time.monotonic() + self.server.patience_s
        while True:
            try:
                address = self.server.address()
                if address is not None:
                    return self._open(address)
            except (OSError, ConnectionClosed, InvalidHandshake) as error:
                if time.monotonic() > deadline:
                    raise CannotStart(f"nobody answers at {address}: {_reason(error)}") from error
            if self._closed:
                raise WorkerFailure("it was given up")
            time.sleep(PAUSE_S)

    def _open(self, address):
        try:
            connection = connect(
                address,
                compression=None,
                proxy=None,
                open_timeout=ANSWER_S,
                ping_interval=None,
                close_timeout=1,
                max_size=MAX_BYTES,
                legacy=True,  # gives the connection itself, to be kept
            )
        except (InvalidURI, ValueError) as error:  # ValueError: of a port that is none
            raise BadInput(f"the address of an environment is ws://host:port, not {address!r}") from error
        try:
            found = read_greeting(unpack(connection.recv(ANSWER_S)))
            if self.greeting is not None and found != self.greeting:
                raise BadInput(f"the environment at {address} came back as another one: its description changed")
            # A server that stands still must not block us while we send.
            limit = struct.pack("ll", int(ANSWER_S), 0)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            with self._lock:
                if self._closed:
                    raise WorkerFailure("it was given up")
                for message in self._unsent:
                    connection.send(message)
                self.greeting, self._connection = found, connection
        except BaseException:
            abort(connection)
            raise
        return connection

    def _deliver(self, answer):
        with self._arriving, contextlib.suppress(OSError):  # closed: nobody will ask
            self._arrived.append(answer)
            if len(self._arrived) == 1:
                self._rung.send(b"\0")


def split_command(command: str) -> list[str]:
    """The words of a command line. BadInput: there are none, or a quotation mark is not closed."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadInput(f"--env_command {command!r}: {error}") from None
    if not words:
        raise BadInput("--env_command is empty: give the command that starts an environment")
    return words


def _reason(error):
    return str(error) or type(error).__name__
