"""The simulator of docs/adding_simulator.md, without robosuite: a hand in a box has to close at a ball.

Its own are: 5 actions a second of 4 numbers, a gripper that may be half open, one camera, two render settings. ToyTask
and ToyEnv would be in libs/toy_sim, the rest in rv_eval/envs/toy.py.
"""

from dataclasses import dataclass

import numpy as np

from libs.errors import BadInput
from libs.robosuite_sim import RemoteObject
from rv_eval.envs.base import ActionPart, Description
from rv_eval.envs.process import ProcessEnvironment

COLOURS = {"plain": (250, 250, 250), "dark": (20, 20, 20)}  # render setting -> background
STEP, NEAR = 0.1, 0.15  # of the box's side: per action, and near enough


@dataclass(frozen=True)
class ToyTask:
    suite: str = "toy"
    task_id: int = 0
    name: str = "close_at_the_ball"
    instruction: str = "close the hand at the ball"
    max_steps: int = 12
    num_init_states: int = 20


class ToyEnv:
    """The simulation itself, in a process of its own; it knows nothing of policies."""

    def __init__(self, task, resolution, render):
        if render not in COLOURS:
            raise BadInput(f"unknown render setting {render!r}: known are {', '.join(COLOURS)}")
        self.task, self.resolution, self.colour = task, resolution, COLOURS[render]

    def reset(self, init_state):
        self.ball, self.hand = np.random.default_rng(init_state).uniform(0.1, 0.9, (2, 3))
        self.closed, self.nearest = 0.0, 1.0

    def settle(self, steps, views):
        return self._observation(views)

    def step(self, action, views):
        action = np.asarray(action, np.float64)
        if action.shape != (4,):
            raise BadInput(f"an action is 4 numbers, not {action.shape}")
        self.hand = np.clip(self.hand + STEP * np.clip(action[:3], -1, 1), 0, 1)
        self.closed = float(action[3])
        distance = float(np.abs(self.hand - self.ball).max())
        self.nearest = min(self.nearest, distance)
        success = distance < NEAR and self.closed > 0.5
        return self._observation(views), success, {"nearest": self.nearest}

    def close(self):
        pass

    def _observation(self, views):
        picture = np.full((self.resolution, self.resolution, 3), self.colour, np.uint8)
        for place, colour in ((self.ball, (220, 40, 40)), (self.hand, (40, 40, 220))):
            row, column = (self.resolution * (0.9 * place[1:])).astype(int)
            picture[row : row + 3, column : column + 3] = colour
        proprio = {"hand": self.hand.copy(), "gripper": np.array([self.closed])}
        return {"views": dict.fromkeys(views, picture), "instruction": self.task.instruction, "proprio": proprio}


DESCRIPTION = Description(
    name="toy",
    benchmark="toy",
    views=("front",),
    proprio={"hand": 3, "gripper": 1},
    actions=(ActionPart("position", 3), ActionPart("gripper", 1)),
    control_hz=5,
    reported_render="plain",
)


class ToyEnvironment(ProcessEnvironment):
    description = DESCRIPTION

    def __init__(self, task, resolution, render):
        about = {"task": task, "resolution": resolution, "render": render}
        super().__init__(task, RemoteObject("tests.rv_eval.envs.toy:ToyEnv", about))

    def reset_arguments(self, episode):
        return (episode.init_state,)


class ToySimulator:
    description = DESCRIPTION
    seed_means = "seed of the policy's noise"

    def add_task_arguments(self, add):
        add("--hurry", action="store_true", help="half the steps")

    def choose_tasks(self, args):
        return [ToyTask(max_steps=6 if args.hurry else 12)]

    def prepare(self):
        return {}

    def versions(self):
        return {"toy": "1.0"}  # it has no package: another number whenever it plays otherwise

    def make(self, task, resolution, render):
        return ToyEnvironment(task, resolution, render)
