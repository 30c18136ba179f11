"""Answers that come late, in a simulator: its time goes on for some control steps between question and answer.

What is executed until the next question is settled when an answer is there, so the rollout need not know of it: to it
this is an agent like `ChunkAgent`.
"""

from collections import deque

import numpy as np

from libs.errors import BadInput
from rv_eval.agent import AgentSettings
from rv_eval.splice import SYNC, Splicer

OPEN = -1.0


class DelayedAgent:
    """One episode's side of a policy whose answers are there `delay` control steps after their observation.

    execution: see Splicer; sync: the simulator waits, whatever the delay. While there is nothing to execute the arm
    holds: an action of zeros, which moves nothing where actions are differences, and the gripper as it was.
    """

    def __init__(self, horizon: int, settings: AgentSettings, execution: str, delay: int):
        if delay < 0:
            raise BadInput(f"an answer comes at least 0 steps after its question, not {delay}")
        self._splicer = Splicer(horizon, settings, execution)
        self.settings, self.delay = self._splicer.settings, 0 if execution == SYNC else delay
        self.reset()

    @property
    def needs_observation(self) -> bool:
        return not self._actions

    def reset(self):
        """Forget everything: call at the start of an episode."""
        self._splicer.reset()
        self._actions, self._gripper = deque(), OPEN
        self.holds = 0  # steps in which the arm held

    def add_chunk(self, chunk):
        """chunk (H, A): what the policy predicted for the present observation; it is there `delay` steps later."""
        self._splicer.ask()
        for _ in range(self.delay):
            self._step(chunk.shape[-1])
        self._splicer.add_chunk(chunk)
        while not self._splicer.due(self.delay):
            self._step(chunk.shape[-1])

    def next_action(self) -> np.ndarray:
        """(A,) float64, the gripper (last) snapped to -1 open or +1 close."""
        if self.needs_observation:
            raise RuntimeError("the agent has no action left: give it a chunk first")
        return self._actions.popleft()

    def _step(self, action_dim):
        action = self._splicer.next_action()
        if action is None:
            action = np.append(np.zeros(action_dim - 1), self._gripper)
            self.holds += 1
        self._gripper = action[-1] = 1.0 if action[-1] > 0 else OPEN
        self._actions.append(action)
