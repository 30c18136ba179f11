"""What differs between two runs, or two models: bit by bit, one line for each."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from libs.config_tree import to_dict
from libs.errors import BadInput
from rv_train.checkpoint import checkpoints, find_model_folder, load_trainer, read_model_cfg, trainer_file
from rv_train.data.stats import read_stats

UNREPEATABLE = ("speed/", "memory/")  # curves of how fast it went


def compare_runs(first: Path, second: Path) -> list[str]:
    """What differs between two run folders, one line each; nothing where they are identical.

    Raises:
        BadInput: a folder without a complete checkpoint.
    """
    for run in (first, second):
        if not checkpoints(run):
            raise BadInput(f"{run} has no complete checkpoint to compare")
    found = list(differing(_layout(first), _layout(second), "run folder"))
    for folder in checkpoints(first):
        pair = folder, Path(second) / folder.name
        if pair[1] in checkpoints(second):
            weights = [read_weights(step / "model") for step in pair]
            found += differing(weights[0], weights[1], f"{folder.name}/model")
            states = [load_trainer(step) for step in pair]
            found += differing(states[0], states[1], f"{folder.name}/{trainer_file(folder).name}")
            shares = [read_weights(step) for step in pair]  # of a sharded run
            found += differing(shares[0], shares[1], f"{folder.name} of the ranks")
    return found + list(differing(read_curves(first), read_curves(second), "curve"))


def compare_models(first: Path, second: Path) -> list[str]:
    """What differs between the models of two model, step or run folders (their last): weights, what their recipes
    say, the range of their actions. BadInput: no model in one."""
    found = []
    folders = [find_model_folder(path) for path in (first, second)]
    for what, read in (
        ("weights", read_weights),
        ("recipe", lambda folder: to_dict(read_model_cfg(folder))),
        ("statistics", read_stats),
    ):
        values = [read(folder) for folder in folders]
        found += differing(values[0], values[1], what)
    return found


def _layout(run):
    """{name: where it points} of the checkpoints and links of a run folder."""
    links = [path for path in (Path(run) / "last", Path(run) / "best") if path.exists()]
    return {path.name: path.resolve().name for path in [*checkpoints(run), *links]}


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """{name: tensor} of the safetensors files in a folder."""
    tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """{tag: [(step, value), ...]} of every TensorBoard scalar that is not a speed."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every point that a resume wrote again
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(UNREPEATABLE)]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def differing(first: Any, second: Any, where: str) -> Iterator[str]:
    """Lines for every leaf that differs in two trees of dicts, lists, tensors (bit by bit) and plain values."""
    if type(first) is not type(second):
        yield f"{where}: {type(first).__name__} and {type(second).__name__}"
    elif isinstance(first, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            if key in first and key in second:
                yield from differing(first[key], second[key], f"{where} {key}")
            else:
                yield f"{where} {key}: only in the {'first' if key in first else 'second'} run"
    elif isinstance(first, (list, tuple)):
        if len(first) != len(second):
            yield f"{where}: {len(first)} and {len(second)} entries"
        for number, (a, b) in enumerate(zip(first, second, strict=False)):
            yield from differing(a, b, f"{where}[{number}]")
    elif isinstance(first, torch.Tensor):
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            kinds = (f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (first, second))
            yield f"{where}: {' and '.join(kinds)}"
        elif not torch.equal(_bits(first), _bits(second)):
            yield f"{where}: tensors differ, by up to {(first.double() - second.double()).abs().max():.3g}"
    elif first != second and not (isinstance(first, float) and math.isnan(first) and math.isnan(second)):
        yield f"{where}: {first!r} and {second!r}"


def _bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)
