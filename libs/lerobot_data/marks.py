"""What a folder that holds a LeRobot data set is known by."""

from pathlib import Path

from libs.files import kind_of

INFO, OLD_INFO = "meta/info.json", "meta_data/info.json"  # of version 2.0 on, and before


def is_set(path: Path | str) -> bool:
    """Whether a folder looks like a LeRobot data set of any version."""
    return any(kind_of(Path(path) / name) == "file" for name in (INFO, OLD_INFO))
