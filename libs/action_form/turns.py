"""Rotations among the numbers of recorded actions, where actions are averaged, or kept close to each other: as numbers
they jump (the sign of a quaternion, an angle at +-pi), and between the two sides of a jump lies everything else."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from libs.action_form.rotation import FORMS, QUATERNIONS, from_matrix, is_form, is_usual, near, size, to_matrix
from libs.errors import BadInput

ROUNDING = 1e-6  # radians
SHARES = (1.0, 0.5, 0.25)  # of a turn that are tried where the whole leaves a range


@dataclass(frozen=True)
class Rotations:
    """dims: the first number of each rotation in an action; form: its form there, of `libs.action_form.rotation`."""

    dims: tuple[int, ...] = ()
    form: str = "axis_angle"

    @classmethod
    def from_dict(cls, values: Any, action_dim: int) -> "Rotations":
        """From what `as_dict` made; None: there are none. BadInput: anything else, or actions do not have them."""
        if values is None:
            return cls()
        if not isinstance(values, dict) or set(values) != {"dims", "form"} or not isinstance(values["dims"], list):
            raise BadInput(f'rotations are {{"dims": [first number of each], "form": name}} or null, not {values!r}')
        dims, form = values["dims"], values["form"]
        if not isinstance(form, str) or not is_form(form):
            raise BadInput(f"rotations: {form!r} is no form; choose one of {', '.join(FORMS)}")
        taken = [number for first in dims if type(first) is int for number in range(first, first + size(form))]
        whole = len(set(taken)) == len(taken) == len(dims) * size(form)
        if not dims or not whole or not all(0 <= number < action_dim for number in taken):
            raise BadInput(f"rotations: {dims} are no first numbers of {form}, {size(form)} each, among {action_dim}")
        return cls(tuple(dims), form)

    def as_dict(self) -> dict[str, Any] | None:
        """{"dims", "form"} as JSON; None where there are none."""
        return {"dims": list(self.dims), "form": self.form} if self.dims else None

    def places(self) -> Iterator[slice]:
        """Of the numbers of each rotation."""
        return (slice(first, first + size(self.form)) for first in self.dims)

    def at_rest(self, dim: int) -> np.ndarray:
        """(A,) zeros, and rotations that turn nothing."""
        action = np.zeros(dim)
        for here in self.places():
            action[here] = from_matrix(self.form, np.eye(3))
        return action

    def mean(self, numbers: np.ndarray, pieces: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
        """numbers (H, A), means number by number of the first rows of `pieces`, [(weight, (up to H, A))], with the mean
        rotations (of quaternions of one sign) in place of theirs, as the numbers nearest to the first piece's."""
        newest = pieces[0][1]
        for here in self.places():
            first = from_matrix("quaternion_xyzw", to_matrix(self.form, newest[:, here]))  # (H, 4)
            total, reached = np.zeros_like(first), max((len(rows) for _, rows in pieces[1:]), default=0)
            for weight, rows in pieces:
                turned = from_matrix("quaternion_xyzw", to_matrix(self.form, rows[:, here]))
                total[: len(rows)] += weight * near("quaternion_xyzw", turned, first[: len(rows)])
            met = from_matrix(self.form, to_matrix("quaternion_xyzw", total))
            numbers[:reached, here] = near(self.form, met, newest[:, here])[:reached]
            numbers[reached:, here] = newest[reached:, here]  # nothing is averaged there
        return numbers

    def within(self, action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """(A,) the action with numbers from low to high, each rotation in those of its numbers that fit best."""
        action = np.array(action, np.float64)
        for here in self.places():
            same = [action[here], *self._numbers(to_matrix(self.form, action[here]), (low[here] + high[here]) / 2)]
            action[here] = min(same, key=lambda one: np.abs(one - np.clip(one, low[here], high[here])).sum())
        return np.clip(action, low, high)

    def toward(
        self, action: np.ndarray, before: np.ndarray, change: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        """(A,) the action with every rotation turned from that of `before` by no more than `change` (A,) allows: the
        smallest of its numbers is an angle, of a quaternion half of one. It turns the short way, in numbers from low to
        high (or farther, as far as `before` is); where all of that way leaves them, it stays."""
        action = np.array(action, np.float64)
        for here in self.places():
            start, goal = to_matrix(self.form, before[here]), to_matrix(self.form, action[here])
            turn = from_matrix("axis_angle", goal @ start.T)
            most = float(change[here].min()) * (2 if self.form in QUATERNIONS else 1)
            if (angle := np.linalg.norm(turn)) <= most:
                continue
            found, left = before[here], math.inf
            for share in SHARES:
                matrix = to_matrix("axis_angle", turn * (most * share / angle)) @ start
                numbers = self._numbers(matrix, before[here])
                if not is_usual(self.form, action[here]):
                    numbers.reverse()
                for one in numbers:
                    stood = near(self.form, before[here], one)
                    one = np.clip(one, np.minimum(low[here], stood), np.maximum(high[here], stood))
                    turned = to_matrix(self.form, one)
                    if _angle(start, turned) <= most + ROUNDING and _angle(turned, goal) < left - ROUNDING:
                        found, left = one, _angle(turned, goal)
                if left < math.inf:
                    break
            action[here] = found
        return action

    def _numbers(self, matrix, other):
        """Of a rotation (3, 3): those that `from_matrix` gives, and those nearest to others."""
        usual = from_matrix(self.form, matrix)
        return [usual, near(self.form, usual, other)]


NO_ROTATIONS = Rotations()


def _angle(one, other):
    """Radians between two rotations (3, 3)."""
    return float(np.linalg.norm(from_matrix("axis_angle", other @ one.T)))
