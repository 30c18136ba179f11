"""tools/eval_delay.py on a world of one number: the policy walks to a goal and must not walk beyond it."""

import json
import os
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest

from rv_eval.agent import AgentSettings
from rv_eval.envs.base import Reply
from rv_eval.splice import NAIVE, PREFIX, SPLICE, SYNC
from rv_train.policies.base import Prediction
from tests.rv_eval.fakes import DESCRIPTION, VIEWS, FakePolicy, FakeSimulator, FakeTask
from tools import eval_delay

GOAL = 7


@dataclass(frozen=True)
class Task(FakeTask):
    num_init_states: int = 3


class Walker(FakePolicy):
    """One step towards the goal per action, from where it is when it is asked."""

    preset, render, resolution, pictures, folder = AgentSettings(), "standard", 8, None, "x"
    takes_prefix = False

    def describe(self):
        return super().describe() | {"temperature": 0.0, "batch_rows": 4}

    def check_environment(self, *environment):
        pass

    def predict_detailed(self, observations):
        chunk = np.zeros((len(observations), self.horizon, self.action_dim), np.float32)
        for row, observation in enumerate(observations):
            chunk[row, : max(0, GOAL - int(observation["proprio"]["robot_states"][0])), 0] = 1
        rows = np.arange(len(observations))
        return Prediction(chunk, rows >= 0, rows < 0, [""] * len(rows))


class Street:
    """An Environment in this process. The goal is reached by standing on it, unless one walked beyond it before."""

    description = DESCRIPTION

    def __init__(self, task):
        self.task, self._replies = task, deque()
        self._read, self._write = os.pipe()

    def begin(self, episode, views):
        self._place, self._beyond = 0, False
        self._reply(False)

    def act(self, action, views):
        self._place += int(action[0])
        self._beyond |= self._place > GOAL
        self._reply(self._place == GOAL and not action[0] and not self._beyond)

    def _reply(self, success):
        views = {view: np.zeros((8, 8, 3), np.uint8) for view in VIEWS}
        state = {"robot_states": np.full(9, self._place, np.float32)}
        self._replies.append(Reply({"views": views, "instruction": "go", "proprio": state}, success))
        os.write(self._write, b".")

    def fileno(self):
        return self._read

    def receive(self):
        os.read(self._read, 1)
        return self._replies.popleft()

    def close(self):
        os.close(self._read)
        os.close(self._write)


class Town(FakeSimulator):
    def choose_tasks(self, args):
        return [Task()]

    def make(self, task, resolution, render):
        return Street(task)


class Nowhere(Town):
    def make(self, task, resolution, render):
        raise AssertionError("no environment is needed")


def arguments(folder, *more):
    given = ["--model_path", "x", "--log_dir", str(folder), "--save_video", "none", *more]
    return eval_delay.parse_cells(Town(), given)


def test_every_cell_is_an_evaluation_and_naive_walks_too_far(tmp_path, capsys):
    options = ["--delays", "0", "2", "--episodes", "3"]
    rows = eval_delay.run_cells(arguments(tmp_path, *options), Town(), Walker())
    found = {(row["execution"], row["delay_steps"]): (row["successes"], row["episodes"]) for row in rows}
    assert found == {(SYNC, 0): (3, 3), (NAIVE, 2): (0, 3), (SPLICE, 2): (3, 3)}
    steps = {row["execution"]: row["mean_steps"] for row in rows}
    assert steps == {SYNC: 8, NAIVE: None, SPLICE: 10}, "two holds more, before the first answer"
    assert json.loads((tmp_path / "delays.json").read_text()) == rows
    record = json.loads((tmp_path / "splice_2" / "results.jsonl").read_text().splitlines()[0])
    assert (record["execution"], record["delay_steps"], record["model_path"]) == (SPLICE, 2, "x")
    printed = eval_delay.table(rows).splitlines()
    assert "naive" in printed[2] and "0/3" in printed[2] and printed[2].split()[-1] == "-"
    # continued: nothing is run again, and the table is the same
    capsys.readouterr()
    again = eval_delay.run_cells(arguments(tmp_path, *options, "--skip_evaluated"), Nowhere(), Walker())
    assert again == rows and "3 of 3 episodes are in" in capsys.readouterr().out


def test_shards_leave_their_parts_side_by_side_and_one_more_call_has_all(tmp_path):
    options = ["--delays", "2", "--executions", "splice", "--episodes", "3"]
    for shard_id, episodes in ((0, 1), (1, 2)):
        shard = [*options, "--shard_id", str(shard_id), "--num_shards", "2"]
        (row,) = eval_delay.run_cells(arguments(tmp_path, *shard), Town(), Walker())
        assert row["episodes"] == episodes
        assert json.loads((tmp_path / f"delays_00{shard_id}_of_002.json").read_text()) == [row]
    assert not (tmp_path / "delays.json").exists(), "which would be of the shard that ended last"
    (row,) = eval_delay.run_cells(arguments(tmp_path, *options, "--skip_evaluated"), Nowhere(), Walker())
    assert (row["successes"], row["episodes"]) == (3, 3)


class Told(Walker):
    """Knows what is executed until its answer is there, and begins with that."""

    takes_prefix = True

    def predict_detailed(self, observations):
        prediction = super().predict_detailed(observations)
        for chunk, observation in zip(prediction.chunk, observations, strict=True):
            begun = observation.get("prefix", np.zeros((0, self.action_dim)))
            left = GOAL - int(observation["proprio"]["robot_states"][0]) - int(begun[:, 0].sum())
            chunk[:, 0] = [*begun[:, 0], *[1] * left, *[0] * self.horizon][: self.horizon]
        return prediction


def test_with_a_prefix_the_policy_knows_what_is_executed_meanwhile(tmp_path):
    options = ["--delays", "2", "--executions", "prefix", "--episodes", "3"]
    with pytest.raises(ValueError, match="the policy x cannot begin its chunks"):
        eval_delay.run_cells(arguments(tmp_path, *options), Town(), Walker())
    (row,) = eval_delay.run_cells(arguments(tmp_path, *options), Town(), Told())
    assert (row["execution"], row["successes"], row["mean_steps"]) == (PREFIX, 3, 10)


def test_cells_are_run_once():
    assert eval_delay.cells([SYNC, NAIVE, SPLICE], [4, 0, 1]) == [
        *[(SYNC, 0), (NAIVE, 1), (NAIVE, 4)],
        *[(SPLICE, 1), (SPLICE, 4)],
    ]


def test_wrong_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--delays: control steps, at least 0, got -1"):
        arguments(tmp_path, "--delays", "2", "-1")
    with pytest.raises(ValueError, match="--device is decided"):
        arguments(tmp_path, "--model_path", "ws://there:1", "--device", "cpu")
