"""What is known of the pictures that a policy was trained on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SAME_SHAPE = 0.02  # sides of a small picture are rounded


def are_sizes(sizes: Any, views: Iterable[str]) -> bool:
    """Whether something is {view: [height, width] in pixels} of all these views."""
    return isinstance(sizes, dict) and all(
        isinstance(sizes.get(view), list)
        and len(sizes[view]) == 2
        and all(type(side) is int and side > 0 for side in sizes[view])
        for view in views
    )


def shape_remark(pictures: dict, shown: Mapping[str, Sequence[int]], who: str) -> str:
    """What somebody should know where a policy is shown pictures of another shape than those that it was trained on.

    pictures: the policy's. shown: {view: (height, width)} of those that it will see. who: shows them. "": nothing.
    """
    trained = {view: pictures["cameras"][view] for view in shown}
    other = [view for view in shown if not _are_alike(trained[view], shown[view])]
    if not other:
        return ""
    before, now = (", ".join("{} {} x {}".format(view, *sizes[view]) for view in other) for sizes in (trained, shown))
    return (
        f"the policy was trained on pictures of {before}, {who} shows {now}: they are fitted as in training "
        f"(IMAGE.FIT {pictures['fit']}), but may show another part of the scene, larger or smaller"
    )


def _are_alike(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two (height, width) have the same shape, but for what is lost where a frame was made smaller."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= SAME_SHAPE * one[0] * other[1]
