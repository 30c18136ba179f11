"""The numbers of a LeRobot data set, all in memory: what is recorded at each frame but pictures."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libs.errors import BadInput
from libs.lerobot_data.layout import Layout
from libs.lerobot_data.parquet import as_numbers, read_columns

PLACE = ("episode_index", "frame_index")


@dataclass(frozen=True)
class Rows:
    """N frames, those of an episode together and in their order.

    episode, frame: (N,) int64, frames counted within the episode; time: (N,) float64, seconds since the episode's
    begin, as far as the file's float32 says; task: (N,) int64; vectors: {name: (N, dim) float32};
    file: (N,) which of `files` a frame stands in, row: (N,) its row there.
    spans: {episode: slice of its frames}.
    """

    files: tuple[Path, ...]
    episode: np.ndarray
    frame: np.ndarray
    time: np.ndarray
    task: np.ndarray
    vectors: dict[str, np.ndarray]
    file: np.ndarray
    row: np.ndarray
    spans: dict[int, slice]


def read_rows(layout: Layout, vectors: Collection[str]) -> Rows:
    """The rows of every data file with these vectors of the set.

    BadInput, naming the file: it is missing, cut off, damaged, lacks a column, or has another number of numbers in a
    row than meta/info.json says.
    """
    layout.check_vectors(vectors)
    parts = [_read_file(path, layout, vectors) for path in layout.data_files]
    if not parts:
        raise BadInput(f"{layout.root} holds no frames: its table has no episode, or empty ones only")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    joined["file"] = np.repeat(np.arange(len(parts)), [len(part["row"]) for part in parts])
    if len(joined["row"]) == 0:
        raise BadInput(f"{layout.root} holds no frames: its data files have no rows")
    order = np.lexsort((joined["frame_index"], joined["episode_index"]))  # stable; nearly always they are in order
    joined = {name: values[order] for name, values in joined.items()}
    episodes, starts = np.unique(joined["episode_index"], return_index=True)
    ends = [*starts[1:].tolist(), len(order)]
    return Rows(
        files=layout.data_files,
        episode=joined["episode_index"],
        frame=joined["frame_index"],
        time=joined["timestamp"],
        task=joined["task_index"],
        vectors={name: joined[f"vector {name}"] for name in vectors},
        file=joined["file"],
        row=joined["row"],
        spans={int(n): slice(int(start), end) for n, start, end in zip(episodes, starts, ends, strict=True)},
    )


def _read_file(path, layout, vectors):
    names = [*PLACE, "timestamp", "task_index"]
    columns = read_columns(path, [*names, *vectors])

    def numbers(name, dim, kind):
        found = as_numbers(columns[name], dim, f"{path}, column {name}")
        if np.dtype(kind).kind == "i" and not np.isfinite(found).all():
            raise BadInput(f"{path}, column {name}: row {int(np.argmin(np.isfinite(found[:, 0])))} has no number")
        return found.astype(kind)

    kinds = ["int64", "int64", "float64", "int64"]
    found = {name: numbers(name, 1, kind)[:, 0] for name, kind in zip(names, kinds, strict=True)}
    for name in vectors:
        found[f"vector {name}"] = numbers(name, layout.vectors[name].dim, "float32")
    return {**found, "row": np.arange(len(found["timestamp"]))}
