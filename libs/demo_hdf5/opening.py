"""Opening HDF5 files and what stands in them: whatever is wrong is said in one line, with the way out."""

import contextlib
import errno
import functools
import importlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import h5py

from libs.errors import BadInput
from libs.files import OF_THE_PATH

UNLOCKED = "HDF5_USE_FILE_LOCKING=FALSE"
CUT_OFF = "a copy or download that was cut off; get it again"
BEGINNINGS = {  # first bytes of a file that is not HDF5 -> what it is and what to do
    b"version https://git-lfs": "a pointer of Git LFS, not the data: run `git lfs pull` where it lies",
    b"/annex/objects/": "a pointer of git-annex, not the data: run `git annex get` where it lies",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x1f\x8b": "packed with gzip: unpack it",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it",
    b"BZh": "packed with bzip2: unpack it",
    b"\xfd7zXZ": "packed with xz: unpack it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"<": "a web page, not the data (was a login needed?): get it again",
}
FILTERS = {  # numbers that the HDF Group has given away
    1: "gzip",
    2: "shuffle",
    3: "Fletcher-32",
    4: "SZIP",
    307: "bzip2",
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "Bitshuffle",
    32013: "ZFP",
    32015: "Zstd",
    32017: "SZ",
    32018: "FCIDECOMP",
    32019: "JPEG",
    32024: "SZ3",
    32026: "Blosc2",
    32028: "SPERR",
}


class Unreadable(BadInput):
    """A file, or something in it, that cannot be read here; other bad input can be read, but is not what is needed."""


def open_file(path: Path | str, mode: str = "r") -> h5py.File:
    """An HDF5 file, opened as h5py.File does; packages of filters, where installed, are loaded before.

    Unreadable, naming the file, where it is missing, no file, locked, not HDF5, truncated, or may not be read or
    written. What else may happen (a full disk) stays an OSError.
    """
    _load_filters()
    if mode == "r":
        check_file(path)
    try:
        return h5py.File(path, mode)
    except OSError as error:
        refuse_to_open(path, error)


def refuse_to_open(path: Path | str, error: OSError) -> NoReturn:
    """Unreadable, saying why a demo file could not be opened; the error itself where nobody can know that."""
    problem = _problem_of_opening(Path(path), error)
    if not problem:
        raise error
    raise Unreadable(f"demo file {path} cannot be opened: {problem}") from None


@contextlib.contextmanager
def sound(path: Path | str) -> Iterator[None]:
    """Around reading an open file: Unreadable, naming it, where its bytes make no sense to HDF5."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise Unreadable(f"demo file {path} is damaged ({text}); get it again") from None


def check_file(path: Path | str, what: str = "demo file ") -> None:
    """Unreadable where there is no ordinary file. what: how the message begins."""
    if "\0" in str(path):
        raise Unreadable(f"{what}{str(path)!r} is no path")
    if problem := _problem_of_file(path):
        raise Unreadable(f"{what}{path} {problem}")


def find(group: h5py.Group, key: str, where: str) -> h5py.Group | h5py.Dataset | None:
    """The group or array at `key`, a path below a group; None where there is nothing of that name.

    where: "demo file X, demo_0", for messages. Unreadable where a link on the way leads nowhere, or to something that
    cannot be read.
    """
    found = group
    for name in key.split("/"):
        if not isinstance(found, h5py.Group):
            return None
        link = None
        try:
            link = found.get(name, getlink=True)
            if link is None:
                return None
            found = found[name]
        except (KeyError, OSError, RuntimeError) as error:
            raise Unreadable(f"{where}: {key} {_dead_end(found, link, error)}") from None
    return found


def check_readable(array: h5py.Dataset, where: str) -> None:
    """Unreadable where an array's values are packed by a filter that is not installed, or stand in other files that
    cannot be opened (HDF5 itself would read zeros in their place). where: as it is to be called in the message."""
    for number, name in filters_of(array).items():
        if not h5py.h5z.filter_avail(number):
            raise Unreadable(
                f"{where} is packed by HDF5 filter {number} ({name}), which is not installed: pip install hdf5plugin "
                "(it is loaded by itself), or write the file anew where the filter is: h5repack -f GZIP=1 OLD NEW"
            )
    if not array.is_virtual:
        return
    for source in array.virtual_sources():
        if source.file_name == "." or "%" in source.file_name:  # this file; a pattern of names
            continue
        about = f"{where} is a view of {source.dset_name} in another file"
        try:
            with open_file(_beside(array.file, source.file_name)) as file:
                found = file.get(source.dset_name)
        except Unreadable as error:
            raise Unreadable(f"{about}: {error}") from None
        if found is None:
            raise Unreadable(f"{about}, {source.file_name}, where there is nothing of that name")


def filters_of(array: h5py.Dataset) -> dict[int, str]:
    """{number: name} of the filters that an array is packed by, in their order."""
    made = array.id.get_create_plist()
    filters = (made.get_filter(n) for n in range(made.get_nfilters()))
    return {
        number: FILTERS.get(number) or name.decode(errors="replace").strip("\0 ") or "unknown"
        for number, _, _, name in filters
    }


@functools.cache
def _load_filters() -> None:
    """Importing hdf5plugin is what makes its filters known to h5py. Nothing here needs it: any version will do."""
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")


def _problem_of_file(path: Path | str) -> str:
    """Why there is no ordinary file at a path, "" where there is one."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return f"{f'is a link to {os.readlink(path)}, which ' if os.path.islink(path) else ''}does not exist"
        if error.errno == errno.ELOOP:
            return "is a link that leads back to itself"
        if error.errno == errno.EACCES:
            return "cannot be reached: you may not look into its folder (Permission denied)"
        if error.errno == errno.ESTALE:
            return "cannot be reached (Stale file handle): mount the network disk again"
        if error.errno in OF_THE_PATH:
            return f"cannot be read ({error.strerror})"
        raise
    if stat.S_ISDIR(mode):
        return "is a folder, not a file"
    return "" if stat.S_ISREG(mode) else "is no ordinary file: a pipe, a socket or a device"


