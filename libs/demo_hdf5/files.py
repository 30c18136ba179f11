"""Finding demonstration files."""

import os
from pathlib import Path
from typing import NoReturn

from libs.demo_hdf5.opening import check_file
from libs.errors import BadInput

SUFFIXES = (".hdf5", ".h5")  # in capitals, too


def demo_files(*entries: Path | str) -> list[Path]:
    """Files, and folders with everything below them -> the demonstration files, each once, however many ways lead to
    it: in the order of the entries, those of a folder sorted.

    Of a folder: *.hdf5 and *.h5, also behind symbolic links, but nothing hidden (names that begin with a dot), where
    the tools keep unfinished parts. A file that is named itself may be called as it likes. BadInput where an entry
    does not exist, a folder cannot be read or holds none.
    """
    found: dict[str, Path] = {}  # where a file really lies -> its path
    for entry in map(Path, entries):
        if os.path.isdir(entry):
            paths = _below(entry)
        else:
            check_file(entry, "")
            paths = [entry]
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _below(folder: Path) -> list[Path]:
    found: list[Path] = []
    others: list[Path] = []
    entered = {str(path) for path in Path(os.path.realpath(folder)).parents}  # a link to one of them is a circle, too
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        really = os.path.realpath(place)
        if really in entered:
            folders.clear()
            continue
        entered.add(really)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            # What lacks an ending and leads nowhere was to be a folder: opening it will say so.
            wanted = path.name.lower().endswith(SUFFIXES) or (not path.suffix and not path.exists())
            (found if wanted else others).append(path)
    if found:
        return sorted(found)
    message = f"{folder} holds no *.hdf5 or *.h5 file"
    if others:
        message += f", but others such as {min(others).relative_to(folder)}: name such a file itself"
    raise BadInput(message)


def _refuse(error: OSError) -> NoReturn:
    raise BadInput(f"folder {error.filename} cannot be read: {error.strerror}") from None
