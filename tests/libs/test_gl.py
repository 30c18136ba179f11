"""libs.robosuite_sim.gl: what draws, on machines of every kind; and what simulator processes get to see of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from libs.errors import BadInput
from libs.robosuite_sim import RemoteObject, SimulatorMissing, gl, gl_devices
from libs.robosuite_sim.gl_choice import READ, Graphics, choose
from libs.robosuite_sim.gl_devices import EglDevice, Machine, Trial

ROOT = Path(__file__).resolve().parents[2]
VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICE = "MUJOCO_EGL_DEVICE_ID"


class FakeMachine(Machine):
    """problems: {number: why no context can be made there}. renderers: {number: OpenGL's name}. uuids: what CUDA says.
    `tried` collects the devices on which a context was asked for."""

    def __init__(self, devices=(), problems=None, renderers=None, osmesa=False, nvidia=False, uuids=None):
        self.devices, self.problems, self.renderers = list(devices), problems or {}, renderers or {}
        self.osmesa, self.nvidia, self.uuids = osmesa, nvidia, uuids or {}
        self.tried = []

    def egl_devices(self):
        return self.devices

    def cuda_uuids(self):
        return self.uuids

    def try_egl(self, numbers):
        self.tried += numbers
        return {number: self._trial(self.devices[number]) for number in numbers}

    def _trial(self, device):
        if device.number in self.problems:
            return Trial(problem=self.problems[device.number])
        return Trial(self.renderers.get(device.number, "llvmpipe" if device.cuda is None else "NVIDIA A100"))

    def try_osmesa(self):
        return Trial("llvmpipe") if self.osmesa else Trial(problem="its library is missing")

    def try_glx(self):
        return Trial(problem="no display")

    def has_nvidia(self):
        return self.nvidia


CUDA_OF = (3, 2, 0, 1, 7, 6, 5, 4)  # of EGL's devices 0 to 7
SOFTWARE = EglDevice(8, software=True)


def eight_gpus(**options):
    """EGL and CUDA number the GPUs differently, and the ninth device is the CPU."""
    gpus = [EglDevice(number, cuda, f"{cuda:x}{number:x}" * 16) for number, cuda in enumerate(CUDA_OF)]
    return FakeMachine([*gpus, SOFTWARE], nvidia=True, **options)


def one_software_device(**options):
    return FakeMachine([EglDevice(0, software=True)], **options)


@pytest.mark.parametrize(
    "visible, devices",
    [
        (None, tuple(range(8))),
        ("4,5", (7, 6)),
        ("5, 4", (6, 7)),
        ("0", (2,)),
        ("1,1", (3,)),
        ("3,-1,2", (0,)),  # as CUDA reads it: up to the first that is none
        ("3,x", (0,)),
        ("GPU-99", (8,)),
        ("17", (8,)),
        ("GPU-65656565-6565-6565-6565-656565656565", (5,)),
        ("GPU-65,7", (5, 4)),
        ("MIG-GPU-65656565-6565-6565-6565-656565656565/1/0", (5,)),
    ],
)
def test_simulators_share_the_gpus_of_the_job_and_wake_no_other(visible, devices):
    machine = eight_gpus()
    found = choose({} if visible is None else {VISIBLE: visible}, machine)
    assert (found.backend, found.devices, machine.tried) == ("egl", devices, list(devices))
    assert found.variables() == {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl", DEVICE: str(devices[0])}
    assert found.variables(devices[-1])[DEVICE] == str(devices[-1])
    if devices == (8,):  # nobody told EGL of such a GPU
        assert found.renderer == "llvmpipe" and found.remark
    else:
        assert found.renderer == "NVIDIA A100" and not found.remark
        assert found.reason.startswith(f"{devices[0]} is CUDA {CUDA_OF[devices[0]]}")


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "-1,4", "none"])
def test_a_job_without_a_gpu_draws_on_the_cpu(visible):
    machine = eight_gpus(osmesa=True)
    found = choose({VISIBLE: visible}, machine)
    assert (found.backend, found.devices, machine.tried, found.remark) == ("egl", (8,), [8], "")
    assert str(found) == "EGL device 8 (llvmpipe, the CPU)" and "leaves none to this job" in found.reason
    machine.devices.pop()
    found = choose({VISIBLE: visible}, machine)
    assert (found.backend, found.devices) == ("osmesa", ())
    assert found.variables() == {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"}
    machine.osmesa = False
    with pytest.raises(SimulatorMissing, match=r"leaves none to this job \(MUJOCO_EGL_DEVICE_ID=0 .*libosmesa6"):
        choose({VISIBLE: visible}, machine)


def test_uuids_that_egl_does_not_tell_come_from_cuda():
    machine = FakeMachine([EglDevice(0, cuda=1), EglDevice(1, cuda=0)], uuids={0: "ab" * 16, 1: "cd" * 16})
    assert choose({VISIBLE: "GPU-cdcdcdcd"}, machine).devices == (0,)
    assert choose({VISIBLE: "GPU-ABAB"}, machine).devices == (1,)


def test_a_mig_instance_is_a_part_of_the_only_gpu():
    only = FakeMachine([EglDevice(0, cuda=0), EglDevice(1, software=True)], nvidia=True)
    assert choose({VISIBLE: "MIG-1a2b"}, only).devices == (0,)
    only.problems[0] = "it cannot be initialised"
    found = choose({VISIBLE: "MIG-1a2b"}, only)
    assert found.devices == (1,) and "MIG mode" in found.remark and "0: it cannot be initialised" in found.remark
    assert choose({VISIBLE: "MIG-1a2b"}, eight_gpus()).devices == (8,)  # of which, nobody says


def test_gpus_that_do_not_draw_are_left_out_and_the_cpu_is_remarked_on():
    found = choose({VISIBLE: "4,5"}, eight_gpus(problems={7: "it cannot be initialised"}))
    assert found.devices == (6,) and "7: it cannot be initialised" in found.reason and not found.remark
    broken = dict.fromkeys((6, 7), "it cannot be initialised")
    found = choose({VISIBLE: "4,5"}, eight_gpus(problems=broken))
    assert found.devices == (8,) and "leaves 7, 6 to this job" in found.reason
    assert found.remark.startswith("EGL device 8 draws the pictures, no NVIDIA GPU of this job: ")
    # A container without NVIDIA's OpenGL: the kernel has the GPU, EGL does not
    assert "NVIDIA_DRIVER_CAPABILITIES" in choose({}, one_software_device(nvidia=True)).remark
    assert choose({VISIBLE: "1"}, one_software_device()).remark == ""


def test_a_gpu_that_cuda_does_not_know_goes_before_the_cpu():
    devices = [EglDevice(0, software=True), EglDevice(1), EglDevice(2)]
    machine = FakeMachine(devices, renderers={1: "llvmpipe", 2: "Mesa Intel UHD 770"})
    assert choose({}, machine).devices == choose({VISIBLE: ""}, machine).devices == (2,)
    machine.problems[2] = "it makes no OpenGL context"
    assert choose({}, machine).devices == (0,)


@pytest.mark.parametrize(
    "environ, backend",
    [
        ({}, "egl"),
        ({"MUJOCO_GL": ""}, "egl"),
        ({"MUJOCO_GL": "1"}, "egl"),
        ({"MUJOCO_GL": " EGL "}, "egl"),
        ({"PYOPENGL_PLATFORM": "egl", DEVICE: ""}, "egl"),
        ({DEVICE: "0"}, "egl"),
        ({DEVICE: "00", VISIBLE: "1"}, "egl"),
        ({"MUJOCO_GL": "OSMesa"}, "osmesa"),
        ({"PYOPENGL_PLATFORM": "osmesa"}, "osmesa"),
        ({"MUJOCO_GL": "osmesa", DEVICE: "3", VISIBLE: "1"}, "osmesa"),  # a number of EGL's only
    ],
)
def test_what_is_stated_and_works_is_kept(environ, backend):
    found = choose(environ, one_software_device(osmesa=True))
    variables = found.variables()
    assert variables.pop("MUJOCO_GL") == variables.pop("PYOPENGL_PLATFORM") == found.backend == backend
    assert variables == ({DEVICE: "0"} if backend == "egl" else {})


@pytest.mark.parametrize(
    "environ, message",
    [
        ({DEVICE: "3"}, "MUJOCO_EGL_DEVICE_ID=3 is set, but EGL lists 0 (software); unset it"),
        ({DEVICE: "-1"}, "MUJOCO_EGL_DEVICE_ID=-1 is set"),
        ({DEVICE: "0,1", "MUJOCO_GL": "egl"}, "MUJOCO_GL=egl and MUJOCO_EGL_DEVICE_ID=0,1 are set"),
        ({"PYOPENGL_PLATFORM": "osmesa"}, "its library is missing), apt-get install libosmesa6"),
        ({"MUJOCO_GL": "osmesa"}, "MUJOCO_GL=osmesa is set, but OSMesa does not work here"),
        ({"MUJOCO_GL": "glx"}, "MUJOCO_GL=glx is set, but GLX does not work here (no display)"),
        ({"MUJOCO_GL": "glfw"}, "MUJOCO_GL=glfw is set"),
        ({"MUJOCO_GL": "nonsense"}, "no simulator draws with MUJOCO_GL=nonsense"),
        ({"MUJOCO_GL": "disabled"}, "no simulator draws with MUJOCO_GL=disabled"),
        ({"PYOPENGL_PLATFORM": "x11"}, "no simulator draws with PYOPENGL_PLATFORM=x11"),
        ({"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "osmesa"}, "are set, but contradict each other; unset them"),
        ({"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "egl"}, "are set, but contradict each other"),
    ],
)
def test_what_is_stated_and_cannot_work_is_refused_with_the_way_out(environ, message):
    """Not as SimulatorMissing: a tool that can do without the simulator must not pass over it."""
    with pytest.raises(BadInput) as refusal:
        choose(environ, one_software_device())
    text = str(refusal.value)
    assert message in text and "\n" not in text and not isinstance(refusal.value, SimulatorMissing)
    assert text.endswith(", and EGL device 0 (llvmpipe, the CPU) draws")


def test_nothing_draws():
    with pytest.raises(SimulatorMissing, match=r"EGL lists no device.*libegl1 .*libosmesa6"):
        choose({}, FakeMachine())
    with pytest.raises(BadInput, match=r"MUJOCO_GL=egl is set, but EGL lists no device; without it: no OpenGL"):
        choose({"MUJOCO_GL": "egl"}, FakeMachine())
    with pytest.raises(BadInput, match="MUJOCO_GL=egl is set, but EGL lists no device; unset it, and OSMesa"):
        choose({"MUJOCO_GL": "egl"}, FakeMachine(osmesa=True))
    assert choose({}, FakeMachine(osmesa=True)).backend == "osmesa"


def test_a_stated_device_holds_whoever_owns_it():
    found = choose({DEVICE: "2", VISIBLE: "4"}, eight_gpus())
    assert found.devices == (2,)
    assert found.remark == "MUJOCO_EGL_DEVICE_ID=2 is CUDA's 0, not of CUDA_VISIBLE_DEVICES=4"
    assert choose({DEVICE: "7", VISIBLE: "4"}, eight_gpus()).remark == ""
    with pytest.raises(
        BadInput, match=r"EGL lists 0 \(CUDA 3\), .*8 \(software\); 2: asleep; unset it, and EGL device 7"
    ):
        choose({DEVICE: "2", VISIBLE: "4"}, eight_gpus(problems={2: "asleep"}))


@pytest.fixture
def clean(monkeypatch):
    """No choice is stated, none is made yet."""
    for name in READ:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gl, "_in_use", None)
    monkeypatch.setattr(gl, "_decided", {})
    gl._simulators.clear()
    return monkeypatch


class Surroundings:
    """What a child sees."""

    def get(self, *names):
        return [os.environ.get(name) for name in names]

    def prepared(self):
        gl.Machine = None  # it must not ask again
        found = gl.prepare_gl()
        return found.backend, found.devices

    def close(self):
        pass


def start_child(**options):
    return RemoteObject("tests.libs.test_gl:Surroundings", {}, timeout_s=60, **options)


@pytest.mark.slow
def test_children_are_spread_and_do_not_ask_again(clean):
    clean.setenv(VISIBLE, "4,5")
    clean.setattr(gl, "Machine", eight_gpus)
    assert gl.prepare_gl().devices == (7, 6) and DEVICE not in os.environ
    children = [start_child() for _ in range(4)]
    try:
        seen = [child.call("get", DEVICE, "MUJOCO_GL", "PYOPENGL_PLATFORM", VISIBLE) for child in children]
        assert seen == [[number, "egl", "egl", None] for number in ("7", "6", "7", "6")]
        assert children[0].call("prepared") == ("egl", (7,))
        for number in (1, 3):
            children[number].kill()
            children[number].kill()  # twice is once
        children += [start_child(hide_cuda=False), start_child()]
        assert [child.call("get", DEVICE, VISIBLE) for child in children[4:]] == [["6", "4,5"], ["6", None]]
    finally:
        for child in children:
            child.kill()
    assert gl.take_device() == 7


def test_a_child_started_before_the_choice_sees_what_its_parent_sees(clean):
    clean.setenv(VISIBLE, "4,5")
    child = start_child()
    try:
        assert child.call("get", DEVICE, "MUJOCO_GL", VISIBLE, gl.HANDED_DOWN) == [None, None, "4,5", None]
    finally:
        child.kill()


def test_another_setting_is_another_choice(clean):
    clean.setattr(gl, "Machine", eight_gpus)
    assert len(gl.prepare_gl().devices) == 8
    clean.setenv(VISIBLE, "0")
    assert gl.prepare_gl().devices == (2,)
    clean.setenv(gl.HANDED_DOWN, "egl 3")  # by a parent whose choice somebody has changed since
    clean.setenv("MUJOCO_GL", "egl")
    assert gl.prepare_gl().devices == (2,)


def test_a_remark_is_one_line_on_stderr(clean, capsys):
    clean.setattr(gl, "Machine", lambda: one_software_device(nvidia=True))
    assert isinstance(gl.tell_gl(), Graphics)
    printed = capsys.readouterr()
    assert printed.err.startswith("remark: EGL device 0 draws") and printed.err.count("\n") == 1 and not printed.out


# A driver: device 1 and windows crash it, device 2 hangs it.
DRIVER = """
import json, os, sys, time
for number in map(int, sys.argv[2:] or ["1"]):
    if number == 1:
        os.kill(os.getpid(), 11)
    if number == 2:
        time.sleep(100)
    print(json.dumps({"number": number, "renderer": os.environ.get("CUDA_VISIBLE_DEVICES", "it")}), flush=True)
"""


def test_drivers_that_crash_or_hang_take_nobody_along(tmp_path, monkeypatch):
    (tmp_path / "driver.py").write_text(DRIVER)
    monkeypatch.setattr(gl_devices, "__file__", str(tmp_path / "driver.py"))
    monkeypatch.setattr(gl_devices, "TIME_LIMIT_S", 2.0)
    monkeypatch.setattr(gl_devices, "TIME_PER_DEVICE_S", 0.0)
    monkeypatch.setenv(VISIBLE, "0")  # hidden from the children, so that CUDA's numbers are those it speaks of
    found = Machine().try_egl([0, 1, 2, 3, 12])
    dead = Trial(problem="its driver crashes or hangs")
    far = Trial(problem="mujoco sees the first 10 only")
    assert found == {0: Trial("it"), 1: dead, 2: dead, 3: Trial("it"), 12: far}
    assert Machine().try_glx() == dead


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_this_machine_draws(monkeypatch):
    """And a device that EGL does not list, or a window without a display, is a problem with a name."""
    machine = Machine()
    assert choose({}, machine).renderer
    if len(machine.egl_devices()) < 10:
        assert machine.try_egl([9])[9].problem == "EGL does not list it"
    monkeypatch.delenv("DISPLAY", raising=False)
    assert machine.try_glx().problem == "it needs a display, and DISPLAY is not set"


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_robosuite_starts_whatever_cuda_sees():
    """A number that is none of EGL's, over which robosuite stumbles twice: as it is imported and as it draws."""
    code = (
        "import os; from libs.robosuite_sim.gl import import_simulator;"
        "module = import_simulator('robosuite.utils.binding_utils'); context = module.GLContext(64, 64, device_id=-1);"
        "context.make_current(); print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['MUJOCO_GL'])"
    )
    environ = {name: value for name, value in os.environ.items() if name not in READ}
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ | {VISIBLE: "17"}, capture_output=True, text=True
    )
    assert child.stdout.split() in (["17", "egl"], ["17", "osmesa"]), child.stderr


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_triton_is_imported_before_anything_that_draws(tmp_path):
    # Its LLVM, loaded after Mesa's, ends the process; a torch without CUDA, as in requirements.lock, has none.
    (tmp_path / "triton.py").write_text(
        "import sys; print([name for name in ('OpenGL', 'mujoco') if name in sys.modules], file=sys.stderr)"
    )
    code = "from libs.robosuite_sim.gl import import_simulator; import_simulator('robosuite')"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"
