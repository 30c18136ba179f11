"""From chunks to single actions: how much of a chunk is executed, how overlapping chunks are averaged."""

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from libs.action_form import NO_ROTATIONS, Rotations
from libs.errors import BadInput
from libs.temporal_ensemble import TemporalEnsembler
from rv_eval.drafts import rest_of
from rv_eval.envs.base import ActionPart, snap

if TYPE_CHECKING:  # a command line that only shows its help loads no model code
    from rv_train.policies.base import Prediction


@dataclass(frozen=True)
class AgentSettings:
    """How chunks are executed. n_action_steps: actions per query, 0 for the model's whole horizon; the others
    as in TemporalEnsembler (ensemble_size 1: no averaging)."""

    n_action_steps: int = 0
    ensemble_size: int = 1
    ensemble_version: int = 1
    ensemble_weight: float = 0.5
    allow_no_overlap: bool = False

    def resolve(self, horizon: int) -> "AgentSettings":
        """The same settings with 0 replaced by the horizon. BadInput: they do not fit the horizon."""
        if not 0 <= self.n_action_steps <= horizon:
            raise BadInput(
                f"action horizon {self.n_action_steps}: the model predicts {horizon} actions at once, "
                f"so execute 1 to {horizon} of them (0: all)"
            )
        resolved = AgentSettings(**(asdict(self) | {"n_action_steps": self.n_action_steps or horizon}))
        resolved.make_ensembler(horizon)
        return resolved

    @classmethod
    def from_dict(cls, values: dict) -> "AgentSettings":
        """From what `asdict` made, sent by somebody. BadInput: other names or other types."""
        wanted = asdict(cls())
        wrong = [name for name in wanted if type(values.get(name)) is not type(wanted[name])]
        if wrong or len(values) != len(wanted):
            raise BadInput(f"settings of an agent are {', '.join(wanted)}, got {values}")
        return cls(**values)

    def make_ensembler(self, horizon: int, rotations: Rotations = NO_ROTATIONS) -> TemporalEnsembler:
        return TemporalEnsembler(
            horizon,
            self.n_action_steps,
            self.ensemble_size,
            self.ensemble_version,
            self.ensemble_weight,
            self.allow_no_overlap,
            rotations,
        )


class Answering(Protocol):
    """A policy as a rollout, a server or a robot asks it: loaded here (`rv_eval.policy.Policy`) or served elsewhere
    (`rv_eval.serving.remote_policy.RemotePolicy`).

    views, proprio: what it looks at, {part of the robot's state: numbers in it}; render, resolution, pictures: how the
    pictures were made that it was trained with; batch_rows: observations that it answers at once; takes_prefix: whether
    an observation may say what its chunk begins with; rotations: those that are known of its actions; folder: where it
    lies, for messages.
    """

    horizon: int
    action_dim: int
    views: tuple[str, ...]
    proprio: dict[str, int]
    render: str
    resolution: int
    pictures: dict | None
    preset: AgentSettings
    batch_rows: int
    takes_prefix: bool
    rotations: Rotations

    @property
    def folder(self) -> Path | str: ...

    def predict_detailed(self, observations: list[dict]) -> "Prediction":
        """See `rv_eval.policy.Policy.predict`."""
        ...

    def describe(self) -> dict:
        """All that an answer depends on, as JSON."""
        ...

    def check_environment(
        self, views: Sequence[str], action_dim: int, render: str, proprio: dict[str, int] | None = None
    ) -> None:
        """BadInput where an environment does not show, tell or take what the policy was trained with."""
        ...


class ChunkAgent:
    """One episode's side of the policy: takes an answer per query, gives one action per step, and says what the next
    answer will probably begin with.

    actions: the parts of an action that the environment takes (Description.actions). rotations: the policy's.
    Ask `needs_observation` before every step: where it is true, render, query the policy and `add_answer`.
    """

    def __init__(
        self,
        horizon: int,
        settings: AgentSettings,
        actions: Sequence[ActionPart],
        rotations: Rotations = NO_ROTATIONS,
    ) -> None:
        self.settings = settings.resolve(horizon)
        self.draft: list[int] = []  # the integers of the last answer about actions that are not executed
        self._parts = actions
        self._ensembler = self.settings.make_ensembler(horizon, rotations)
        self._actions: deque[np.ndarray] = deque()

    @property
    def needs_observation(self) -> bool:
        return not self._actions

    def reset(self) -> None:
        """Forget everything: call at the start of an episode."""
        self._ensembler.reset()
        self._actions.clear()
        self.draft = []

    def told(self) -> dict:
        """What the next observation says of the answers before it, see `Policy.predict`."""
        return {"draft": self.draft}

    def add_answer(self, prediction: "Prediction", row: int) -> None:
        """Row `row` of what the policy predicted for the present observation."""
        self.add_chunk(prediction.chunk[row], prediction.numbers[row] if prediction.numbers else ())

    def add_chunk(self, chunk: np.ndarray, numbers: Sequence[int] = ()) -> None:
        """chunk (H, A); numbers: the integers that it was written with, none of a policy that writes none."""
        self.draft = rest_of(numbers, len(chunk), self.settings.n_action_steps)
        averaged = self._ensembler.add(chunk)
        self._actions = deque(averaged[: self.settings.n_action_steps].astype(np.float64))

    def next_action(self) -> np.ndarray:
        """(A,) float64, as the environment executes it: a gripper that opens or closes is snapped after averaging."""
        if self.needs_observation:
            raise RuntimeError("the agent has no action left: give it an answer first")
        return snap(self._actions.popleft(), self._parts)
