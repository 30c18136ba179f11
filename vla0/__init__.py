"""VLA-0 in plain PyTorch, as an installed package: `vla0.Policy`, `vla0.load_cfg`, and the command `vla0`.

In a checkout the packages rv_train, rv_eval, libs and tools lie beside this folder. A wheel puts them into it, so that
it takes no names in site-packages but its own, and importing `vla0` is what makes them importable.
"""

import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parent
_ROOMS = ("libs", "rv_train", "rv_eval", "tools")

if (_HOME / "rv_train").is_dir():  # installed from a wheel
    for _room in _ROOMS:
        _other = getattr(sys.modules.get(_room), "__file__", None)
        if _other and not Path(_other).resolve().is_relative_to(_HOME):
            raise ImportError(
                f"vla0 has a package {_room} of its own, and {_other} is imported already: import vla0 first"
            )
    if str(_HOME) not in sys.path:
        sys.path.insert(0, str(_HOME))  # spawned processes get it from their parent

__all__ = ["Policy", "load_cfg"]


def __getattr__(name: str):
    """Imported when they are used: torch takes seconds."""
    if name == "Policy":
        from rv_eval.policy import Policy

        return Policy
    if name == "load_cfg":
        from rv_train.config import load_cfg

        return load_cfg
    raise AttributeError(f"module 'vla0' has no attribute {name!r}")
