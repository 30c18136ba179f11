"""Folders of weights: where MODEL.PATH lies on this machine, what is there, and of which family it is."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from libs import hub
from libs.errors import BadInput
from libs.files import kind_of, read_json_object, short_path

if TYPE_CHECKING:
    from rv_train.backbones.base import Family


WEIGHTS = ("*.json", "model*.safetensors")  # of what a hub holds; some hold the same in other formats beside them
INSIDE = ("", "model", "last/model")  # where a model folder, a step's and a run's have them
EXPERT = "expert.safetensors"  # what a policy has beside the backbone's weights, or alone
BASE = "base.json"  # beside what was trained over frozen weights: which they are
STEP = re.compile(r"step_(\d+)")  # a step's folder in a run's
SAVED = "config.yaml"  # of a run folder, whose config.json says the same and is no model's


def check_source(path: str, family: "Family") -> None:
    """BadInput unless a folder holds weights of a family, or a hub name is in the cache or known to the hub."""
    folder, complete = find_weights(path)
    if folder and complete:
        check_model_type(folder, family)
        return
    if Path(path).is_dir():
        raise BadInput(f"MODEL.PATH: {what_lacks(path)}")
    try:  # asks once; loading would try for half a minute
        names = hub.list_files(path)
    except BadInput as error:
        raise BadInput(f"MODEL.PATH: {path} is neither a folder with weights nor in the cache; {error}") from None
    if "config.json" not in names:
        raise BadInput(f"MODEL.PATH: {path} of the hub holds no model, it lacks config.json")


def fetch_weights(path: Path | str) -> Path:
    """The folder with the weights of MODEL.PATH: itself, or in the local cache, where a hub name's are downloaded to
    unless they are there. BadInput where they cannot be had; what a folder lacks is not looked at."""
    folder, complete = find_weights(path)
    if kind_of(path) or (folder and complete):
        return folder or Path(path)
    try:
        return hub.fetch(str(path), files=WEIGHTS, without=["*/*"])
    except BadInput as error:
        raise BadInput(f"MODEL.PATH: {error}") from None


def model_type(folder: Path | str) -> Any:
    """What config.json says that the weights beside it are."""
    return read_json_object(Path(folder) / "config.json").get("model_type")


def check_model_type(folder: Path | str, family: "Family") -> None:
    """BadInput where config.json is of another family: the library would make another model, of default sizes."""
    found = model_type(folder)
    if found != family.model_type:
        raise BadInput(
            f"MODEL.PATH: {folder}/config.json has model_type {found!r}, MODEL.BACKBONE {family.name} needs "
            f"{family.model_type!r}"
        )


def find_weights(path: Path | str) -> tuple[Path | None, bool]:
    """Where MODEL.PATH lies on this machine: itself, a run's last checkpoint, or the place of OWNER/NAME[@REVISION] in
    the local cache of the hub. Asks no hub.

    Returns:
        (folder with its config.json or None, whether weights lie there, too).
    """
    folder: Path | None
    if kind_of(path) == "folder":
        places = [Path(path) / name for name in INSIDE]
        folder = next(filter(is_model_folder, places), None) or next(filter(_has_config, places), None)
    else:
        folder = hub.cached_folder(str(path), "config.json")
    if folder is None or not (folder / "config.json").is_file():
        return None, False
    return folder, is_model_folder(folder)


def stay_at_step(cfg: CfgNode) -> CfgNode:
    """The config tree of a new run. Where MODEL.PATH is a run it names the step that the run is at: its `last` moves
    while it trains, and ranks, or whoever looks for frozen weights later, would find others."""
    path = cfg.MODEL.PATH
    folder = find_weights(path)[0] if cfg.MODEL.INIT == "pretrained" and kind_of(path) == "folder" else None
    if folder is None or not STEP.fullmatch((stays := folder.resolve()).parent.name):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.PATH = str(stays) if os.path.isabs(path) else short_path(stays)
    cfg.freeze()
    return cfg


def what_lacks(path: Path | str) -> str:
    """What there is instead of weights in a folder that MODEL.PATH names, for messages."""
    for place in (Path(path) / name for name in INSIDE):
        if (place / BASE).is_file():
            return (
                f"{place} holds no model, but what was trained over one: name that, which {BASE} there tells, or what "
                "tools/merge_lora.py makes of both"
            )
    folder = find_weights(path)[0] or path
    return f"{folder} holds no model, it lacks {missing_files(folder)[0]}"


def _has_config(folder):
    return (folder / "config.json").is_file() and not (folder / SAVED).is_file()


def missing_files(folder: Path | str) -> list[str]:
    """Names of the files that a folder of saved weights lacks, such as a part that was not downloaded."""
    folder, index = Path(folder), Path(folder) / "model.safetensors.index.json"
    if index.is_file():
        places = read_json_object(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise BadInput(f"{index} has no 'weight_map' that says which file a weight is in")
        weights = sorted(set(places.values()))
    else:
        weights = [] if any(folder.glob("model*.safetensors")) else ["model.safetensors"]
    return [name for name in ("config.json", *weights) if not (folder / name).is_file()]


def is_model_folder(folder: Path | str) -> bool:
    """Whether a folder holds saved weights, all of them."""
    return not missing_files(folder)
