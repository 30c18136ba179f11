"""A robot, a clock and a policy's thread that exist on paper only: no test of the loop waits for anything."""

from collections import deque

import numpy as np

from libs.action_form import Rotations
from rv_train.policies.base import Prediction

VIEWS = ("front", "wrist")
HORIZON, ACTION_DIM = 8, 2


class FakeClock:
    """Time passes where it is waited for, or where somebody says so."""

    def __init__(self):
        self.time = 100.0

    def now(self):
        return self.time

    def wait_until(self, when):
        self.time = max(self.time, when)


class FakePolicy:
    """What the loop wants to know of a policy."""

    horizon, action_dim, views, proprio, resolution = HORIZON, ACTION_DIM, VIEWS, {"state": ACTION_DIM}, 16
    folder, takes_prefix, pictures = "checkpoints/fake", True, None
    rotations = Rotations()


class FakeRobot:
    """Writes down what it is told: an action's first number, or "-" to hold. It stands where it was told to."""

    def __init__(self, clock=None, side=16):
        self.done, self.place, self.clock, self.side = [], np.zeros(ACTION_DIM), clock, side
        self.takes_s = 0.0  # seconds that a look takes
        self.trouble = {}  # control step -> what goes wrong
        self.looks = 0

    def observe(self):
        if self.looks in self.trouble:
            raise self.trouble[self.looks]
        self.looks += 1
        if self.clock:
            self.clock.time += self.takes_s
        picture = np.full((self.side, self.side, 3), self.looks % 256, np.uint8)
        return {"views": dict.fromkeys(VIEWS, picture), "proprio": {"state": self.place.copy()}}

    def act(self, action):
        assert action.shape == (ACTION_DIM,) and action.dtype == np.float64
        self.place = action
        self.done.append(round(float(action[0]), 6))

    def hold(self):
        self.done.append("-")


class FakeAsker:
    """Answers a question after the next of `delays` seconds, the last again and again; math.inf: never.

    An action says to which step it belongs: 100 * the number of the question + its place in the chunk. Its text says
    the same, as integers. spoil: {question: function of its Prediction, or an error to raise}.
    """

    def __init__(self, clock, delays, spoil=None, scale=1.0):
        self.clock, self.delays, self.questions = clock, deque(delays), []
        self.spoil, self.scale = spoil or {}, scale
        self._open = None

    def ask(self, observation):
        assert self._open is None, "one question at a time"
        delay = self.delays.popleft() if len(self.delays) > 1 else self.delays[0]
        self._open = self.clock.now() + delay
        self.questions.append(observation)

    def answer(self):
        if self.clock.now() < self._open - 1e-9:
            return None
        self._open = None
        number = len(self.questions) - 1
        chunk = np.zeros((1, HORIZON, ACTION_DIM), np.float32)
        chunk[0, :, 0] = self.scale * (100 * number + np.arange(HORIZON))
        numbers = [100 * number + place for place in range(HORIZON) for _ in range(ACTION_DIM)]
        text = " ".join(map(str, numbers))
        prediction = Prediction(chunk, np.array([True]), np.array([False]), [text], numbers=[numbers])
        change = self.spoil.get(number)
        if isinstance(change, BaseException):
            raise change
        return change(prediction) if change else prediction