def _problem_of_opening(path: Path, error: OSError) -> str:
    """What keeps an existing file from being opened, and the way out; "" where nobody can know it from here."""
    text = " ".join(str(error).split())
    if "unable to lock file" in text:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return (
                "locked, another program has it open; end that, or let it finish. If none has, the file system's "
                f"locks are at fault: set {UNLOCKED}"
            )
        return f"it cannot be locked ({os.strerror(error.errno or 0)}), its file system has no locks: set {UNLOCKED}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{os.strerror(error.errno)}: ask its owner, or change its mode (chmod)"
    if error.errno == errno.ESTALE:
        return "Stale file handle: the file server has replaced it; mount the network disk again"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open: raise the limit (ulimit -n)"
    if error.errno is not None:
        return ""
    if "already open" in text:
        return (
            "it is being written, or its writer died; let it finish, or mark it as closed: h5clear -s FILE "
            "(what the writer had not stored is lost)"
        )
    if "signature" in text:
        return _other_format(path)
    if sizes := re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", text):
        have, whole = map(int, sizes.groups())
        return f"truncated, {have:,} of {whole:,} bytes are there: {CUT_OFF}"
    return f"truncated, damaged, or of a newer HDF5 than {h5py.version.hdf5_version} ({text}); get it again"


def _other_format(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return f"truncated, it is empty (0 bytes): {CUT_OFF}"
    for beginning, what in BEGINNINGS.items():
        if head.startswith(beginning):
            return f"not HDF5 but {what}"
    if head[257:262] == b"ustar":
        return "not HDF5 but a tar archive: unpack it"
    return f"not HDF5, it begins with {head[:16]!r}: is it another file, or damaged?"


def _dead_end(parent: h5py.Group, link: Any, error: Exception) -> str:
    """What is to be said of a name below `parent` that cannot be opened."""
    text = " ".join(str(error).split()).strip("'\"")
    if not isinstance(link, (h5py.SoftLink, h5py.ExternalLink)):
        return f"is damaged ({text}); get the file again"
    if "too many links" in text:
        return f"is a link to {link.path} that leads back to itself"
    if isinstance(link, h5py.SoftLink):
        return f"is a link to {link.path}, where there is nothing"
    path = _beside(parent.file, link.filename)
    try:
        open_file(path).close()
    except Unreadable as problem:
        return f"is a link to {link.path} in another file: {problem}"
    return f"is a link to {link.path} in {path}, where there is nothing"


def _beside(file: h5py.File, name: str) -> Path:
    """Where HDF5 looks for another file that a file names: beside it, or from the working directory."""
    folders = (os.path.dirname(file.filename), os.path.dirname(os.path.realpath(file.filename)), "")
    paths = [Path(folder, name) for folder in folders]
    return next((path for path in paths if path.exists()), paths[0])
