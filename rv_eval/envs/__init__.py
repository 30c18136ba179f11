"""The simulators that a policy can be evaluated in, by name."""

import importlib
from typing import Any

from libs.errors import BadInput
from rv_eval.envs.base import Simulator

# "module:class" of an object that satisfies base.Simulator: a line per simulator, imported when it is asked for.
SIMULATORS = {
    "libero": "rv_eval.envs.libero:LiberoSimulator",
    "stack": "rv_eval.envs.stack:StackSimulator",
}


def get_simulator(name: str) -> Simulator[Any]:
    """The simulator called `name`. BadInput, listing the names, if there is none."""
    if name not in SIMULATORS:
        raise BadInput(f"unknown environment {name!r}: there are {', '.join(SIMULATORS)}")
    module, kind = SIMULATORS[name].split(":")
    return getattr(importlib.import_module(module), kind)()
