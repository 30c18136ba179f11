"""A chunk of actions as it is recorded <-> as a model writes it.

Some numbers of an action may be written as differences, to the robot's state at the chunk's start or to the action
before; rotations, which cannot be subtracted number by number, in another form and as the rotation that leads from the
one to the other: about the axes of the frame that they are recorded in, R_written = R_action R_from^-1.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from libs.action_form.rotation import from_matrix, is_rotation, is_usual, near, size, to_matrix
from libs.action_form.turns import Rotations
from libs.errors import BadInput


def written_dim(dim: int, rotations: int, recorded: str, written: str) -> int:
    """Numbers of a written action: of a recorded one of `dim`, in which there are so many rotations in that form."""
    return dim + rotations * (size(written) - size(recorded)) if rotations else dim


@dataclass(frozen=True)
class ActionForm:
    """What is written of actions of `dim` numbers (A); the written ones have `written_dim` (B).

    relative: numbers of an action that are written as differences; origin: as many places in the robot's state (P),
    which say where the robot is. to_before: differences to the action before, of the first to the state; else all to
    the state at the chunk's start. rotations: the first number of each rotation in an action; recorded, written: its
    form there and as it is written. A rotation is relative with all its numbers, or with none. usual: recorded
    rotations are those of `is_usual`; else they are read as the numbers nearest to the action before, of the first to
    the state.

    BadInput: numbers that an action does not have, or that overlap.
    """

    dim: int
    relative: tuple[int, ...] = ()
    origin: tuple[int, ...] = ()
    to_before: bool = False
    rotations: tuple[int, ...] = ()
    recorded: str = "axis_angle"
    written: str = "axis_angle"
    usual: bool = True

    def __post_init__(self) -> None:
        width = size(self.recorded)
        if len(self.relative) != len(self.origin):
            raise BadInput(
                f"{len(self.relative)} numbers of an action are written as differences, and the state has "
                f"{len(self.origin)} for them: give as many"
            )
        for what, numbers in (("differences", self.relative), ("rotations", self.rotations)):
            last = width - 1 if what == "rotations" else 0
            wrong = [number for number in numbers if not 0 <= number < self.dim - last]
            if wrong or len(set(numbers)) < len(numbers):
                raise BadInput(f"{what}: an action has the numbers 0 to {self.dim - 1}, each once; got {[*numbers]}")
        for first, after in zip(sorted(self.rotations), sorted(self.rotations)[1:], strict=False):
            if after - first < width:
                raise BadInput(f"rotations of {width} numbers that begin at {first} and {after} overlap")
        for first in self.rotations:
            inside = [number for number in range(first, first + width) if number in self.relative]
            if inside and len(inside) < width:
                raise BadInput(
                    f"of the rotation in numbers {first} to {first + width - 1} only {inside} are differences: all or "
                    "none of them are"
                )

    @property
    def plain(self) -> bool:
        """Actions are written as they are recorded."""
        return not self.relative and not self.rotations

    @property
    def written_dim(self) -> int:
        """B, numbers of a written action."""
        return written_dim(self.dim, len(self.rotations), self.recorded, self.written)

    @property
    def turns(self) -> Rotations:
        """The rotations of recorded actions."""
        return Rotations(self.rotations, self.recorded)

    def write(self, chunk: np.ndarray, state: np.ndarray) -> np.ndarray:
        """(..., H, A) actions and (..., P) the state before the first → (..., H, B) float32."""
        if self.plain:
            return chunk
        chunk = np.asarray(chunk, dtype=np.float64)
        start = self._start(state, chunk.shape)
        before = np.concatenate([start, chunk[..., :-1, :]], axis=-2) if self.to_before else start
        pieces = []
        for first, width, turned in self._pieces():
            here = slice(first, first + width)
            if not turned:
                shift = before[..., here] if first in self.relative else 0.0
                pieces.append(chunk[..., here] - shift)
                continue
            matrix = to_matrix(self.recorded, chunk[..., here])
            if first in self.relative:
                matrix = matrix @ np.swapaxes(to_matrix(self.recorded, before[..., here]), -1, -2)
            pieces.append(from_matrix(self.written, matrix))
        return np.concatenate(pieces, axis=-1).astype(np.float32)

    def read(self, chunk: np.ndarray, state: np.ndarray) -> np.ndarray:
        """(..., H, B) written actions, (..., P) the state before the first → (..., H, A) float32, as recorded."""
        if self.plain:
            return chunk
        chunk = np.asarray(chunk, dtype=np.float64)
        start = self._start(state, (*chunk.shape[:-1], self.dim))
        pieces, place = [], 0
        for first, width, turned in self._pieces():
            here, wide = slice(first, first + width), size(self.written) if turned else width
            piece = chunk[..., place : place + wide]
            place += wide
            if turned:
                pieces.append(self._turned(piece, start[..., here] if first in self.relative else None))
            elif first in self.relative:
                pieces.append((piece.cumsum(axis=-2) if self.to_before else piece) + start[..., here])
            else:
                pieces.append(piece)
        return np.concatenate(pieces, axis=-1).astype(np.float32)

    def faults(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """(T, A) actions and (T, P) states as recorded → (T,) bool: where what should be a rotation is none."""
        bad, width = np.zeros(len(actions), dtype=bool), size(self.recorded)
        start = self._start(state, (len(actions), 1, self.dim))[:, 0]
        for first in self.rotations:
            for rows in (actions, start) if first in self.relative else (actions,):
                bad |= ~is_rotation(self.recorded, rows[:, first : first + width])
        return bad

    def are_usual(self, actions: np.ndarray) -> bool:
        """(T, A) recorded actions: whether all their rotations are usual ones, see `is_usual`."""
        return all(is_usual(self.recorded, actions[:, here]).all() for here in self.turns.places())

    def beside(self, actions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Recorded actions (..., A) with rotations in the numbers that are nearest to those of others (..., A), so that
        the two can be compared number by number: q and -q, or the two sides of half a turn, are no difference."""
        if not self.rotations:
            return actions
        actions = np.array(actions)
        for here in self.turns.places():
            actions[..., here] = near(self.recorded, actions[..., here], others[..., here])
        return actions

    def _turned(self, piece, start):
        """(..., H, n) written rotations → as recorded; start: (..., 1, n) what they lead away from, None: nothing."""
        matrix = to_matrix(self.written, piece)
        if start is not None:
            base = to_matrix(self.recorded, start)
            if self.to_before:
                turns = itertools.accumulate(np.moveaxis(matrix, -3, 0), lambda now, turn: turn @ now)
                matrix = np.stack(list(turns), axis=-3)
            matrix = matrix @ base
        values = from_matrix(self.recorded, matrix)
        if self.usual:
            return values
        before = values[..., 0, :] if start is None else start[..., 0, :]
        for step in range(piece.shape[-2]):
            before = values[..., step, :] = near(self.recorded, values[..., step, :], before)
        return values

    def _start(self, state, shape):
        """(..., 1, A): where the robot is, as far as differences are taken to it."""
        start = np.zeros((*shape[:-2], 1, self.dim))
        start[..., 0, list(self.relative)] = np.asarray(state, dtype=np.float64)[..., list(self.origin)]
        return start

    def _pieces(self):
        """(first number, how many, whether it is a rotation) of what makes up an action, in order."""
        number = 0
        while number < self.dim:
            turned = number in self.rotations
            width = size(self.recorded) if turned else 1
            yield number, width, turned
            number += width
