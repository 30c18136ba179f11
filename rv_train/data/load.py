"""The data of a run: demonstrations, split, range of the actions. Read once, then handed to every rank."""

from dataclasses import dataclass, field

import numpy as np

from libs.action_text import ActionTextCodec
from libs.demo_hdf5 import KeyMap
from libs.errors import BadInput
from rv_train.data import checks
from rv_train.data.demos import DemoDataset, find_demo_files
from rv_train.data.manifest import ManifestDataset, find_manifests, read_info
from rv_train.data.stats import (
    FILE_NAME,
    NPZ_NAME,
    RANGES,
    action_range,
    compute_action_stats,
    data_fingerprint,
    read_stats,
)


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on; can be pickled.

    train, valid: demos to train on and held-out ones (None where DATA.VAL_SHARE is 0).
    action_stats: of every demo of DATA.FILES, held out or not, or read from DATA.STATS; a manifest's own. With
        "proprio" where DATA.PROPRIO chooses parts. ACTION.RANGE says which range of them is in use.
    info: what checkpoints and run.json say of the data: render, resolution, fingerprint (of the data, whichever
        statistics are used), files, num_demos and num_frames (of all files), num_valid_demos, num_clipped (action
        values outside the range), stats (path, "" where they were computed). Of demonstration files also key_map (its
        name) and constant (lines: what never changes), of a manifest num_bad_lines (left out) and num_hidden (samples
        with hidden digits).
    remarks: lines that somebody who starts a run should see.
    """

    train: DemoDataset | ManifestDataset
    valid: DemoDataset | ManifestDataset | None
    action_stats: dict
    info: dict
    remarks: list = field(default_factory=list)


def load_data(cfg, integers=True):
    """The `TrainingData` of a config tree. Reads everything but the pictures, of those one per demo.

    integers: whether what is trained writes actions as integers, whose bins may be too coarse for them.

    Raises:
        BadInput: no data, or data that cannot be used, naming file and demo, or file and line; statistics that are
            missing, broken, of other dimensions or proprio parts, or not those of a manifest; DATA.VAL_SHARE above 0
            where no demo can be held out.
    """
    return _load_manifests(cfg) if cfg.DATA.SOURCE == "manifest" else _load_demos(cfg, integers)


def key_map_of(cfg):
    """The KeyMap of DATA.KEY_MAP; BadInput where it does not exist or has other views, parts or actions than cfg."""
    try:
        key_map = KeyMap.find(cfg.DATA.KEY_MAP)
        key_map.check_views(cfg.DATA.VIEWS)
        key_map.check_parts(cfg.DATA.PROPRIO)
    except BadInput as error:
        raise BadInput(f"DATA.KEY_MAP, VIEWS and PROPRIO: {error}") from None
    if key_map.actions.dim != cfg.ACTION.DIM:
        raise BadInput(
            f"ACTION.DIM is {cfg.ACTION.DIM}, actions of key map {key_map.name} have {key_map.actions.dim} dimensions"
        )
    return key_map


def _load_demos(cfg, integers):
    paths, key_map = find_demo_files(cfg.DATA.FILES), key_map_of(cfg)
    dataset = DemoDataset(paths, cfg.DATA.VIEWS, cfg.ACTION.HORIZON, key_map, cfg.DATA.PROPRIO, cfg.DATA.INSTRUCTION)
    if cfg.DATA.STATS:
        stats, fingerprint = _read_given(cfg.DATA.STATS, cfg.ACTION.DIM, dataset.parts), data_fingerprint(dataset)
    else:
        stats = compute_action_stats(dataset)
        fingerprint = stats["fingerprint"]
    checks.refuse(checks.motion_problems(dataset.demos))
    codec = ActionTextCodec(*action_range(stats, cfg.ACTION.RANGE), cfg.ACTION.NUM_BINS)
    more = {
        "num_clipped": sum(codec.count_clipped(rows.actions) for rows in dataset.demos),
        "stats": cfg.DATA.STATS,
        "key_map": key_map.name,
        "constant": list(checks.constant_dims(stats)),
    }
    num_bins = cfg.ACTION.NUM_BINS if integers else None
    remarks = checks.demo_remarks(dataset.demos, cfg.ACTION.HORIZON, codec.low, codec.high, num_bins)
    return _split(cfg, dataset, stats, fingerprint, more, remarks)


def _load_manifests(cfg):
    paths = find_manifests(cfg.DATA.FILES)
    _check_written(paths, cfg.ACTION.RANGE)
    stats, origin = _manifest_stats(paths, cfg)
    codec = ActionTextCodec(*action_range(stats, cfg.ACTION.RANGE), cfg.ACTION.NUM_BINS)
    dataset = ManifestDataset(paths, cfg.DATA.VIEWS, cfg.ACTION.HORIZON, codec)
    problems = filter(None, map(checks.text_problem, dataset.instructions))
    checks.refuse(f"{', '.join(map(str, paths))}: an instruction {problem}" for problem in problems)
    remarks = []
    if dataset.num_bad:
        listed = "; ".join(dataset.bad) + ("; ..." if dataset.num_bad > len(dataset.bad) else "")
        found = f"{dataset.num_bad} bad lines of {dataset.num_bad + len(dataset)}"
        if not cfg.DATA.SKIP_BAD:
            raise BadInput(
                f"{found}: {listed}; tools/peek_manifest.py lists all, DATA.SKIP_BAD True (--skip_bad) goes on without"
            )
        remarks.append(f"{found} are left out: {listed}")
    if dataset.num_hidden:
        remarks.append(f"{dataset.num_hidden} of {len(dataset)} samples hide digits (X): no labels there")
    if dataset.largest < 0.9 * cfg.ACTION.NUM_BINS:
        remarks.append(
            f"the largest integer of {paths[0]} is {dataset.largest}, ACTION.NUM_BINS is {cfg.ACTION.NUM_BINS}: "
            "is that what its lines were written with?"
        )
    more = {
        "num_clipped": sum(file.info.get("num_clipped", 0) for file in dataset.files),
        "stats": origin,
        "num_bad_lines": dataset.num_bad,
        "num_hidden": dataset.num_hidden,
    }
    return _split(cfg, dataset, stats, dataset.fingerprint(), more, remarks)


def _split(cfg, dataset, stats, fingerprint, more, remarks=()):
    train, valid = dataset.split(cfg.DATA.VAL_SHARE, cfg.EXP.SEED)
    if cfg.DATA.VAL_SHARE > 0 and valid is None:
        raise BadInput(
            f"DATA.VAL_SHARE is {cfg.DATA.VAL_SHARE}, but no demo can be held out: {dataset.num_demos} demos in "
            f"{len(dataset.files)} files, whole demos are held out of files with two or more; set it to 0"
        )
    info = {
        "render": dataset.render,
        "resolution": dataset.resolution,
        "fingerprint": fingerprint,
        "files": [str(file.path) for file in dataset.files],
        "num_demos": dataset.num_demos,
        "num_frames": len(dataset),
        "num_valid_demos": valid.num_demos if valid else 0,
        **more,
    }
    return TrainingData(train, valid, stats, info, list(remarks))


def _check_written(paths, choice):
    """BadInput where a manifest says that its integers stand for another range; somebody else's says nothing."""
    for path in paths:
        info = read_info(path.parent)
        written = info.get("action_range", "min_max") if info else choice
        if written != choice:
            raise BadInput(f"{path} was written with action_range {written}, ACTION.RANGE is {choice}")


def _manifest_stats(paths, cfg):
    """(the statistics that the manifests were written with, where they were found).

    They lie beside a manifest; of one that has none, DATA.STATS says them. Where both are there they must agree.
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
        found[cfg.DATA.STATS] = _read_given(cfg.DATA.STATS, cfg.ACTION.DIM)
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


def _read_given(path, action_dim, parts=()):
    """Statistics with the proprio of these parts, and of no others."""
    try:
        stats = read_stats(path)
    except BadInput as error:
        raise BadInput(f"DATA.STATS: {error}") from None
    if len(stats["min"]) != action_dim:
        raise BadInput(f"DATA.STATS: {path} has {len(stats['min'])} action dimensions, ACTION.DIM is {action_dim}")
    found = list(stats["proprio"]["parts"]) if "proprio" in stats else []
    if parts and found != list(parts):
        raise BadInput(
            f"DATA.STATS: {path} has proprio {', '.join(found) or 'of no part'}, DATA.PROPRIO is {', '.join(parts)}: "
            "write it with tools/compute_stats.py --proprio"
        )
    return stats if parts else {key: value for key, value in stats.items() if key != "proprio"}
