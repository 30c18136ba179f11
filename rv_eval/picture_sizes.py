"""What is known of the pictures that a policy was trained on."""

from collections.abc import Iterable
from typing import Any


def are_sizes(sizes: Any, views: Iterable[str]) -> bool:
    """Whether something is {view: [height, width] in pixels} of all these views."""
    return isinstance(sizes, dict) and all(
        isinstance(sizes.get(view), list)
        and len(sizes[view]) == 2
        and all(type(side) is int and side > 0 for side in sizes[view])
        for view in views
    )


def shape_remark(pictures: dict, resolution: int) -> str:
    """What somebody should know where an environment shows squares to a policy that was trained on other shapes.

    pictures: the policy's. resolution: the environment's. "": nothing.
    """
    other = {view: size for view, size in pictures["cameras"].items() if size[0] != size[1]}
    if not other:
        return ""
    sizes = ", ".join(f"{view} {height} x {width}" for view, (height, width) in other.items())
    return (
        f"the policy was trained on pictures of {sizes}, the environment shows {resolution} x {resolution}: they are "
        f"fitted as in training (IMAGE.FIT {pictures['fit']}), but show another part of the scene"
    )
