"""What this machine can draw with, asked in child processes: a driver that crashes or hangs takes nobody along.

Run as a script, this file is such a child; it needs no package but glfw, and that only for "glx":

    python gl_devices.py list | uuids | egl NUMBER... | osmesa | glx

It prints a line of JSON per answer.
"""

import contextlib
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIME_LIMIT_S = 30.0  # of a child, and TIME_PER_DEVICE_S for each device: GPUs that slept take seconds to wake
TIME_PER_DEVICE_S = 10.0
MUJOCO_DEVICES = 10  # mujoco and robosuite look no further in EGL's list

_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")  # in the names of renderers that are the CPU
_EXTENSIONS, _CUDA_DEVICE, _DEVICE_UUID, _DEVICE_PLATFORM = 0x3055, 0x323A, 0x335C, 0x313F  # of EGL
_OPENGL_API, _RENDERER, _RGBA, _FLOAT = 0x30A2, 0x1F01, 0x1908, 0x1406
# What mujoco asks for: 8 bits of each colour, 24 of depth, 8 of stencil, an RGB buffer, off the screen, OpenGL.
_ATTRIBUTES = {0x3024: 8, 0x3023: 8, 0x3022: 8, 0x3021: 8, 0x3025: 24, 0x3026: 8, 0x303F: 0x308E, 0x3033: 1, 0x3040: 8}
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int


@dataclass(frozen=True)
class EglDevice:
    """An entry of EGL's list. number: as MUJOCO_EGL_DEVICE_ID counts. cuda: CUDA's number of the same GPU where no
    CUDA_VISIBLE_DEVICES hides any; None: not a GPU that CUDA knows. uuid: 32 hex digits, "" where the driver does not
    say. software: the CPU draws."""

    number: int
    cuda: int | None = None
    uuid: str = ""
    software: bool = False


@dataclass(frozen=True)
class Trial:
    """Whether a context could be made and used. renderer: who draws in it; problem: why not, "" if it could."""

    renderer: str = ""
    problem: str = ""

    @property
    def works(self) -> bool:
        return not self.problem


def is_software(renderer: str) -> bool:
    """Whether OpenGL's name of a renderer is one of the CPU's."""
    return any(name in renderer.lower() for name in _SOFTWARE)


class Machine:
    """The questions to this machine. Each method starts a child process or two (some 0.1 s each) and never raises."""

    def egl_devices(self) -> list[EglDevice]:
        """EGL's list in its own order, empty where EGL is missing. Nothing is woken up for it."""
        return [EglDevice(**answer) for answer in _ask("list")]

    def cuda_uuids(self) -> dict[int, str]:
        """{CUDA's number: 32 hex digits} of all GPUs, whatever CUDA_VISIBLE_DEVICES says; empty without CUDA."""
        return {answer["number"]: answer["uuid"] for answer in _ask("uuids")}

    def try_egl(self, numbers: Sequence[int]) -> dict[int, Trial]:
        """Make a context, as mujoco does, on each of these devices in turn: {number: Trial}."""
        found, left = {}, [number for number in numbers if number < MUJOCO_DEVICES]
        while left:
            for answer in _ask("egl", *left):
                number = answer.pop("number")
                found[number] = Trial(**answer)
            left = [number for number in left if number not in found]
            if left:  # the first of them took the child along
                found[left.pop(0)] = Trial(problem="its driver crashes or hangs")
        return {n: found.get(n, Trial(problem=f"mujoco sees the first {MUJOCO_DEVICES} only")) for n in numbers}

    def try_osmesa(self) -> Trial:
        return self._try_one("osmesa")

    def try_glx(self) -> Trial:
        """A hidden window on the display that DISPLAY names."""
        return self._try_one("glx")

    def has_nvidia(self) -> bool:
        """Whether the kernel knows an NVIDIA GPU, whatever graphics libraries say."""
        return Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists()

    def _try_one(self, backend: str) -> Trial:
        answers = list(_ask(backend))
        return Trial(**answers[0]) if answers else Trial(problem="its driver crashes or hangs")


