"""OpenGL without a display: which backend and devices draw, decided once, before mujoco and robosuite are imported.

Who reads what (mujoco 2.3.7, robosuite 1.4.0, PyOpenGL 3):

- MUJOCO_GL: mujoco as it is imported. robosuite as well, which puts "egl" in the place of anything but "osmesa" and
  "glx".
- PYOPENGL_PLATFORM: PyOpenGL; mujoco and robosuite refuse one that is not their backend's.
- MUJOCO_EGL_DEVICE_ID: both, as a number in EGL's list. Without it mujoco takes the first device that starts, and
  robosuite what stands in
- CUDA_VISIBLE_DEVICES, as if CUDA numbered like EGL. If both are set, it asserts that the one occurs in the other.

So simulators get the first three, agreeing with each other, and never see the last.
"""

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from types import ModuleType

from libs.robosuite_sim.gl_choice import CUDA, READ, Graphics, SimulatorMissing, choose
from libs.robosuite_sim.gl_devices import Machine

__all__ = [
    "Graphics",
    "SimulatorMissing",
    "child_environment",
    "give_back_device",
    "import_simulator",
    "prepare_gl",
    "take_device",
    "tell_gl",
]

HANDED_DOWN = "VLA0_GL_CHOSEN"  # tells a child that its parent has tried these settings

_decided: dict[tuple, Graphics] = {}  # values of READ -> what was found
_in_use: Graphics | None = None  # what a simulator of this very process draws with
_simulators: Counter[int] = Counter()  # device -> living children that draw on it


def prepare_gl() -> Graphics:
    """Find out what draws here, by trying it in child processes (0.3 s, the first time); sets nothing.

    A choice that the environment states is kept or refused, see `choose`. BadInput: the stated choice cannot work, and
    why; SimulatorMissing: nothing works, and the packages to install.
    """
    if _in_use is not None:
        return _in_use
    key = tuple(os.environ.get(name) for name in READ)
    if key not in _decided:
        _decided[key] = _from_parent(os.environ) or choose(os.environ, Machine())
    return _decided[key]


def tell_gl() -> Graphics:
    """`prepare_gl` for a command line: what is remarkable about the choice goes to stderr."""
    graphics = prepare_gl()
    if graphics.remark:
        print(f"remark: {graphics.remark}", file=sys.stderr)
    return graphics


def import_simulator(name: str) -> ModuleType:
    """Import a module that imports robosuite, headless and silent; returns the module.

    From then on this process draws as `prepare_gl` says, and its environment variables say so. Raises as that does,
    and SimulatorMissing where the simulator packages are missing.
    """
    global _in_use
    graphics = prepare_gl()
    os.environ.update(graphics.variables())
    quiet = logging.getLogger("robosuite_logs")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # robosuite warns about a private macro file that nobody needs
    hidden = os.environ.pop(CUDA, None)
    try:
        with contextlib.redirect_stdout(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _import_triton()
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SimulatorMissing(f"the simulator is not installed ({error}): pip install -e '.[sim]'") from error
    finally:
        quiet.setLevel(level)
        if hidden is not None:
            os.environ[CUDA] = hidden
    _in_use = graphics
    return module


def _import_triton():
    """Before Mesa draws: a torch that knows CUDA brings triton, whose LLVM ends the process (a segmentation fault)
    where Mesa's was loaded before it. So a model may be loaded beside a simulator, before it or after."""
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")


def take_device() -> int | None:
    """The device for one more child process: of those chosen the one that the fewest children of this process use.
    None where `prepare_gl` has not chosen any. Give it back when the child has ended."""
    graphics = _known()
    if graphics is None or not graphics.devices:
        return None
    device = min(graphics.devices, key=lambda device: _simulators[device])
    _simulators[device] += 1
    return device


def give_back_device(device: int | None) -> None:
    """A child that had it from `take_device` is gone."""
    if device is not None:
        _simulators[device] -= 1


def child_environment(device: int | None, hide_cuda: bool = True) -> dict[str, str]:
    """The environment of a child that simulates, drawing on a device from `take_device`. Before `prepare_gl` was called
    it is this process's own, and the child finds out by itself. hide_cuda: it computes nothing on a GPU."""
    environment, graphics = dict(os.environ), _known()
    if graphics is not None:
        environment |= graphics.variables(device)
        environment[HANDED_DOWN] = _handed_down(environment)
        if hide_cuda:
            environment.pop(CUDA, None)
    return environment


def _known() -> Graphics | None:
    return _in_use or _decided.get(tuple(os.environ.get(name) for name in READ))


def _handed_down(variables: Mapping[str, str]) -> str:
    return f"{variables.get('MUJOCO_GL')} {variables.get('MUJOCO_EGL_DEVICE_ID')}"


def _from_parent(environ: Mapping[str, str]) -> Graphics | None:
    if environ.get(HANDED_DOWN) != _handed_down(environ):
        return None
    device = environ.get("MUJOCO_EGL_DEVICE_ID")
    devices = (int(device),) if device is not None and environ["MUJOCO_GL"] == "egl" else ()
    return Graphics(environ["MUJOCO_GL"], devices, "", "the process that started this one chose")
