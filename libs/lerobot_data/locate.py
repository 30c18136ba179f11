"""Where a LeRobot data set lies: a folder, or a name of the Hugging Face hub that is on this machine or is fetched."""

import os
import re
from pathlib import Path

from libs.errors import BadInput, first_line
from libs.files import kind_of

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


def find_set(entry: Path | str) -> Path:
    """The folder of a data set.

    entry: a folder; or OWNER/NAME of the hub, with @REVISION where it is not to be the newest: then the copy that
    LeRobot keeps in its own folder, else the one in huggingface_hub's cache, where nothing of them is missing, else it
    is downloaded there.

    BadInput where there is no such folder and it is no name of the hub, the hub has no such set, or it cannot be
    reached.
    """
    if kind_of(entry):
        return Path(entry)
    if not HUB_ID.fullmatch(str(entry)):
        raise BadInput(f"{entry} does not exist, and is no name of a data set of the hub (OWNER/NAME)")
    name, _, revision = str(entry).partition("@")
    own = _lerobot_home() / name
    if not revision and _is_whole(own):
        return own
    found = _fetch(name, revision or None, local_files_only=True)
    return found if found is not None and _is_whole(found) else _fetch(name, revision or None, local_files_only=False)


def _lerobot_home():
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_LEROBOT_HOME") or Path(home) / "lerobot").expanduser()


def _is_whole(folder):
    """Whether a set stands there with every file and every row that it speaks of."""
    from libs.lerobot_data.layout import read_layout
    from libs.lerobot_data.parquet import open_parquet

    try:
        layout = read_layout(folder)
        rows = sum(open_parquet(path).metadata.num_rows for path in layout.data_files)
    except BadInput:
        return False
    clips = {clip.path for episode in layout.episodes for clip in episode.clips.values()}
    return rows == sum(episode.length for episode in layout.episodes) and all(path.is_file() for path in clips)


def _fetch(name, revision, local_files_only):
    """The folder in huggingface_hub's cache; None where it is not there and only looked for there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # of the package that speaks HTTP for it, which changes its name
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=local_files_only))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise BadInput(f"the hub has no data set {name} {revision or ''}({first_line(error)})") from None
    except LocalEntryNotFoundError as error:
        if local_files_only:
            return None
        raise _out_of_reach(name, error) from None
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise _out_of_reach(name, error) from None


def _out_of_reach(name, error):
    return BadInput(
        f"data set {name} is neither a folder nor whole in the local cache, and the hub cannot be reached "
        f"({first_line(error)}): download it where there is a network, and give its folder"
    )