def _ask(*arguments: object) -> list[dict]:
    """The answers of a child; those before its end where it crashes or hangs. It sees no CUDA_VISIBLE_DEVICES, so
    that CUDA's numbers are those that the variable speaks of."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-P", __file__, *map(str, arguments)]
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        output, _ = child.communicate(timeout=TIME_LIMIT_S + TIME_PER_DEVICE_S * len(arguments))
    except subprocess.TimeoutExpired as error:
        output = error.output or b""
    except BaseException:
        child.kill()
        raise
    if child.poll() is None:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may be stuck in the kernel
            child.wait(1.0)
        assert child.stdout is not None
        child.stdout.close()
    lines = output.decode().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _main(question: str, *numbers: str) -> None:
    """The child's side."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # drivers print as well
    asked = {"list": _list, "uuids": _uuids, "egl": _egl_contexts, "osmesa": _osmesa, "glx": _glx}[question]
    for answer in asked(*map(int, numbers)):
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # without the drivers' own farewells, which may hang


def _load(*names: str) -> ctypes.CDLL | None:
    for name in names:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    return None


class _Egl:
    """EGL's functions by name, with types; `devices` holds its list."""

    def __init__(self, library):
        library.eglGetProcAddress.restype = _POINTER
        library.eglGetProcAddress.argtypes = [ctypes.c_char_p]
        self._find = library.eglGetProcAddress
        devices, count = (_POINTER * 64)(), _INT(0)
        query = self.function("eglQueryDevicesEXT", _INT, _INT, _POINTER, _POINTER)
        if query is None or not query(len(devices), devices, ctypes.byref(count)):
            count = _INT(0)
        self.devices = [_POINTER(devices[i]) for i in range(count.value)]

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        address = self._find(name.encode())
        return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None


def _open_egl() -> _Egl | None:
    """None without EGL, or without the OpenGL library that PyOpenGL loads beside it."""
    if _load("libOpenGL.so.0", "libGL.so.1", "libGL.so") is None:
        return None
    library = _load("libEGL.so.1", "libEGL.so")
    return None if library is None else _Egl(library)


def _list():
    egl = _open_egl()
    if egl is None:
        return
    query_string = egl.function("eglQueryDeviceStringEXT", ctypes.c_char_p, _POINTER, _INT)
    for number, device in enumerate(egl.devices):
        extensions = (query_string(device, _EXTENSIONS) or b"").decode().split() if query_string else []
        yield {
            "number": number,
            "cuda": _cuda_number(egl, device) if "EGL_NV_device_cuda" in extensions else None,
            "uuid": _uuid(egl, device) if "EGL_EXT_device_persistent_id" in extensions else "",
            "software": "EGL_MESA_device_software" in extensions,
        }


def _cuda_number(egl: _Egl, device: Any) -> int | None:
    query = egl.function("eglQueryDeviceAttribEXT", _INT, _POINTER, _INT, _POINTER)
    value = ctypes.c_ssize_t(-1)
    return value.value if query and query(device, _CUDA_DEVICE, ctypes.byref(value)) and value.value >= 0 else None


def _uuid(egl: _Egl, device: Any) -> str:
    query = egl.function("eglQueryDeviceBinaryEXT", _INT, _POINTER, _INT, _INT, _POINTER, _POINTER)
    value, size = (ctypes.c_ubyte * 16)(), _INT(0)
    known = query and query(device, _DEVICE_UUID, len(value), value, ctypes.byref(size)) and size.value == len(value)
    return bytes(value).hex() if known else ""


def _uuids():
    cuda, count = _load("libcuda.so.1"), _INT(0)
    if cuda is None or cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return
    for number in range(count.value):
        device, value = _INT(0), (ctypes.c_ubyte * 16)()
        if not cuda.cuDeviceGet(ctypes.byref(device), number) and not cuda.cuDeviceGetUuid(value, device):
            yield {"number": number, "uuid": bytes(value).hex()}


