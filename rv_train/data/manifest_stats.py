"""What the integers of manifests stand for: the statistics that they were written with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from libs.errors import BadInput
from libs.files import kind_of, read_json_object
from libs.manifest.lines import INFO
from rv_train.data.stats import FILE_NAME, NPZ_NAME, RANGES, action_range, read_given, read_stats


def read_info(folder: Path | str) -> dict:
    """What tools/build_manifest.py wrote of a manifest, {} where it did not; BadInput where it cannot be read."""
    path = Path(folder) / INFO
    return read_json_object(path) if kind_of(path) else {}


def check_written(paths: Sequence[Path], choice: str) -> None:
    """BadInput where a manifest says that its integers stand for another range; somebody else's says nothing."""
    for path in paths:
        info = read_info(path.parent)
        written = info.get("action_range", "min_max") if info else choice
        if written != choice:
            raise BadInput(f"{path} was written with action_range {written}, ACTION.RANGE is {choice}")


def manifest_stats(paths: Sequence[Path], cfg: CfgNode) -> tuple[dict, str]:
    """(the statistics that the manifests were written with, where they were found).

    They lie beside a manifest; of one that has none, DATA.STATS says them. BadInput where there are none, or where
    several do not agree.
    """
    found = {}  # path -> statistics
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            found[folder] = read_stats(folder)
        except BadInput as error:
            broken = any((folder / name).exists() for name in (FILE_NAME, NPZ_NAME))
            if broken or not cfg.DATA.STATS:
                raise BadInput(f"{error}; or name it: DATA.STATS path/to/action_stats.npz") from None
    if cfg.DATA.STATS:
        found[cfg.DATA.STATS] = read_given(cfg.DATA.STATS, cfg.ACTION.DIM)
    (origin, stats), *others = found.items()
    if len(stats["min"]) != cfg.ACTION.DIM:
        raise BadInput(f"{origin} has {len(stats['min'])} action dimensions, ACTION.DIM is {cfg.ACTION.DIM}")
    for path, other in others:
        ranges = (action_range(one, cfg.ACTION.RANGE) for one in (other, stats))
        for key, theirs, ours in zip(RANGES[cfg.ACTION.RANGE], *ranges, strict=True):
            if len(theirs) != len(ours) or not np.allclose(theirs, ours, rtol=1e-5, atol=1e-8):
                raise BadInput(
                    f"the statistics of {path} are not those of {origin} ({key} {theirs}, {ours}): the same integers "
                    "mean other actions; a manifest is read with the range that it was written with"
                )
    return stats, str(origin)
