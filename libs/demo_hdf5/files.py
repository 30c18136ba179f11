"""Finding demonstration files."""

from pathlib import Path

from libs.errors import BadInput
from libs.files import kind_of


def demo_files(entry) -> list[Path]:
    """The file `entry`, or the sorted *.hdf5 below the folder `entry`, but for hidden folders, where the tools keep
    unfinished parts. BadInput where it does not exist or holds none."""
    entry = Path(entry)
    kind = kind_of(entry)
    if kind == "file":
        return [entry]
    if not kind:
        raise BadInput(f"{entry} does not exist")
    found = [path for path in sorted(entry.rglob("*.hdf5")) if "/." not in f"/{path.relative_to(entry)}"]
    if not found:
        raise BadInput(f"{entry} holds no *.hdf5 file")
    return found
