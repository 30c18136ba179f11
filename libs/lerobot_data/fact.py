"""What checks of a set give."""

from typing import NamedTuple


class Fact(NamedTuple):
    """kind: "empty", "frames", "timestamps", "tasks", "numbers", "statistics", "video" or "pictures"; text: a line."""

    kind: str
    text: str
