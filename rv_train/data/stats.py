"""Statistics of the actions: the range that integers are spread over, and what the data is known by."""

import hashlib
import json
from pathlib import Path

import numpy as np

FILE_NAME = "action_stats.json"


def compute_action_stats(dataset):
    """Per-dimension statistics of every action of a `DemoDataset`.

    Returns:
        {"min", "max", "mean", "std", "q01", "q99": lists of A floats, "count": frames, "num_demos": demos,
        "fingerprint": sha256 of the actions in order, the instructions and how the pictures were made}.
    """
    actions = dataset.all_actions()  # (N, A) float32
    wide = actions.astype(np.float64)
    about = json.dumps([dataset.instructions, dataset.views, dataset.render, dataset.resolution])
    fingerprint = hashlib.sha256(about.encode() + np.ascontiguousarray(actions).tobytes())
    low, high = np.quantile(wide, [0.01, 0.99], axis=0)
    return {
        "min": wide.min(axis=0).tolist(),
        "max": wide.max(axis=0).tolist(),
        "mean": wide.mean(axis=0).tolist(),
        "std": wide.std(axis=0).tolist(),
        "q01": low.tolist(),
        "q99": high.tolist(),
        "count": len(actions),
        "num_demos": dataset.num_demos,
        "fingerprint": fingerprint.hexdigest(),
    }


def write_stats(stats, folder):
    (Path(folder) / FILE_NAME).write_text(json.dumps(stats, indent=1) + "\n")


def read_stats(folder):
    """The statistics stored with a checkpoint; ValueError when they are missing or broken."""
    path = Path(folder) / FILE_NAME
    try:
        stats = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no {FILE_NAME}: without the range of the actions its integers mean nothing; "
            "copy the file from the training run"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    for key in ("min", "max"):
        if not isinstance(stats, dict) or not isinstance(stats.get(key), list):
            raise ValueError(f"{path}: no list {key!r}")
    return stats
