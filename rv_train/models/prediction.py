"""What every kind of model answers with."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """What a batch of observations is answered with.

    chunk: (B, H, A) float32, environment units; valid: (B,) bool, the text could be read (else the mid-range chunk);
    repaired: (B,) bool, the text was too short, too long or incomplete; texts: what was written, "" by a model that
    writes nothing. tokens, passes: (B,) int64, what was written with the end, and how often the model ran for it, the
    prompt apart; None from a model that writes nothing.
    """

    chunk: np.ndarray
    valid: np.ndarray
    repaired: np.ndarray
    texts: list
    tokens: np.ndarray | None = None
    passes: np.ndarray | None = None

    def writing(self, row):
        """(tokens, passes) of a row; (0, 0) from a model that writes nothing."""
        return (0, 0) if self.tokens is None else (int(self.tokens[row]), int(self.passes[row]))


def gather(answers):
    """The Prediction that consists of rows of others: [(Prediction, row), ...]."""
    tokens, passes = zip(*(prediction.writing(row) for prediction, row in answers), strict=True)
    return Prediction(
        chunk=np.stack([prediction.chunk[row] for prediction, row in answers]),
        valid=np.array([prediction.valid[row] for prediction, row in answers]),
        repaired=np.array([prediction.repaired[row] for prediction, row in answers]),
        texts=[prediction.texts[row] for prediction, row in answers],
        tokens=np.array(tokens),
        passes=np.array(passes),
    )
