"""What the steps of a run told. Read one step late, so that the device has the next one to work on meanwhile."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from rv_train.bad_steps import BadSteps
    from rv_train.distributed import Told
    from rv_train.optim import Precision
    from rv_train.policies.base import Policy


class Steps:
    """Takes in what `rv_train.distributed.agree` gives; all ranks read the same at the same time.

    stop: whether any rank was asked to stop. grad_norm: of the step that was read last.

    Args:
        bad_steps: a BadSteps, which hears of every step.
        model: the bare model; precision: its Precision.
    """

    def __init__(self, bad_steps: "BadSteps", model: "Policy", precision: "Precision") -> None:
        self.bad_steps, self.model, self.precision = bad_steps, model, precision
        self.stop, self.grad_norm = False, math.nan
        self._waiting = []
        self.restart()

    def restart(self) -> None:
        """Begin a new window for `mean_loss`."""
        self._sum, self._good = 0.0, 0

    def mean_loss(self) -> float:
        """Of the good steps of the window that were read; NaN if there were none."""
        return self._sum / self._good if self._good else math.nan

    def add(self, told: "Told", batches: "Sequence[Mapping[str, torch.Tensor]]") -> None:
        """A step is on its way; batches: what this rank fed it."""
        self._waiting.append((told, batches))

    def read(self, behind: int = 0) -> None:
        """Wait for the device, for all steps but the last `behind`; for all of them if one of them was asked to stop.

        Raises:
            BadInput: too many bad steps in a row, see `BadSteps`.
        """
        while len(self._waiting) > (0 if self.stop else behind):
            told, batches = self._waiting.pop(0)
            loss, self.grad_norm, bad, stop = told.read()
            self.stop |= stop
            if bad:
                self.bad_steps.note_bad(self.model, self.precision, batches)
            else:
                self.bad_steps.note_good()
                self._sum, self._good = self._sum + loss, self._good + 1
