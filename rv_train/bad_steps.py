"""Steps whose loss or gradient is not finite: counted, skipped on all ranks alike, and traced back to their samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from libs.errors import BadInput
from rv_train.distributed import gather_objects
from rv_train.policies.encoding import take_row

if TYPE_CHECKING:
    from rv_train.optim import Precision
    from rv_train.policies.base import Policy


NAMED = 5  # samples in an error message


class BadSteps:
    """Counts skipped steps; too many in a row end the run.

    Args:
        limit: this many in a row are too many.
        where: sample index → "file, demo, frame".
        state: `state_dict()` of the run that is continued.
    """

    def __init__(self, limit: int, where: Callable[[int], str], state: Mapping[str, int] | None = None) -> None:
        self.limit, self.where = limit, where
        self.skipped, self.in_a_row = (state["skipped"], state["in_a_row"]) if state else (0, 0)
        self._suspects = []

    def note_good(self) -> None:
        self.in_a_row = 0
        self._suspects.clear()

    def note_bad(self, model: "Policy", precision: "Precision", batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """A step was skipped; all ranks call this together.

        Args:
            model: the bare model; precision: its Precision; batches: this rank's batches of the step.

        Raises:
            BadInput: `limit` steps in a row were bad; names the samples whose own loss is not finite, of all ranks.
        """
        self.skipped += 1
        self.in_a_row += 1
        for batch in batches:
            self._suspects += [self.where(int(i)) for i in _not_finite(model, precision, batch)]
        if self.in_a_row < self.limit:
            return
        suspects = sorted({name for names in gather_objects(self._suspects) for name in names})
        if suspects:
            more = f" and {len(suspects) - NAMED} more" if len(suspects) > NAMED else ""
            reason = f"the loss of these samples is not finite: {'; '.join(suspects[:NAMED])}{more}"
        else:
            reason = "the loss of every single sample is finite, the gradients overflow: lower TRAIN.lr or clip them"
        raise BadInput(f"{self.in_a_row} steps in a row were skipped; {reason}")

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}


@torch.no_grad()
def _not_finite(model, precision, batch):
    """Indices of the samples of a batch whose loss alone is not finite.

    Dropout draws afterwards as if nobody had asked: when a step is read, and so when this comes, is a matter of
    reports, saves and signals, and what is learned must not depend on it.
    """
    devices = [batch["input_ids"].device] if batch["input_ids"].is_cuda else []
    with torch.random.fork_rng(devices), precision.autocast():
        losses = [model(take_row(batch, row))["loss"] for row in range(len(batch["lengths"]))]
    return [index for index, loss in zip(batch["index"], losses, strict=True) if not torch.isfinite(loss)]
