"""What an answer will probably begin with: what the one before said about actions that were not executed."""

from collections.abc import Sequence

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
