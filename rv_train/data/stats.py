"""Statistics of the actions: the range that integers are spread over, and what the data is known by."""

import hashlib
import io
import json
import math
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

FILE_NAME, NPZ_NAME = "action_stats.json", "action_stats.npz"
NPZ_KEYS = {"min": "action_mins", "max": "action_maxs"}  # what others call them; further keys have our names


def compute_action_stats(dataset):
    """Per-dimension statistics of every action of a `DemoDataset`.

    Returns:
        {"min", "max", "mean", "std", "q01", "q99": lists of A floats, "count": frames, "num_demos": demos,
        "fingerprint": see `data_fingerprint`}.
    """
    actions = dataset.all_actions()  # (N, A) float32
    wide = actions.astype(np.float64)
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
        "fingerprint": data_fingerprint(dataset),
    }


def data_fingerprint(dataset):
    """What a run's data is known by: sha256 in hexadecimal of a `DemoDataset`.

    It covers how the pictures were made, views, instructions, and of every demo its length, its actions and its first
    picture (main view): one frame per demo tells renderings apart without reading gigabytes. Where the files lie and
    how they are packed does not matter.
    """
    about = [dataset.instructions, dataset.views, dataset.render, dataset.resolution]
    lengths = [len(rows.actions) for rows in dataset.demos]
    digest = hashlib.sha256(json.dumps([*about, lengths]).encode())
    digest.update(dataset.all_actions().tobytes())
    for picture in dataset.first_pictures():
        digest.update(picture.tobytes())
    return digest.hexdigest()


def write_stats(stats, path):
    """Write statistics as `path`, or as action_stats.json in the folder `path`; beside and renamed.

    A path that ends in .npz becomes numpy's format: arrays action_mins, action_maxs (A,) float64, and the rest.
    """
    path = _file_in(path)
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(stats_as_bytes(stats, path.suffix))
    os.replace(beside, path)


def stats_as_bytes(stats, suffix):
    """The content of a file of that suffix, ".npz" or any other for JSON."""
    if suffix != ".npz":
        return (json.dumps(stats, indent=1) + "\n").encode()
    buffer = io.BytesIO()
    np.savez(buffer, **{NPZ_KEYS.get(key, key): np.array(value) for key, value in stats.items()})
    return buffer.getvalue()


def read_stats(path):
    """The statistics in a JSON or .npz file, or in action_stats.json or .npz of a folder (a checkpoint's `model/`).

    Raises:
        ValueError: missing or broken, or no range: min and max must be finite, as many, and min at most max.
    """
    path = _file_in(path)
    if path.name == FILE_NAME and not path.exists() and path.with_name(NPZ_NAME).exists():
        path = path.with_name(NPZ_NAME)
    try:
        stats = _read_npz(path) if path.suffix == ".npz" else json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{path.parent} has no {path.name}: without the range of the actions its integers mean nothing; "
            "copy the file from the training run, or write it with tools/compute_stats.py"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    for key in ("min", "max"):
        if not isinstance(stats, dict) or not isinstance(stats.get(key), list):
            raise ValueError(f"{path}: no list {NPZ_KEYS[key] if path.suffix == '.npz' else key!r}")
        bad = [value for value in stats[key] if type(value) not in (int, float) or not math.isfinite(value)]
        if bad or not stats[key]:
            raise ValueError(f"{path}: {key!r} must hold finite numbers, got {bad[0] if bad else 'none'}")
    if len(stats["min"]) != len(stats["max"]):
        raise ValueError(f"{path}: 'min' has {len(stats['min'])} dimensions, 'max' has {len(stats['max'])}")
    for dim, (low, high) in enumerate(zip(stats["min"], stats["max"], strict=True)):
        if low > high:
            raise ValueError(f"{path}: dimension {dim} has min {low} above max {high}")
    return stats


def _read_npz(path):
    names = {theirs: ours for ours, theirs in NPZ_KEYS.items()}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {names.get(key, key): arrays[key].tolist() for key in arrays.files}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # TypeError: one array, no zip
        raise ValueError(f"{path} is not a readable .npz file: {error}") from None


def _file_in(path):
    path = Path(path)
    return path / FILE_NAME if path.is_dir() else path
