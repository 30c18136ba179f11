"""A run folder of the original VLA-0: where its weights are, and the range that its integers are spread over."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from libs.errors import BadInput
from libs.files import kind_of, read_json_object
from libs.plain_pickle import read_plain_pickle
from rv_train.backbones.folders import check_model_type, missing_files
from rv_train.data.stats import action_range

if TYPE_CHECKING:
    from rv_train.backbones.base import Family, Pictures

MODEL, STATS, ACTIONS = "model_last", "dataset_stats.pkl", "out_ori_act"
PROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class OriginalRun:
    """model: its Hugging Face folder; stats: the pickle with the range of the actions."""

    model: Path
    stats: Path


def find_original(path: str | Path) -> OriginalRun:
    """What lies in a run folder, or beside the `model_last` of one; BadInput where something is missing."""
    path = Path(path)
    kind = kind_of(path)
    if kind != "folder":
        reason = "is a file" if kind else "does not exist"
        raise BadInput(f"{path} {reason}: name the run folder, which holds {MODEL}/ and {STATS}")
    model = path / MODEL if kind_of(path / MODEL) == "folder" else path
    if missing := missing_files(model):
        raise BadInput(f"{model} holds no model, it lacks {missing[0]}; a run folder holds {MODEL}/ and {STATS}")
    places = dict.fromkeys((path / STATS, model / STATS, model.parent / STATS))
    found = [place for place in places if kind_of(place) == "file"]
    if not found:
        raise BadInput(f"{path} has no {STATS}: without the range of the actions the model's integers mean nothing")
    return OriginalRun(model, found[0])


def original_stats(path: Path, dim: int) -> dict:
    """{"min", "max" and, where they are there, "mean", "std": lists of `dim` floats} of a dataset_stats.pkl.

    BadInput: it is no such pickle (nothing in it is run), or has another number of dimensions than `dim`.
    """
    found = read_plain_pickle(path)
    actions = found.get(ACTIONS) if isinstance(found, dict) else None
    if not isinstance(actions, dict):
        holds = ", ".join(map(repr, found)) if isinstance(found, dict) else f"a {type(found).__name__}"
        raise BadInput(f"{path} has no {ACTIONS!r} with the range of the actions; it holds {holds or 'nothing'}")
    stats = {}
    for key in ("min", "max", "mean", "std"):
        if key in actions or key in ("min", "max"):
            stats[key] = _numbers(path, key, actions.get(key), dim)
    try:
        action_range(stats)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    return stats


def check_original(model: Path, family: "Family", pictures: "Pictures") -> dict[str, Any]:
    """BadInput where a folder's weights are of another family, or its pictures were cut otherwise; config.json.

    pictures: of a prompt.
    """
    check_model_type(model, family)
    theirs = read_json_object(model / PROCESSOR) if kind_of(model / PROCESSOR) else {}
    ours = family.processor_files(pictures)[PROCESSOR]
    for key in ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std"):
        if key in ours and theirs.get(key, ours[key]) != ours[key]:
            raise BadInput(f"{model / PROCESSOR}: {key} is {theirs[key]}, pictures are prepared with {ours[key]} here")
    return read_json_object(model / "config.json")


def _numbers(path, key, values, dim):
    try:
        values = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError):
        values = np.empty(0)
    if values.shape != (dim,) or not np.isfinite(values).all():
        raise BadInput(f"{path}: {key!r} of {ACTIONS!r} are not {dim} finite numbers (ACTION.DIM), but {values.shape}")
    return values.tolist()