def _egl_contexts(*numbers: int) -> Iterator[dict]:
    egl = _open_egl()
    for number in numbers:
        if egl is None or number >= len(egl.devices):
            yield {"number": number, "problem": "EGL does not list it"}
        else:
            yield {"number": number, **_egl_context(egl, egl.devices[number])}


def _egl_context(egl: _Egl, device: Any) -> dict:
    """{"renderer"} of a context on `device`, or {"problem"}: the step that failed."""
    display = egl.function("eglGetPlatformDisplayEXT", _POINTER, _INT, _POINTER, _POINTER)(
        _DEVICE_PLATFORM, device, None
    )
    if not display or not egl.function("eglInitialize", _INT, _POINTER, _POINTER, _POINTER)(display, None, None):
        return {"problem": "it cannot be initialised"}
    wanted = (_INT * 19)(*(number for pair in _ATTRIBUTES.items() for number in pair), 0x3038)
    config, count = _POINTER(), _INT(0)
    choose = egl.function("eglChooseConfig", _INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER)
    if not choose(display, wanted, ctypes.byref(config), 1, ctypes.byref(count)) or count.value < 1:
        return {"problem": "it has no buffers as mujoco needs them"}
    egl.function("eglBindAPI", _INT, _INT)(_OPENGL_API)
    create = egl.function("eglCreateContext", _POINTER, _POINTER, _POINTER, _POINTER, _POINTER)
    context = create(display, config, None, None)
    if not context:
        return {"problem": "it makes no OpenGL context"}
    use = egl.function("eglMakeCurrent", _INT, _POINTER, _POINTER, _POINTER, _POINTER)
    if not use(display, None, None, context):
        return {"problem": "its context cannot be used without a window"}
    renderer = (egl.function("glGetString", ctypes.c_char_p, _INT)(_RENDERER) or b"").decode(errors="replace")
    use(display, None, None, None)
    egl.function("eglTerminate", _INT, _POINTER)(display)
    return {"renderer": renderer}


def _osmesa():
    library = _load("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")
    if library is None:
        yield {"problem": "its library is missing"}
        return
    library.OSMesaCreateContextExt.restype = _POINTER
    library.OSMesaCreateContextExt.argtypes = [_INT, _INT, _INT, _INT, _POINTER]
    library.OSMesaMakeCurrent.argtypes = [_POINTER, _POINTER, _INT, _INT, _INT]
    context, side = library.OSMesaCreateContextExt(_RGBA, 24, 8, 0, None), 8
    picture = (ctypes.c_float * (side * side * 4))()
    if not context or not library.OSMesaMakeCurrent(context, picture, _FLOAT, side, side):
        yield {"problem": "it makes no OpenGL context"}
        return
    library.glGetString.restype = ctypes.c_char_p
    yield {"renderer": (library.glGetString(_RENDERER) or b"").decode(errors="replace")}


def _glx():
    if not os.environ.get("DISPLAY"):
        yield {"problem": "it needs a display, and DISPLAY is not set"}
        return
    try:
        import glfw
    except ImportError:
        yield {"problem": "Python's package glfw is missing"}
        return
    opened = glfw.init()
    glfw.window_hint(glfw.VISIBLE, 0)
    window = opened and glfw.create_window(64, 64, "", None, None)
    if not window:
        yield {"problem": f"it cannot open a window on DISPLAY={os.environ['DISPLAY']}"}
        return
    glfw.make_context_current(window)
    address = glfw.get_proc_address("glGetString")
    get_string = ctypes.CFUNCTYPE(ctypes.c_char_p, _INT)(address)  # type: ignore[call-overload]  # a number
    yield {"renderer": (get_string(_RENDERER) or b"").decode(errors="replace")}


if __name__ == "__main__":
    _main(*sys.argv[1:])
