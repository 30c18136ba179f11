"""What a robot saw, was told and did, as a demonstration file: what reads demonstrations reads it.

`tools/inspect_demos.py`, `tools/diagnose.py --data` and a training take it with the key map that is written beside it
(`--key_map`, DATA.KEY_MAP). Steps in which the robot held are left out: nothing was executed.
"""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from libs.demo_hdf5.schema import STORAGE
from libs.errors import BadInput
from libs.files import check_new_file, kind_of, whole_file, write_whole

if TYPE_CHECKING:
    from rv_train.policies.base import Prediction


class RobotLog:
    """Collects a run and writes it. The file holds `data/demo_0` with, for T actions and Q answers,

    actions (T, A) float64          what was sent, within the limits; step (T,) int64: the control step of each
    obs/<view> (T, R, R, 3) uint8   what was seen before it, upright; obs/<part> (T, n) the robot's state
    answers/asked, came (Q,) int64  control steps of question and answer; chunks (Q, H, A) float32, texts, valid,
                                    repaired (Q,): what was answered, before ensembling and limits
    and the record of the run as JSON in the attribute `record` of data/demo_0.
    """

    def __init__(self) -> None:
        self._rows, self._answers = [], []

    def add_action(self, step: int, observation: dict, action: np.ndarray) -> None:
        self._rows.append((step, observation, action))

    def add_answer(self, asked: int, came: int, question: dict, prediction: "Prediction") -> None:
        self._answers.append((asked, came, prediction))

    def write(self, path: Path | str, instruction: str, record: dict) -> bool:
        """Write `path` (.hdf5) and its key map (.json beside it); False: there was no action, nothing is written.
        OSError: the disk does not take it; nothing is left then."""
        if not self._rows:
            return False
        from libs.demo_hdf5.output import Output

        path = Path(path)
        steps, observations, actions = zip(*self._rows, strict=True)
        views, parts = observations[0]["views"], observations[0]["proprio"]
        with whole_file(path) as part_file, contextlib.closing(Output(part_file)) as output:
            with output.writing() as file:
                data = file.create_group("data")
                data.attrs["problem_info"] = json.dumps({"language_instruction": instruction})
                data.attrs["env_args"] = json.dumps({"env_name": "robot"})
                data.attrs["total"], data.attrs["num_demos"] = len(actions), 1
                group = data.create_group("demo_0")
                group.attrs["num_samples"], group.attrs["record"] = len(actions), json.dumps(record)
                group["actions"], group["step"] = np.stack(actions), np.array(steps)
                for name in parts:
                    group[f"obs/{name}"] = np.stack([observation["proprio"][name] for observation in observations])
                self._write_answers(group.create_group("answers"))
            for name in views:
                pictures = np.stack([observation["views"][name] for observation in observations])
                with output.writing() as file:
                    chunk = (1, *pictures.shape[1:])
                    file.create_dataset(f"data/demo_0/obs/{name}", data=pictures, chunks=chunk, **STORAGE)
        sizes = {name: len(values) for name, values in parts.items()}
        _write_key_map(path.with_suffix(".json"), list(views), sizes, actions[0].size)
        return True

    def _write_answers(self, group):
        asked, came, predictions = zip(*self._answers, strict=True)
        group["asked"], group["came"] = np.array(asked), np.array(came)
        group["chunks"] = np.stack([prediction.chunk[0] for prediction in predictions])
        group["texts"] = [prediction.texts[0] for prediction in predictions]
        for name in ("valid", "repaired"):
            group[name] = np.array([bool(getattr(prediction, name)[0]) for prediction in predictions])


def _write_key_map(path, views, sizes, action_dim):
    tree = {
        "about": "a run of tools/run_robot.py",
        "views": {view: f"obs/{view}" for view in views},
        "upside_down": False,
        "proprio": {part: {"key": f"obs/{part}", "dim": size} for part, size in sizes.items()},
        "actions": {"key": "actions", "dim": action_dim},
        "instruction": {"attribute": "problem_info", "json_key": "language_instruction", "text": ""},
    }
    write_whole(path, json.dumps(tree, indent=1) + "\n")


def check_log_path(path: Path | str) -> Path:
    """BadInput: a log cannot be written there, or one is there already."""
    path = Path(path)
    if path.suffix != ".hdf5":
        raise BadInput(f"a log is a .hdf5 file, with its key map in a .json beside it, not {path}")
    for file in (path, path.with_suffix(".json")):
        check_new_file(file)
        if kind_of(file):
            raise BadInput(f"{file} is there already: give another --log")
    return path
