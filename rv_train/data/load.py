"""The data of a run: demonstrations, split, range of the actions. Read once, then handed to every rank."""

from dataclasses import dataclass

from libs.action_text import ActionTextCodec
from rv_train.data.demos import DemoDataset, find_demo_files
from rv_train.data.stats import compute_action_stats, data_fingerprint, read_stats


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on; can be pickled.

    train, valid: demos to train on and held-out ones (None where DATA.VAL_SHARE is 0).
    action_stats: of every demo of DATA.FILES, held out or not, or read from DATA.STATS.
    info: what checkpoints and run.json say of the data: render, resolution, fingerprint (of the data, whichever
        statistics are used), files, num_demos and num_frames (of all files), num_valid_demos, num_clipped (action
        values outside the range), stats (path, "" where they were computed).
    """

    train: DemoDataset
    valid: DemoDataset | None
    action_stats: dict
    info: dict


def load_data(cfg):
    """The `TrainingData` of a config tree. Reads everything but the pictures, of those one per demo.

    Raises:
        ValueError: no data, or data that cannot be used, naming file and demo; statistics that are missing, broken or
            of another number of dimensions; DATA.VAL_SHARE above 0 where no demo can be held out.
    """
    dataset = DemoDataset(find_demo_files(cfg.DATA.FILES), cfg.DATA.VIEWS, cfg.ACTION.HORIZON)
    action_dim = dataset.demos[0].actions.shape[1]
    if action_dim != cfg.ACTION.DIM:
        raise ValueError(f"ACTION.DIM is {cfg.ACTION.DIM}, {dataset.files[0].path} has {action_dim} dimensions")
    if cfg.DATA.STATS:
        stats, fingerprint = _read_given(cfg.DATA.STATS, cfg.ACTION.DIM), data_fingerprint(dataset)
    else:
        stats = compute_action_stats(dataset)
        fingerprint = stats["fingerprint"]
    codec = ActionTextCodec(stats["min"], stats["max"], cfg.ACTION.NUM_BINS)
    train, valid = dataset.split(cfg.DATA.VAL_SHARE, cfg.EXP.SEED)
    if cfg.DATA.VAL_SHARE > 0 and valid is None:
        raise ValueError(
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
        "num_clipped": codec.count_clipped(dataset.all_actions()),
        "stats": cfg.DATA.STATS,
    }
    return TrainingData(train, valid, stats, info)


def _read_given(path, action_dim):
    try:
        stats = read_stats(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"DATA.STATS: {error}") from None
    if len(stats["min"]) != action_dim:
        raise ValueError(f"DATA.STATS: {path} has {len(stats['min'])} action dimensions, ACTION.DIM is {action_dim}")
    return stats
