"""Answers that come late, in a simulator: its time goes on for some control steps between question and answer.

What is executed until the next question is settled when an answer is there, so the rollout need not know of it: to it
this is an agent like `ChunkAgent`.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from libs.action_form import NO_ROTATIONS, Rotations
from libs.errors import BadInput
from rv_eval.agent import AgentSettings
from rv_eval.drafts import rest_of
from rv_eval.envs.base import ActionPart, snap
from rv_eval.splice import SYNC, Splicer

if TYPE_CHECKING:
    from rv_train.policies.base import Prediction


class DelayedAgent:
    """One episode's side of a policy whose answers are there `delay` control steps after their observation.

    actions: the parts of an action that the environment takes. execution, rotations: see Splicer; sync: the simulator
    waits, whatever the delay. While there is nothing to execute the arm holds: zeros, which move nothing where actions
    are differences, and of parts with levels what they had last, at first the lower.
    """

    def __init__(
        self,
        horizon: int,
        settings: AgentSettings,
        actions: Sequence[ActionPart],
        execution: str,
        delay: int,
        rotations: Rotations = NO_ROTATIONS,
    ) -> None:
        if delay < 0:
            raise BadInput(f"an answer comes at least 0 steps after its question, not {delay}")
        self._splicer = Splicer(horizon, settings, execution, rotations)
        self.settings, self.delay = self._splicer.settings, 0 if execution == SYNC else delay
        self._parts = actions
        self._keeps = np.concatenate([np.full(part.size, part.levels is not None) for part in actions])  # (A,) bool
        self.reset()

    @property
    def needs_observation(self) -> bool:
        return not self._actions

    def reset(self) -> None:
        """Forget everything: call at the start of an episode."""
        self._splicer.reset()
        self._actions: deque[np.ndarray] = deque()
        self._last = snap(np.full(len(self._keeps), -np.inf), self._parts)
        self._numbers: Sequence[int] = ()
        self.draft: list[int] = []  # what the last answer said about actions that are not executed
        self.prefix: list[np.ndarray] = []  # of those, what is executed until the next answer is there
        self.holds = 0  # steps in which the arm held

    def told(self) -> dict[str, Any]:
        """What the next observation says of the answers before it, see `Policy.predict`."""
        return {"draft": self.draft} | ({"prefix": np.stack(self.prefix)} if self.prefix else {})

    def add_answer(self, prediction: "Prediction", row: int) -> None:
        """Row `row` of what the policy predicted for the present observation; it is there `delay` steps later."""
        chunk = prediction.chunk[row]  # (H, A)
        self._splicer.ask()
        for _ in range(self.delay):
            self._step()
        if self._splicer.add_chunk(chunk):
            self._numbers = prediction.numbers[row] if prediction.numbers else ()
        while not self._splicer.due(self.delay):
            self._step()
        self.draft = rest_of(self._numbers, len(chunk), self._splicer.position)
        self.prefix = [snap(action, self._parts) for action in self._splicer.coming(self.delay)]

    def next_action(self) -> np.ndarray:
        """(A,) float64, as the environment executes it."""
        if self.needs_observation:
            raise RuntimeError("the agent has no action left: give it an answer first")
        return self._actions.popleft()

    def _step(self):
        action = self._splicer.next_action()
        if action is None:
            action = np.where(self._keeps, self._last, 0.0)
            self.holds += 1
        self._last = snap(action, self._parts)
        self._actions.append(self._last)
