"""Every tool that starts simulators refuses an impossible OpenGL at once, and check_gl tells what draws."""

import numpy as np
import pytest

from libs.robosuite_sim import gl
from libs.robosuite_sim.gl_choice import READ
from tests.libs.test_gl import eight_gpus
from tests.tools.test_regenerate_libero import publish
from tools import collect_demos, collect_stack, eval_libero, eval_stack, inspect_demos, regenerate_libero
from tools.dev import benchmark, check_experts, check_gl

LIBERO = pytest.mark.libero
TASK = "pick_up_the_tomato_sauce_and_place_it_in_the_basket"
SUITE = ["--task_suite", "libero_object"]
OUT = ["--num_demos", "1", "--out", "out"]
FILE = f"libero_object/{TASK}_demo.hdf5"


@pytest.fixture
def machine(monkeypatch):
    """Eight GPUs, no choice stated or made."""
    for name in READ:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gl, "_in_use", None)
    monkeypatch.setattr(gl, "_decided", {})
    monkeypatch.setattr(gl, "Machine", eight_gpus)
    return monkeypatch


@pytest.mark.parametrize(
    "tool, arguments",
    [
        pytest.param(
            eval_libero, ["--model_path", "of/no/use", *SUITE, "--task_ids", "5", "--episodes", "1"], marks=LIBERO
        ),
        (eval_stack, ["--model_path", "of/no/use", "--episodes", "1"]),
        pytest.param(collect_demos, [*SUITE, "--task_ids", "5", *OUT], marks=LIBERO),
        (collect_stack, OUT),
        pytest.param(check_experts, [*SUITE, "--task_ids", "5"], marks=LIBERO),
        pytest.param(regenerate_libero, [FILE, "--out", "out"], marks=LIBERO),
        (inspect_demos, [FILE, "--verify"]),
        (benchmark, ["rollout", "--model_path", "of/no/use"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_impossible_choice_is_one_line(tool, arguments, machine, tmp_path, capsys):
    """Before a policy is loaded, a simulator started or anything written."""
    machine.chdir(tmp_path)
    publish(tmp_path / FILE, [np.zeros((3, 7))])
    machine.setenv("MUJOCO_EGL_DEVICE_ID", "17")
    with pytest.raises(SystemExit) as stop:
        tool.main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("error: MUJOCO_EGL_DEVICE_ID=17 is set, but EGL lists 0 (CUDA 3), 1 (CUDA 2)")
    assert not printed.out and [path.name for path in tmp_path.iterdir()] == ["libero_object"]


def test_check_gl_says_what_draws_and_why(machine, capsys):
    machine.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    check_gl.main()
    assert capsys.readouterr().out.splitlines() == [
        "pictures are drawn by EGL devices 7, 6 (NVIDIA A100): "
        "7 is CUDA 4, 6 is CUDA 5, left by CUDA_VISIBLE_DEVICES=4,5",
        "simulators get MUJOCO_GL=egl PYOPENGL_PLATFORM=egl MUJOCO_EGL_DEVICE_ID=7, others MUJOCO_EGL_DEVICE_ID=6",
    ]
