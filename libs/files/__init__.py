"""Files and folders that somebody named: what is wrong with one is bad input, what is wrong with the disk is not."""

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from libs.errors import BadInput

# What an operation on a path fails with if another path would do. A full disk, a device that fails, a lost network disk
# are none of them.
OF_THE_PATH = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS)
) | {errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.ENOTEMPTY}


@contextlib.contextmanager
def named_path(path: Path | str, what: str = "read") -> Iterator[None]:
    """What is done in here with a path that the user named: BadInput where the path is the reason why it cannot be.

    what: what cannot be done then, "read", "written". Every other error comes out as it is.
    """
    if "\0" in str(path):
        raise BadInput(f"{str(path)!r} is no path")
    try:
        yield
    except OSError as error:
        if error.errno not in OF_THE_PATH:
            raise
        missing = what == "read" and error.errno == errno.ENOENT
        reason = "does not exist" if missing else f"cannot be {what} ({error.strerror})"
        raise BadInput(f"{path} {reason}") from error


def kind_of(path: Path | str) -> str:
    """ "file" or "folder", "" where nothing stands there; BadInput where that cannot be seen."""
    with named_path(path):
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return ""
    return "folder" if stat.S_ISDIR(mode) else "file"


def short_path(path: Path | str) -> str:
    """A path as short as it says the same here: relative to the working folder where it lies in it."""
    relative = os.path.relpath(path) if os.path.isabs(path) else str(path)
    return str(path) if relative.startswith("..") else relative


def shipped(path: Path | str) -> Path:
    """The path itself; a relative path under `configs` that is not here, as it lies beside this code."""
    path = Path(path)
    beside = Path(__file__).parents[2] / path
    return beside if path.parts[:1] == ("configs",) and not path.exists() and beside.exists() else path


def read_text(path: Path | str) -> str:
    """The UTF-8 text of a file, or of a shipped one; BadInput where it is missing, unreadable, a folder or no text."""
    path = shipped(path)
    with named_path(path):
        try:
            return Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(f"{path} is not a text file ({error})") from None


def read_json(path: Path | str, unique: bool = False) -> Any:
    """What a JSON file holds; BadInput as `read_text`, and where it is not JSON.

    unique: and where a name stands twice in an object, whose last would silently count.
    """
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=without_repeats if unique else None)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid JSON: {error}") from None


def without_repeats(pairs: list[tuple]) -> dict:
    """The object that a JSON reader found these (name, value) pairs in; BadInput where a name stands there twice."""
    found: dict = {}
    for name, value in pairs:
        if name in found:
            raise BadInput(f"{name!r} stands there twice")
        found[name] = value
    return found


def read_json_object(path: Path | str, unique: bool = False) -> dict:
    """What a JSON file holds that must hold an object; `unique` as in `read_json`."""
    found = read_json(path, unique)
    if not isinstance(found, dict):
        raise BadInput(f"{path} is not a JSON object")
    return found


def read_yaml(path: Path | str) -> Any:
    """What a YAML file holds, None where it is empty; BadInput as `read_text`, and where it is not YAML or a name
    stands twice in a mapping: the last would silently count, and of a section all that the first says be lost."""
    text = read_text(path)
    try:
        return yaml.load(text, _WithoutRepeats)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        raise BadInput(f"{path} is not valid YAML: {error}") from None


class _WithoutRepeats(yaml.SafeLoader):
    """Looks at what is written, before merge keys (<<) bring names that may stand there again."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        lines: dict = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in lines:
                    raise BadInput(f"{key.value!r} stands there twice, in lines {lines[name]} and {line}: make it one")
                lines[name] = line
        return node


@contextlib.contextmanager
def whole_file(path: Path | str, sync: bool = False, contested: bool = False) -> Iterator[Path]:
    """Gives the path of a file beside `path`, of the same suffix, to be written; it becomes `path` at the end of the
    block, in one move. So a file under that name is always complete, and what stood there before stays until then.

    Nothing is left where the block fails; what a kill leaves, `NAME.part.SUFFIX`, the next try replaces.

    sync: it is on the disk before it gets its name, so that a crash of the machine leaves no empty file, either.
    contested: other processes may be writing the same file: each has one of its own beside it.
    """
    path = Path(path)
    beside = path.with_name(f"{path.stem}.part{os.getpid() if contested else ''}{path.suffix}")
    try:
        yield beside
        if sync:
            flush(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path | str, content: str | bytes, sync: bool = False, contested: bool = False) -> None:
    """Write a file as `whole_file` does, its folder made where there is none; text becomes UTF-8."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, sync, contested) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def link_or_copy(path: Path | str, target: Path | str) -> None:
    """Let a file stand at `target`, too: as a link that shares its space, or as a copy where that cannot be. For files
    that are never written again; links on the way to `path` are followed."""
    try:
        os.link(Path(path).resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def flush(path: Path | str) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path | str) -> Path:
    """The folder, made with its parents where it does not exist; BadInput where that cannot be."""
    path = Path(path)
    with named_path(path, "made"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def check_new_folder(path: Path | str) -> None:
    """BadInput unless files can be put into this folder, which need not exist. Makes nothing: for the start of what
    writes at its end."""
    _check_room(path, Path(os.path.abspath(path)))


def check_new_file(path: Path | str) -> None:
    """BadInput unless a file can be written there, over one that exists, too. Makes nothing."""
    path = Path(path)
    if kind_of(path) == "folder":
        raise BadInput(f"{path} is a folder: name a file")
    if kind_of(path) == "file" and not os.access(path, os.W_OK):
        raise BadInput(f"{path} cannot be written: no permission")
    _check_room(path, Path(os.path.abspath(path)).parent)


def _check_room(path, folder):
    """BadInput, about `path`, unless `folder` stands there or can be made, and files in it."""
    kind_of(path)
    while not (kind := kind_of(folder)):
        folder = folder.parent
    if kind == "file":
        raise BadInput(f"{path} cannot be written: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"{path} cannot be written: no permission to write into {folder}")
