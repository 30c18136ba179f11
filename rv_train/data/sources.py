"""The kinds of data that DATA.SOURCE can name, a line each. How to add one: docs/adding_dataset.md."""

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from libs.errors import BadInput
from rv_train.data.base import Source

# DATA.SOURCE -> where its `Source` is. It is imported when it is used: a model that plays needs no HDF5. What is looked
# at to tell of what kind some files are is asked in this order, and the first is what a recipe gets that says nothing.
SOURCES = {
    "hdf5": "rv_train.data.hdf5:Hdf5",
    "manifest": "rv_train.data.manifest:Manifests",
    "lerobot": "rv_train.data.lerobot:LeRobot",
    "mix": "rv_train.data.mixture:Mix",
}


def find_source(name: str) -> Source:
    """The source of that name; BadInput where there is none."""
    if name not in SOURCES:
        raise BadInput(f"no DATA.SOURCE {name!r}: there are {', '.join(SOURCES)}")
    module, _, kind = SOURCES[name].partition(":")
    return getattr(importlib.import_module(module), kind)()


def source_that_fits(entries: Iterable[Path | str]) -> str:
    """The name of the source that all of some files and folders look like; the first one where none does: opening them
    will say what is wrong."""
    return next(fitting(entries), next(iter(SOURCES)))


def fitting(entries: Iterable[Path | str]) -> Iterator[str]:
    """The names of the sources that all of some files and folders look like."""
    paths = [Path(entry) for entry in entries]
    return (name for name in SOURCES if all(_fits(find_source(name), path) for path in paths))


def _fits(source: Source, entry: Path) -> bool:
    try:
        return source.fits(entry)
    except (OSError, ValueError):  # what can be no path, or may not be looked at
        return False
