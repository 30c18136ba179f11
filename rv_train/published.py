"""Policies on the Hugging Face hub: the folder that a name, OWNER/NAME or OWNER/NAME@REVISION, stands for."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from libs import hub
from libs.errors import BadInput
from rv_train.backbones.loading import BASE_COPY

# What a model folder holds beside a card and pictures of it, by its ending.
KINDS = (".safetensors", ".json", ".yaml", ".txt", ".jinja", ".model")
PLACES = ("", "model/")  # of the files in a repository: as `export_model.py --push` puts them, or a run's step


def fetch_policy(name: str, needed: Sequence[str]) -> Path:
    """The folder in the hub's cache with the policy `name`, its newest version, downloaded where it is not there yet;
    the one that is there where the hub cannot be reached.

    needed: names of files that every policy of this project has. Nothing is downloaded of a repository that is none,
    and of one only what a policy needs.

    BadInput: the hub has no such model, wants a login, cannot be reached and nothing is cached; or what is there is no
    policy of this project.
    """
    try:
        names = hub.list_files(name)
    except hub.OutOfReach as error:
        folder = _cached(name, needed)
        if folder is None:
            raise hub.not_here(name, "model", error) from None
        return folder
    found = {place: _lacking(names, place, needed) for place in PLACES}
    place = next((place for place, lacking in found.items() if not lacking), None)
    if place is None:
        raise BadInput(
            f"{name} of the hub holds no policy of this project, it lacks {', '.join(found[''])}. What it holds: "
            f"{_listed(names)}. Of an original VLA-0 run tools/import_vla0.py makes one"
        )
    return hub.fetch(name, files=_wanted(names, place)) / place


def _cached(name, needed):
    """The folder of a policy that was fetched before, None where a file of it is missing."""
    for place in PLACES:
        folder = hub.cached_folder(name, f"{place}{needed[0]}")
        if folder is not None:
            there = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
            return None if _lacking(there, place, needed) else folder / place
    return None


def _lacking(names, place, needed):
    """What a policy under `place` needs and `names` of files do not have."""
    lacking = [file for file in needed if f"{place}{file}" not in names]
    if not any(_folder(file) == place and file.endswith(".safetensors") for file in names):
        lacking.append("weights (*.safetensors)")
    return lacking


def _wanted(names, place):
    """Shell patterns of the files of a policy."""
    folders = (place, f"{place}{BASE_COPY}/")
    wanted = [name for name in names if _folder(name) in folders and name.endswith(KINDS)]
    return [name.replace("[", "[[]") for name in wanted]


def _folder(name):
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else f"{parent}/"


def _listed(names, most=5):
    shown = ", ".join(names[:most]) or "nothing"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
