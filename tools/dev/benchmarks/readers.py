"""Who reads demonstrations: this code, h5py sample by sample, robomimic."""

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from yacs.config import CfgNode

from rv_train.data.hdf5 import DemoDataset
from rv_train.data.training_set import TrainingSet
from rv_train.policies import build_encoder
from tools.dev.benchmarks.samples import STATS


@dataclass
class Reader:
    """dataset: for a DataLoader; collate: its; key: number of a frame -> item of the dataset.

    look: item -> (first view upright, actions) to compare; None where it is no sample.
    """

    dataset: Any
    collate: Callable | None
    look: Callable | None
    key: Callable = int


class PlainH5py(torch.utils.data.Dataset):
    """An open file and a list of places, as one writes it down."""

    def __init__(self, path: Path | str, keys: Sequence[str], horizon: int) -> None:
        self.file, self.keys, self.horizon = h5py.File(path, "r"), keys, horizon
        names = sorted(self.file["data"], key=lambda name: int(name.split("_")[1]))
        lengths = [(name, self.file["data"][name]["actions"].shape[0]) for name in names]
        self.places = [(name, t) for name, length in lengths for t in range(length)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple:
        name, t = self.places[index]
        demo = self.file["data"][name]
        views = [demo[key][t][::-1, ::-1].copy() for key in self.keys]
        actions = demo["actions"][t : t + self.horizon].astype(np.float32)
        return views, np.concatenate([actions, np.repeat(actions[-1:], self.horizon - len(actions), axis=0)])


def build_readers(cfg: CfgNode, path: Path) -> dict:
    """{name: Reader} of a file in LIBERO's layout; "this code" first."""
    ours = DemoDataset([path], cfg.DATA.VIEWS, cfg.ACTION.HORIZON)
    keys = [ours.key_map.views[view] for view in ours.views]
    encoder = build_encoder(cfg, STATS)
    readers = {
        "this code": Reader(ours, _stack_samples, lambda sample: (sample.views[0], sample.actions)),
        "h5py sample by sample": Reader(
            PlainH5py(path, keys, ours.horizon), None, lambda sample: (sample[0][0], sample[1])
        ),
    }
    if importlib.util.find_spec("robomimic") is not None:
        for steps in (1, ours.horizon):
            dataset = _robomimic(path, [key.removeprefix("obs/") for key in keys], steps)
            readers[f"robomimic, {steps} step{'s' if steps > 1 else ''}"] = Reader(
                dataset, None, lambda item, key=keys[0][4:]: (item["obs"][key][0][::-1, ::-1], item["actions"])
            )
    whole = TrainingSet(ours, encoder, seed=0)
    readers["this code, with all loader work"] = Reader(whole, encoder.collate, None, lambda index: (0, 0, int(index)))
    return readers


def _stack_samples(samples):
    views = torch.from_numpy(np.stack([view for sample in samples for view in sample.views]))
    return views, torch.from_numpy(np.stack([sample.actions for sample in samples]))


def _robomimic(path, keys, steps):
    # By name: it is compared with where somebody has put it, and no dependency of this project.
    obs_utils = importlib.import_module("robomimic.utils.obs_utils")
    dataset = importlib.import_module("robomimic.utils.dataset")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": [], "rgb": keys}})
        return dataset.SequenceDataset(
            str(path),
            obs_keys=keys,
            dataset_keys=["actions"],
            seq_length=steps,
            hdf5_cache_mode="low_dim",  # actions in memory, pictures from the file: its setting for pictures
            hdf5_use_swmr=False,  # a process may not open a file in both ways
            load_next_obs=False,
        )


def same_sample(reader: Reader, ours: Reader, index: int) -> bool:
    """Whether a reader's first picture and actions are those of this code, as far as it has actions."""
    if reader.look is None:
        return True
    picture, actions = reader.look(reader.dataset[reader.key(index)])
    assert ours.look is not None, "this code's has samples"
    expected_picture, expected = ours.look(ours.dataset[index])
    return np.array_equal(picture, expected_picture) and np.allclose(actions, expected[: len(actions)], atol=1e-6)
