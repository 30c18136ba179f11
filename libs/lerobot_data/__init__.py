"""LeRobot data sets (v2.0, v2.1, v3.0), read without LeRobot, and written (v3.0).

Finding one needs nothing of the extra [lerobot]; everything else does, and is imported when it is asked for.
"""

import importlib
from typing import Any

from libs.lerobot_data.locate import find_set
from libs.lerobot_data.marks import is_set

_HOMES = {
    "cache": ("Estimate", "FrameCache", "Plan", "default_folder"),
    "checks": ("check_set", "suggest"),
    "dataset": ("LeRobotSet",),
    "episode_files": ("PICTURES", "EpisodeFrames", "SetSpec", "write_episode"),
    "fact": ("Fact",),
    "layout": ("Camera", "Clip", "Episode", "Layout", "Vector", "read_layout"),
    "rows": ("Rows", "read_rows"),
    "writer": ("SetWriter",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["find_set", "is_set", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
