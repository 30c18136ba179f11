"""What an arm may be told: a range for every number of an action, and how far it may move in one control step."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from libs.action_form import NO_ROTATIONS, Rotations
from libs.errors import BadInput
from libs.files import read_json_object


@dataclass(frozen=True)
class Limits:
    """low, high: (A,) numbers, the range of every number of an action.

    max_change: (A,) numbers: what may lie between an action and the one before, in one control step; None: anything,
    which is for actions that are differences themselves.
    position: the part of the robot's state that actions are goals for, with A numbers: after a hold, and at first, the
    change is measured from there. None: from zero, for actions that are differences.
    rotations: which numbers of an action are. They turn the short way, no faster than the smallest of their max_change
    (an angle, of a quaternion half of one), in whatever numbers. What is not named here changes number by number: if it
    is a rotation, or a joint that goes round, where it jumps (the sign of a quaternion, an angle at +-pi) the arm would
    be led through all that lies between.
    """

    low: tuple
    high: tuple
    max_change: tuple | None = None
    position: str | None = None
    rotations: Rotations = NO_ROTATIONS

    def __post_init__(self) -> None:
        _check_numbers("low", self.low, None)
        _check_numbers("high", self.high, len(self.low))
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise BadInput(f"limits: every low must be below its high, got {self.low} and {self.high}")
        if self.max_change is not None:
            _check_numbers("max_change", self.max_change, len(self.low))
            if not all(change > 0 for change in self.max_change):
                raise BadInput(f"limits: every max_change must be above 0, got {self.max_change}")
        if self.position is not None and not isinstance(self.position, str):
            raise BadInput(f"limits: position is the name of a part of the robot's state, not {self.position!r}")
        if self.position is not None and self.max_change is None:
            raise BadInput("limits: where actions are positions, max_change must say how far one may be from the last")

    @classmethod
    def load(cls, path: Path | str) -> "Limits":
        """From a JSON file with these entries, and "about" for people. BadInput: another file."""
        found = read_json_object(path)
        known = [field.name for field in fields(cls)]
        wrong = [name for name in found if name not in (*known, "about")]
        missing = [name for name in known if name not in found]
        if wrong or missing:
            what = f"has no entry {wrong[0]!r}" if wrong else f"needs {missing[0]!r} (null: none)"
            raise BadInput(f"{path}: a file of limits {what}; its entries are {', '.join(known)} and about")
        try:
            values: dict[str, Any] = {name: tuple(v) if isinstance(v := found[name], list) else v for name in known}
            _check_numbers("low", values["low"], None)
            return cls(**values | {"rotations": Rotations.from_dict(found["rotations"], len(values["low"]))})
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None

    def of(self, rotations: Rotations) -> "Limits":
        """The same for a policy, of which these rotations are known. BadInput: the file says others."""
        told = self.rotations.dims and rotations.dims
        if told and (sorted(self.rotations.dims), self.rotations.form) != (sorted(rotations.dims), rotations.form):
            raise BadInput(
                f"limits: rotations {self.rotations.as_dict()}, but the policy was trained with {rotations.as_dict()}"
            )
        return replace(self, rotations=rotations) if rotations.dims else self

    def apply(self, action: np.ndarray, before: np.ndarray) -> np.ndarray:
        """(A,) float64, the nearest action that is allowed after `before`. Beyond the range, where an arm may stand at
        first, it comes back no faster than max_change."""
        low, high = np.array(self.low, np.float64), np.array(self.high, np.float64)
        wanted = self.rotations.within(action, low, high)
        if self.max_change is None:
            return wanted
        change = np.array(self.max_change, np.float64)
        allowed = np.clip(wanted, before - change, before + change)
        for here in self.rotations.places():
            allowed[here] = wanted[here]
        return self.rotations.toward(allowed, before, change, low, high)

    def at_rest(self, proprio: dict) -> np.ndarray:
        """(A,) what the next change is measured from where nothing was sent. BadInput: the state does not say it."""
        if self.position is None:
            return self.rotations.at_rest(len(self.low))
        place = np.asarray(proprio.get(self.position, ()), np.float64)
        if place.shape != (len(self.low),) or not np.isfinite(place).all():
            raise BadInput(
                f"limits: the robot's state {self.position!r} must hold {len(self.low)} finite numbers, as an action "
                f"does; it says {place} (parts: {', '.join(proprio) or 'none'})"
            )
        return place


def _check_numbers(name, values, size):
    numbers = isinstance(values, tuple) and all(
        type(value) in (int, float) and math.isfinite(value) for value in values
    )
    if not numbers or not values or size not in (None, len(values)):
        raise BadInput(f"limits: {name} is a list of {size or 'some'} finite numbers, not {values}")
