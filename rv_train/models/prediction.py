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
