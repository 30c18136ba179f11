"""What an answer will begin with: what the one before said about actions that were not executed.

Probably, which makes it faster (a draft); or whatever the model would say, because it is executed meanwhile (a prefix).
"""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from libs.errors import BadInput

if TYPE_CHECKING:
    from rv_eval.agent import Answering


MAX_DIGITS = 10  # of a number that is taken for a draft


def numbers_of(text: str) -> list[int]:
    """The integers of an answer that came as text; none of one that holds anything else."""
    words = text.split(" ")
    readable = all(word.isascii() and word.isdigit() and len(word) < MAX_DIGITS for word in words)
    return [int(word) for word in words] if readable else []


def rest_of(numbers: Sequence[int], horizon: int, executed: int) -> list[int]:
    """What the integers of an answer about `horizon` actions say of those behind the first `executed` ones. An action
    may be written with more numbers or fewer than it has."""
    return list(numbers[executed * (len(numbers) // horizon) :])


def draft_of(observation: dict, numbers: int) -> list[int]:
    """What an observation expects of `numbers` numbers, -1 where it expects nothing. BadInput: it is no draft."""
    draft = observation.get("draft", ())
    try:
        known = [min(max(operator.index(number), -1), 2**31) for number in draft][:numbers]
    except TypeError:
        raise BadInput(f"draft is a sequence of integers >= 0, got {draft!r}") from None
    return known + [-1] * (numbers - len(known))


def prefix_of(observation: dict, policy: "Answering") -> np.ndarray | None:
    """What an observation wants its chunk to begin with: (d, A) float32; None where it wants nothing.

    policy: its `horizon`, `action_dim`, `takes_prefix` and `folder`. BadInput: it is no prefix, or not for this policy.
    """
    try:
        given = np.asarray(observation.get("prefix", ()), np.float32)
    except (TypeError, ValueError):
        raise BadInput("prefix is an array of floats, the actions that a chunk begins with") from None
    if given.size == 0:
        return None
    if not policy.takes_prefix:
        raise BadInput(
            f"the model in {policy.folder} writes no text, so its chunk cannot begin with a given prefix: ask without"
        )
    most, size = policy.horizon, policy.action_dim
    if given.ndim != 2 or given.shape[1] != size or len(given) > most or not np.isfinite(given).all():
        raise BadInput(f"prefix is (d, {size}) finite numbers, d at most {most}, got {given.shape}: {given.tolist()}")
    return given
