"""Putting a model folder on the Hugging Face hub: all of it in one commit, or nothing."""

from dataclasses import dataclass
from pathlib import Path

from libs.errors import BadInput, first_line
from libs.hub import HUB_ID, refusals
from rv_train.checkpoint import CONFIG

OWN_FILES = {".gitattributes", "README.md"}  # what a repository holds that holds no model yet


@dataclass(frozen=True)
class Place:
    """Where a policy is to go. newest: the commit that it replaces, None where the repository is to be made."""

    name: str
    private: bool
    newest: str | None


def check_place(name: str, private: bool) -> Place:
    """Asks the hub whether a policy may become OWNER/NAME, before anything is computed; changes nothing.

    private: nobody else may see it. BadInput: no such form, no login, the hub cannot be reached, what is called so
    holds something else than a policy of this project, or is public where a private one is wanted.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    found = HUB_ID.fullmatch(name)
    if not found or found[2]:  # a revision
        raise BadInput(f"--push {name}: a name on the hub is OWNER/NAME")
    api = HfApi()
    with refusals(name):
        user = api.whoami()["name"]
        try:
            info = api.model_info(name)
        except RepositoryNotFoundError:
            return Place(name, private, None)
    files = {file.rfilename for file in info.siblings or ()}
    if CONFIG not in files and files - OWN_FILES:
        others = ", ".join(sorted(files - OWN_FILES)[:3])
        raise BadInput(f"--push {name}: it holds no policy of this project but {others}: choose another name")
    if private and not info.private:
        raise BadInput(f"--push {name} --private: it is there already, and public: {user} makes it private on its page")
    return Place(name, bool(info.private), info.sha)


def push(folder: Path, place: Place) -> str:
    """Make the repository where there is none, and put the files of a folder there in one commit, which takes away what
    else it held; the address of that commit. BadInput: the hub refuses, or cannot be reached: what was there before is
    as it was."""
    from huggingface_hub import HfApi

    api = HfApi()
    with refusals(place.name):
        if place.newest is None:
            api.create_repo(place.name, private=place.private, exist_ok=True)
        try:
            commit = api.upload_folder(
                repo_id=place.name,
                folder_path=folder,
                commit_message="A policy",
                delete_patterns="*",
                parent_commit=place.newest,
            )
        except RuntimeError as error:  # of the library, around what ended the upload of a large file
            if error.__cause__ is None:
                raise
            raise BadInput(f"the hub did not take it: {first_line(error)} ({first_line(error.__cause__)})") from error
    return str(commit.commit_url)
