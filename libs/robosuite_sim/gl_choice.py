"""Which OpenGL draws: what the environment states against what the machine has."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from libs.errors import BadInput
from libs.robosuite_sim.gl_devices import EglDevice, Machine, Trial, is_software

EGL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1"
OSMESA_PACKAGES = "libosmesa6"

BACKENDS = ("egl", "osmesa", "glx")  # values of MUJOCO_GL that robosuite leaves alone; it calls GLFW "glx"
CUDA = "CUDA_VISIBLE_DEVICES"
CHOICES = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID")  # the first that is set decides on the backend
READ = (*CHOICES, CUDA, "DISPLAY")
_OURS = ("", "enable", "enabled", "on", "true", "1")  # values of MUJOCO_GL that leave the choice to mujoco, so to us


class SimulatorMissing(BadInput):
    """This machine lacks the simulator's packages or an OpenGL that draws without a display; says what to install."""


@dataclass(frozen=True)
class Graphics:
    """What draws. backend: of BACKENDS. devices: numbers in EGL's list, for simulators to share; () for other backends.
    renderer: OpenGL's name of the first. reason: why these. remark: what people may not expect, or ""."""

    backend: str
    devices: tuple[int, ...]
    renderer: str
    reason: str
    remark: str = ""

    def __str__(self) -> str:
        name = {"egl": "EGL device", "osmesa": "OSMesa", "glx": "GLX"}[self.backend]
        numbers = f"{'s' if len(self.devices) > 1 else ''} {', '.join(map(str, self.devices))}" if self.devices else ""
        software = ", the CPU" if is_software(self.renderer) else ""
        return f"{name}{numbers} ({self.renderer}{software})"

    def variables(self, device: int | None = None) -> dict[str, str]:
        """The environment variables that make mujoco and robosuite draw so. device: of `devices`; None: the first."""
        found = {"MUJOCO_GL": self.backend}
        if self.backend != "glx":
            found["PYOPENGL_PLATFORM"] = self.backend
        if self.devices:
            found["MUJOCO_EGL_DEVICE_ID"] = str(self.devices[0] if device is None else device)
        return found


class _Refused(Exception):
    """What the environment states cannot be done; says why."""


def choose(environ: Mapping[str, str], machine: Machine) -> Graphics:
    """What draws, given the environment variables READ and a machine to ask.

    A backend that MUJOCO_GL states, else PYOPENGL_PLATFORM, else (EGL) a device in MUJOCO_EGL_DEVICE_ID, is a choice:
    it works or is refused with BadInput. Without one EGL is taken, else OSMesa; SimulatorMissing where neither works.
    Of EGL's devices the GPUs are taken that CUDA_VISIBLE_DEVICES leaves to this job, else one that CUDA does not know.
    """
    try:
        return _choose(environ, machine)
    except _Refused as refusal:
        stated = [f"{name}={environ[name]}" for name in CHOICES if _value(environ, name)]
        it, are = ("it", "is") if len(stated) == 1 else ("them", "are")
        try:
            instead = f"unset {it}, and {_choose({CUDA: environ[CUDA]} if CUDA in environ else {}, machine)} draws"
        except SimulatorMissing as missing:
            instead = f"without {it}: {missing}"
        raise BadInput(f"{' and '.join(stated)} {are} set, but {refusal}; {instead}") from refusal


def _choose(environ: Mapping[str, str], machine: Machine) -> Graphics:
    backend, stated = _stated(environ)
    if backend == "glx":
        trial = machine.try_glx()
        if not trial.works:
            raise _Refused(f"GLX does not work here ({trial.problem})")
        return Graphics("glx", (), trial.renderer, f"{stated} and DISPLAY={_value(environ, 'DISPLAY')} are set")
    no_egl = "" if backend == "osmesa" else _choose_egl(environ, machine)
    if isinstance(no_egl, Graphics):
        return no_egl
    if backend == "egl":
        raise _Refused(no_egl)
    trial = machine.try_osmesa()
    if trial.works:
        reason = f"{stated} is set" if stated else no_egl
        remark = "" if stated else _remark(environ, machine, "OSMesa", no_egl)
        return Graphics("osmesa", (), trial.renderer, reason, remark)
    problem = f"OSMesa does not work here ({trial.problem})"
    if stated:
        raise _Refused(f"{problem}, apt-get install {OSMESA_PACKAGES}")
    raise SimulatorMissing(
        f"no OpenGL draws without a display: {no_egl}, and {problem}: "
        f"apt-get install {EGL_PACKAGES}  (or: apt-get install {OSMESA_PACKAGES})"
    )


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip()


def _stated(environ: Mapping[str, str]) -> tuple[str, str]:
    """The backend that the environment chooses, and the setting that does; "", "" if it does not choose any."""
    gl, platform, device = (_value(environ, name) for name in CHOICES)
    backend = {"glfw": "glx", **dict.fromkeys(_OURS, "")}.get(gl.lower(), gl.lower())
    if backend not in ("", *BACKENDS):
        raise _Refused(f"no simulator draws with MUJOCO_GL={gl}")
    if backend == "glx":
        return backend, f"MUJOCO_GL={gl}"  # which asks no PyOpenGL
    if platform.lower() not in ("", "egl", "osmesa"):
        raise _Refused(f"no simulator draws with PYOPENGL_PLATFORM={platform}")
    if backend and platform and platform.lower() != backend:
        raise _Refused("contradict each other")
    if backend:
        return backend, f"MUJOCO_GL={gl}"
    if platform:
        return platform.lower(), f"PYOPENGL_PLATFORM={platform}"
    return ("egl", f"MUJOCO_EGL_DEVICE_ID={device}") if device else ("", "")


