"""All of an episode in one HDF5 file: what the policy saw and said, what was executed, where the robot was."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from libs.files import whole_file

if TYPE_CHECKING:
    from rv_train.policies.base import Prediction


class EpisodeTrace:
    """Collects an episode and writes it. The file holds, for Q queries and T steps:

    query_step (Q,) int64           steps executed before the query
    views/<name> (Q, R, R, 3) uint8 the pictures that the policy was given
    chunks (Q, H, A) float32        what it answered, before ensembling; texts, valid, repaired (Q,)
    actions (T, A) float64          what was executed, after ensembling and snapping the gripper
    proprio/<part> (T + 1, n)       the robot before every action and at the end; absent where an environment has none
    and the episode's record of results.jsonl as JSON in the attribute `record`; its `environment` says what the numbers
    of an action are, and how many steps are a second.
    """

    def __init__(self) -> None:
        self._queries = []  # (step, views, chunk, text, valid, repaired)
        self._actions = []
        self._proprio = []

    def add_query(self, step: int, observation: dict, prediction: "Prediction", row: int) -> None:
        answer = (
            prediction.chunk[row],
            prediction.texts[row],
            bool(prediction.valid[row]),
            bool(prediction.repaired[row]),
        )
        self._queries.append((step, observation["views"], *answer))

    def add_action(self, action: np.ndarray) -> None:
        self._actions.append(action)

    def add_proprio(self, observation: dict) -> None:
        if "proprio" in observation:
            self._proprio.append(observation["proprio"])

    def write(self, path: Path | str, record: dict) -> None:
        """Write to `path` (.hdf5); a file under this name is always complete. OSError: it cannot be written."""
        from libs.demo_hdf5.output import Output

        steps, views, chunks, texts, valid, repaired = zip(*self._queries, strict=True)
        with whole_file(path) as part, contextlib.closing(Output(part)) as output, output.writing() as file:
            file.attrs["record"] = json.dumps(record)
            file["query_step"] = np.array(steps)
            file["chunks"] = np.stack(chunks)
            file["texts"] = list(texts)
            file["valid"], file["repaired"] = np.array(valid), np.array(repaired)
            file["actions"] = np.stack(self._actions[: record["steps"]])  # a success ends a chunk early
            for part_name in self._proprio[0] if self._proprio else ():
                file[f"proprio/{part_name}"] = np.stack([state[part_name] for state in self._proprio])
            for name in views[0]:
                pictures = np.stack([pictures[name] for pictures in views])
                chunk = (1, *pictures.shape[1:])
                file.create_dataset(f"views/{name}", data=pictures, chunks=chunk, compression="gzip", shuffle=True)
