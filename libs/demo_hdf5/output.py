"""Writing a new HDF5 file to a disk that may be full.

HDF5 itself does not survive that: what it keeps for a file that it could not write stays half taken apart, and when the
process ends, it crashes (signal 11). So it is never told. Its bytes go through `_Disk`, which keeps in memory what the
disk does not take, and says so between two things that are written.
"""

import atexit
import contextlib
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import h5py

from libs.demo_hdf5.opening import UNLOCKED, refuse_to_open

PATIENCE_S = 10.0  # of the end of a program, for what a thread is writing


class Output:
    """A new HDF5 file at `path`, over one that is there. Close it.

    Unreadable, naming the file: it may not be written there, or another program has it open.
    """

    def __init__(self, path: Path | str) -> None:
        self._disk = _Disk(Path(path))
        self._busy = threading.RLock()
        with _undisturbed():
            self._file = h5py.File(self._disk, "w")
        atexit.register(self._end)

    @contextlib.contextmanager
    def writing(self) -> Iterator[h5py.File]:
        """The file, for all that is done to it, demo by demo or frame by frame: what stands in memory where the disk
        fails is what is written in one such block, and a signal waits for its end. OSError, naming the file: the disk
        did not take all of it; the file is worth nothing then."""
        self._disk.check()
        with self._busy, _undisturbed():
            yield self._file
        self._disk.check()

    def close(self) -> None:
        """OSError: as of `writing`; it is closed all the same. Again: nothing."""
        atexit.unregister(self._end)
        if self._file:
            with self._busy, _undisturbed():
                self._file.close()
                self._disk.close()
            self._disk.check()

    def _end(self):
        """The program ends while a thread still writes: it is stopped between two blocks, in HDF5 it would crash."""
        if self._busy.acquire(timeout=PATIENCE_S):
            self._file.close()


class _Disk:
    """A file as h5py takes it in place of a path. Nothing in it raises."""

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._end = path, 0, 0
        self._failed: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []  # (where, what) the disk did not take, in their order
        self._handle = -1
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            _lock(self._handle)
            os.ftruncate(self._handle, 0)
        except OSError as error:
            if self._handle >= 0:
                os.close(self._handle)
            refuse_to_open(path, error)

    def check(self) -> None:
        if self._failed:
            raise OSError(self._failed.errno, self._failed.strerror, str(self._path))

    def close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            self._try(lambda: os.close(handle))

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        self._place = place + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int) -> bytes:
        found = bytearray(size)
        return bytes(found[: self.readinto(found)])

    def readinto(self, wanted: bytearray | memoryview) -> int:
        wanted = memoryview(wanted).cast("B")
        first, size = self._place, min(len(wanted), max(0, self._end - self._place))
        self._try(lambda: _read_fully(self._handle, wanted[:size], first))
        for place, piece in self._kept:
            begin, end = max(place, first), min(place + len(piece), first + size)
            if begin < end:
                wanted[begin - first : end - first] = piece[begin - place : end - place]
        self._place += size
        return size

    def write(self, data: bytes | memoryview) -> int:
        data, place = memoryview(data).cast("B"), self._place
        if self._failed or not self._try(lambda: _write_fully(self._handle, data, place)):
            self._kept.append((place, bytes(data)))
        self._place += len(data)
        self._end = max(self._end, self._place)
        return len(data)

    def truncate(self, size: int) -> int:
        if not self._failed:
            self._try(lambda: os.ftruncate(self._handle, size))
        self._end = size
        return size

    def flush(self) -> None:
        """All stands in the operating system's hands already."""

    def _try(self, action):
        try:
            action()
            return True
        except OSError as error:
            self._failed = self._failed or error
            return False


def _read_fully(handle, wanted, place):
    """What the file does not hold (it was not written, or only to memory) reads as zeros."""
    while len(wanted) and (found := os.preadv(handle, [wanted], place)):
        wanted, place = wanted[found:], place + found
    wanted[:] = bytes(len(wanted))


def _write_fully(handle, data, place):
    while len(data):
        written = os.pwrite(handle, data, place)
        data, place = data[written:], place + written


def _lock(handle):
    """As HDF5 locks what it writes."""
    if os.environ.get(UNLOCKED.partition("=")[0], "").upper() in ("FALSE", "0"):
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise OSError(error.errno, f"unable to lock file: {error.strerror}") from error


@contextlib.contextmanager
def _undisturbed():
    """What a signal's handler raises (Ctrl-C, a scheduler's SIGTERM) comes after the block: HDF5 must not meet it in
    the midst of writing, either."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread
        return
    came = []
    before = {}
    try:
        for number in signal.valid_signals():
            if callable(handler := signal.getsignal(number)) and number not in (signal.SIGKILL, signal.SIGSTOP):
                before[number] = handler
                signal.signal(number, lambda *about: came.append(about))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, frame in came:
            before[number](number, frame)