def _choose_egl(environ: Mapping[str, str], machine: Machine) -> Graphics | str:
    """The devices of EGL that are to draw, or why there is none."""
    devices = machine.egl_devices()
    if _value(environ, "MUJOCO_EGL_DEVICE_ID"):
        return _stated_device(environ, devices, machine)
    own = {device.number: device for device in _own_gpus(environ, devices, machine)}
    gpus = machine.try_egl(list(own))
    drawing = tuple(number for number, trial in gpus.items() if trial.works)
    if drawing:
        owned = f", left by CUDA_VISIBLE_DEVICES={_value(environ, CUDA)}" if CUDA in environ else ""
        numbers = ", ".join(f"{number} is CUDA {own[number].cuda}" for number in drawing)
        return Graphics("egl", drawing, gpus[drawing[0]].renderer, f"{numbers}{owned}{_problems(gpus)}")
    others = machine.try_egl([device.number for device in devices if device.cuda is None])
    working = [(is_software(trial.renderer), number) for number, trial in others.items() if trial.works]
    reason = f"EGL lists {_listed(devices)}{_problems(gpus | others)}"
    foreign = [device.number for device in devices if device.cuda is not None and device.number not in own]
    if foreign:
        reason += (
            f", of which CUDA_VISIBLE_DEVICES={environ[CUDA]} leaves {', '.join(map(str, own)) or 'none'} to this job"
        )
    if working:
        _, number = min(working)
        remark = _remark(environ, machine, f"EGL device {number}", reason)
        return Graphics("egl", (number,), others[number].renderer, reason, remark)
    return f"{reason} (MUJOCO_EGL_DEVICE_ID={foreign[0]} draws on one all the same)" if foreign else reason


def _stated_device(environ: Mapping[str, str], devices: list[EglDevice], machine: Machine) -> Graphics | str:
    """The device in MUJOCO_EGL_DEVICE_ID, or why not that one."""
    stated = _value(environ, "MUJOCO_EGL_DEVICE_ID")
    found = [device for device in devices if stated.isdecimal() and device.number == int(stated)]
    if not found:
        return f"EGL lists {_listed(devices)}"
    (device,) = found
    trial = machine.try_egl([device.number])[device.number]
    if not trial.works:
        return f"EGL lists {_listed(devices)}{_problems({device.number: trial})}"
    remark = ""
    if device.cuda is not None and device not in _own_gpus(environ, devices, machine):
        remark = f"MUJOCO_EGL_DEVICE_ID={stated} is CUDA's {device.cuda}, not of CUDA_VISIBLE_DEVICES={environ[CUDA]}"
    return Graphics("egl", (device.number,), trial.renderer, f"MUJOCO_EGL_DEVICE_ID={stated} is set", remark)


def _own_gpus(environ: Mapping[str, str], devices: list[EglDevice], machine: Machine) -> list[EglDevice]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this job, in its order; without it all that CUDA knows."""
    gpus = [device for device in devices if device.cuda is not None]
    if CUDA not in environ:
        return gpus
    entries = _entries(environ)
    uuids = {device.number: device.uuid for device in gpus}
    if not all(uuids.values()) and any("GPU-" in entry for entry in entries):
        by_cuda = machine.cuda_uuids()
        uuids = {
            device.number: device.uuid or by_cuda.get(device.cuda, "") for device in gpus if device.cuda is not None
        }
    found = []
    for entry in entries:
        if entry.isdigit():
            found += [device for device in gpus if device.cuda == int(entry)]
        elif "GPU-" in entry:  # of a GPU, perhaps its beginning only, or of the GPU that a MIG instance is a part of
            uuid = entry.partition("GPU-")[2].partition("/")[0].replace("-", "").lower()
            found += [device for device in gpus if uuid and uuids[device.number].startswith(uuid)]
        elif len(gpus) == 1:  # a part of it, then
            found += gpus
    return list(dict.fromkeys(found))


def _entries(environ: Mapping[str, str]) -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES up to the first that is none, as CUDA reads them."""
    entries = [entry.strip() for entry in _value(environ, CUDA).split(",")]
    valid = [re.fullmatch(r"[0-9]+|(GPU|MIG)-.+", entry) for entry in entries]
    return entries[: valid.index(None)] if None in valid else entries


def _listed(devices: list[EglDevice]) -> str:
    if not devices:
        return "no device"
    kinds = ["software" if d.software else "no GPU of CUDA's" if d.cuda is None else f"CUDA {d.cuda}" for d in devices]
    return ", ".join(f"{device.number} ({kind})" for device, kind in zip(devices, kinds, strict=True))


def _problems(trials: dict[int, Trial]) -> str:
    return "".join(f"; {number}: {trial.problem}" for number, trial in trials.items() if not trial.works)


def _remark(environ: Mapping[str, str], machine: Machine, drawer: str, reason: str) -> str:
    """Told where a GPU of the job was to be expected to draw."""
    if not machine.has_nvidia() or (CUDA in environ and not _entries(environ)):
        return ""
    return (
        f"{drawer} draws the pictures, no NVIDIA GPU of this job: {reason} "
        "(a container needs NVIDIA_DRIVER_CAPABILITIES=all, a GPU in MIG mode may draw nothing)"
    )
