"""LIBERO's suites, tasks, instructions, step limits and evaluation init states. Needs no OpenGL."""

import contextlib
import difflib
import functools
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from libs.demo_hdf5.task_text import INSTRUCTION_IN_BDDL
from libs.errors import BadInput
from libs.robosuite_sim.gl import SimulatorMissing

# Steps an episode may take after settling, as the published evaluations count them. LIBERO-PRO's variants of
# a suite have its limit; the longest name that fits wins.
MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
    "libero": 520,
}
LIBERO_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")  # no task name twice
REPORTED_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")  # whose mean a paper states


@dataclass(frozen=True)
class LiberoTask:
    """One task of a suite. `bddl_file` is a path; `num_init_states` is 0 where the package carries none."""

    suite: str
    task_id: int
    name: str
    instruction: str
    bddl_file: str
    max_steps: int
    num_init_states: int


def list_suites() -> list[str]:
    """Names of every suite that can be simulated here (LIBERO's own and LIBERO-PRO's)."""
    return [name for name in _benchmarks() if _usable(name)]


def num_tasks(suite: str) -> int:
    return len(_suite(suite).tasks)


def get_task(suite: str, task_id: int) -> LiberoTask:
    """Task number `task_id` of `suite`, in the benchmark's order. BadInput, with what exists, if none."""
    benchmark = _suite(suite)
    count = len(benchmark.tasks)
    if not isinstance(task_id, int | np.integer) or not 0 <= task_id < count:
        raise BadInput(f"unknown task id {task_id!r} of suite {suite!r}: it has tasks 0 to {count - 1}")
    task = benchmark.tasks[task_id]
    bddl_file = Path(benchmark.get_task_bddl_file_path(task_id)).resolve()
    if not bddl_file.is_file():
        raise BadInput(f"task {task_id} of suite {suite!r} has no BDDL file in this package: {bddl_file}")
    instruction = task.language
    if suite.endswith(INSTRUCTION_IN_BDDL):
        instruction = _bddl_language(bddl_file)
    limit = MAX_STEPS[max((name for name in MAX_STEPS if suite.startswith(name)), key=len)]
    count = len(_load_init_states(suite, int(task_id)))
    return LiberoTask(suite, int(task_id), task.name, instruction, str(bddl_file), limit, count)


def find_task(suite: str, name: str) -> LiberoTask:
    """The task called `name` (as in demo file names). BadInput, listing the names, if there is none."""
    names = [task.name for task in _suite(suite).tasks]
    if name not in names:
        raise BadInput(f"unknown task {name!r} of suite {suite!r}: it has {', '.join(names)}")
    return get_task(suite, names.index(name))


def init_states(task: LiberoTask) -> np.ndarray:
    """The benchmark's evaluation init states of a task: (N, 1 + nq + nv) float64. BadInput if none."""
    states = _load_init_states(task.suite, task.task_id)
    if len(states) == 0:
        raise BadInput(f"task {task.task_id} of suite {task.suite!r} has no init states in this package")
    return states


@functools.lru_cache
def _benchmarks() -> dict:
    try:
        from libero.libero import benchmark
    except ModuleNotFoundError as error:
        raise SimulatorMissing(f"the simulator is not installed ({error}): pip install -e '.[sim]'") from error
    return benchmark.get_benchmark_dict()


@functools.lru_cache
def _suite(name: str) -> Any:
    if name not in _benchmarks() or not _usable(name):
        close = difflib.get_close_matches(name, list_suites(), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise BadInput(f"unknown task suite {name!r}{hint}: known are {', '.join(list_suites())}")
    return _construct(name)


@functools.lru_cache
def _construct(name: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # benchmarks announce their task order
        return _benchmarks()[name]()


@functools.lru_cache
def _usable(name: str) -> bool:
    """Some names of the registry have no tasks or no BDDL files."""
    benchmark = _construct(name)
    return any(Path(benchmark.get_task_bddl_file_path(i)).is_file() for i in range(benchmark.n_tasks))


def _bddl_language(bddl_file: Path) -> str:
    stated = re.search(r"\(:language\s+([^)]*)\)", bddl_file.read_text())
    if stated is None:
        raise BadInput(f"{bddl_file} states no language goal")
    return stated[1].strip()


@functools.lru_cache(maxsize=16)
def _load_init_states(suite: str, task_id: int) -> np.ndarray:
    try:
        states = _suite(suite).get_task_init_states(task_id)
    except FileNotFoundError:
        return np.zeros((0, 0))
    states.setflags(write=False)
    return states
