"""A simulator whose environments are real child processes, and a policy, all tiny, to test rollouts with."""

import multiprocessing
import os
import time
from dataclasses import dataclass

import numpy as np

from libs.action_form import Rotations
from libs.errors import BadInput
from rv_eval.envs.base import ActionPart, Description, Reply, WorkerFailure
from rv_train.policies.base import Prediction

VIEWS = ("agentview", "eye_in_hand")
DESCRIPTION = Description(
    name="fake",
    benchmark="fake",
    views=VIEWS,
    proprio={"robot_states": 9},
    actions=(ActionPart("arm", 6), ActionPart("gripper", 1, (-1.0, 1.0))),
    control_hz=20,
)


@dataclass(frozen=True)
class FakeTask:
    suite: str = "fake"
    task_id: int = 0
    name: str = "fake_task"
    instruction: str = "do it"
    max_steps: int = 20
    num_init_states: int = 30


class FakePolicy:
    """Predicts chunks of the present step number: action[0] of a chunk's i-th action is step + i."""

    horizon, action_dim, views, batch_rows = 4, 7, VIEWS, 4
    rotations = Rotations()

    def __init__(self):
        self.batches = []
        self.random_keys = []

    def describe(self):
        about = {"model_folder": "checkpoints/fake", "model_fingerprint": "abc", "preset": {}}
        return about | {"render": "standard", "resolution": 8, "device": "cpu", "torch_compile": False}

    def predict_detailed(self, observations):
        self.batches.append(len(observations))
        for observation in observations:
            assert set(observation["views"]) == set(VIEWS)
            self.random_keys.append(observation["random_key"])
        steps = np.array([observation["proprio"]["robot_states"][0] for observation in observations])
        chunk = np.zeros((len(steps), self.horizon, self.action_dim), dtype=np.float32)
        chunk[:, :, 0] = steps[:, None] + np.arange(self.horizon)
        rows = np.arange(len(steps))
        return Prediction(chunk, valid=steps > 0, repaired=rows < 0, texts=[f"from {step:.0f}" for step in steps])


def _child(pipe, trouble, side):
    """Counts steps; success at the step the episode's init state names. trouble: {step: "crash" | "hang" | "slow"}."""
    step = goal = 0
    while True:
        try:
            name, arguments, views = pipe.recv()
        except EOFError:
            return
        if name == "begin":
            step, goal = 0, arguments
        else:
            assert arguments[0] == step, "every action is executed once, in order"
            step += 1
        if trouble.get(step) == "crash":
            os._exit(1)
        if trouble.get(step) == "hang":
            time.sleep(60)
        if trouble.get(step) == "slow":
            time.sleep(2)
        pictures = {view: np.full((side, side, 3), step, np.uint8) for view in views}
        observation = {
            "views": pictures,
            "instruction": "do it",
            "proprio": {"robot_states": np.full(9, step, np.float32)},
        }
        pipe.send((observation, step == goal))


class FakeEnv:
    """An Environment. The episode's init state is the step of its success."""

    description = DESCRIPTION

    def __init__(self, task, trouble=None, side=8):
        self.task = task
        self.rendered = []  # (request number, views)
        self._pipe, theirs = multiprocessing.get_context("fork").Pipe()
        self._process = multiprocessing.get_context("fork").Process(target=_child, args=(theirs, trouble or {}, side))
        self._process.start()
        theirs.close()

    def begin(self, episode, views):
        self.rendered.append(views)
        self._send("begin", episode.init_state, views)

    def act(self, action, views):
        self.rendered.append(views)
        self._send("act", action, views)

    def _send(self, *message):
        try:
            self._pipe.send(message)
        except OSError as error:
            raise WorkerFailure("gone") from error

    def fileno(self):
        return self._pipe.fileno()

    def receive(self):
        try:
            return Reply(*self._pipe.recv())
        except (EOFError, OSError) as error:
            raise WorkerFailure("gone") from error

    @property
    def pid(self):
        return self._process.pid

    def close(self):
        self._process.kill()
        self._process.join()
        self._pipe.close()


class FakeSimulator:
    """A Simulator."""

    description = DESCRIPTION
    seed_means = "nothing"

    def add_task_arguments(self, add):
        """There is one task."""

    def choose_tasks(self, args):
        return [FakeTask()]

    def prepare(self):
        return {"drawn_by": "nobody"}

    def versions(self):
        return {"mujoco": "2.3.7"}

    def make(self, task, resolution, render):
        if render not in ("standard", "fast"):
            raise BadInput(f"unknown render setting {render!r}")
        return FakeEnv(task, side=resolution)
