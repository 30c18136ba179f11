"""Where a LeRobot data set lies: a folder, or a name of the Hugging Face hub that is on this machine or is fetched."""

import os
from pathlib import Path

from libs import hub
from libs.errors import BadInput
from libs.files import kind_of

KIND = "data set"


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
    if not hub.HUB_ID.fullmatch(str(entry)):
        raise BadInput(f"{entry} does not exist, and is no name of a data set of the hub (OWNER/NAME)")
    name, revision = hub.split_id(str(entry))
    own = _lerobot_home() / name
    if not revision and _is_whole(own):
        return own
    found = hub.fetched(str(entry), KIND)
    return found if found is not None and _is_whole(found) else hub.fetch(str(entry), KIND)


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
