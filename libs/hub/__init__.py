"""The Hugging Face hub: names of what lies there, how it is fetched, and its refusals as bad input.

Whether it is asked at all, where, and as whom is huggingface_hub's own: HF_HUB_OFFLINE, HF_ENDPOINT, HF_HOME, HF_TOKEN
and `hf auth login` hold here, too.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from libs.errors import BadInput, first_line
from libs.files import kind_of

HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
LOGIN = "`hf auth login`, or HF_TOKEN in the environment"


class OutOfReach(BadInput):
    """The hub did not answer, or is not to be asked."""


def is_hub_id(entry: Path | str) -> bool:
    """Whether OWNER/NAME or OWNER/NAME@REVISION was meant: nothing stands there, and no folder OWNER, either, in which
    a run folder's name could be mistyped."""
    return not kind_of(entry) and bool(HUB_ID.fullmatch(str(entry))) and not kind_of(Path(entry).parts[0])


def split_id(name: str) -> tuple[str, str | None]:
    """OWNER/NAME and the revision behind it (None: the newest). What has no such form is all name."""
    found = HUB_ID.fullmatch(name)
    return (found[1], found[2]) if found else (name, None)


@contextlib.contextmanager
def refusals(name: str, kind: str = "model") -> Iterator[None]:
    """What is asked of the hub in here about `name`, which may have a revision: BadInput where it refuses.

    kind: "model" or "data set". OutOfReach where it cannot be asked. A full disk stays an OSError.
    """
    from huggingface_hub import errors

    repository, revision = split_id(name)
    what = f"{kind} {repository}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise BadInput(
            f"the hub gives {what} only to those who asked for it ({first_line(error)}): accept its terms on its page, "
            f"and log in ({LOGIN})"
        ) from None
    except errors.RepositoryNotFoundError as error:
        raise BadInput(
            f"the hub has no {what} ({first_line(error)}); if it is a private one, this needs a login ({LOGIN})"
        ) from None
    except errors.RevisionNotFoundError as error:
        raise BadInput(f"the hub has no revision {revision} of {what} ({first_line(error)})") from None
    except errors.HFValidationError as error:
        raise BadInput(f"{name} is no name of the hub ({first_line(error)})") from None
    except errors.LocalTokenNotFoundError:
        raise BadInput(f"the hub wants to know who asks about {what}: this needs a login ({LOGIN})") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        reason = " ".join(str(error).split()) or f"status {status}"
        if status >= 500:
            raise OutOfReach(f"the hub cannot be reached ({reason})") from None
        mend = f": this needs another login ({LOGIN})" if status in (401, 403) else ""
        raise BadInput(f"the hub refuses what was asked about {what} ({reason}){mend}") from None
    except (errors.LocalEntryNotFoundError, errors.HTTPError, ConnectionError, TimeoutError) as error:
        # HTTPError: of the package that speaks HTTP for it, which changes its name
        raise OutOfReach(f"the hub cannot be reached ({first_line(error)})") from None


def list_files(name: str) -> list[str]:
    """Names of the files of a model, those in folders with their folder; asks the hub. BadInput as `refusals`."""
    from huggingface_hub import HfApi

    repository, revision = split_id(name)
    with refusals(name):
        return sorted(file.rfilename for file in HfApi().model_info(repository, revision=revision).siblings or ())


def cached_folder(name: str, file: str) -> Path | None:
    """Where a model that was fetched before lies, by a file that it must have. Asks no hub."""
    from huggingface_hub import try_to_load_from_cache

    repository, revision = split_id(name)
    try:
        found = try_to_load_from_cache(repository, file, revision=revision)
    except ValueError:  # not the form of a name
        return None
    return Path(found).parents[file.count("/")] if isinstance(found, str) else None


def fetch(
    name: str, kind: str = "model", files: Sequence[str] | None = None, without: Sequence[str] | None = None
) -> Path:
    """The folder of huggingface_hub's cache with what OWNER/NAME[@REVISION] holds; what is missing is downloaded.

    kind: "model" or "data set". files, without: shell patterns of what is wanted (None: all) and what is not. BadInput
    as `refusals`; where the hub cannot be asked, that it is not here, either.
    """
    try:
        return _snapshot(name, kind, files, without, cached=False)
    except OutOfReach as error:
        raise not_here(name, kind, error) from None


def not_here(name: str, kind: str, error: OutOfReach) -> BadInput:
    """Of what is asked for by name, is not whole in the cache, and cannot be fetched."""
    return BadInput(
        f"{kind} {name} is neither a folder nor whole in the local cache, and {error}: download it where there is a "
        "network, and give its folder"
    )


def fetched(name: str, kind: str = "model") -> Path | None:
    """What of it was fetched before, maybe not all; None: nothing. Asks no hub. BadInput where it is no name."""
    try:
        return _snapshot(name, kind, (), None, cached=True)
    except OutOfReach:
        return None


def _snapshot(name, kind, files, without, cached):
    from huggingface_hub import snapshot_download

    repository, revision = split_id(name)
    with refusals(name, kind):
        return Path(
            snapshot_download(
                repository,
                repo_type=kind.replace(" ", ""),
                revision=revision,
                local_files_only=cached,
                allow_patterns=files,
                ignore_patterns=without,
            )
        )


def name_of_cached(folder: Path | str) -> str | None:
    """NAME of OWNER/NAME, of a folder in huggingface_hub's cache; None of any other folder."""
    for path in (Path(folder), *Path(folder).parents):
        if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
            return path.parent.parent.name.split("--")[-1]
    return None
