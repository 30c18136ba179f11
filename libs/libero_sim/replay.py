"""Compare the demos of a file with the simulator: the stored states drawn again, the actions run again.

Demos that were recorded as an episode (attribute `num_settle_steps`, see regeneration.py) are played again instead:
LIBERO takes the pictures of a step a few milliseconds before its end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from libs.demo_hdf5 import DemoFile
from libs.errors import BadInput
from libs.libero_sim.env import VIEWS, LiberoEnv
from libs.libero_sim.suites import LIBERO_SUITES, LiberoTask, find_task
from libs.robosuite_sim.gl import SimulatorMissing

# Pictures of another graphics driver differ by a few values along edges; a picture that is turned, of another
# render setting or of another moment differs in all of it.
PICTURE_TOLERANCE = 2.0  # of a picture's mean difference, in 0-255
ROBOT_STATE_TOLERANCE = 1e-4  # metres and quaternion components


@dataclass(frozen=True)
class Replay:
    """What came out of one demo.

    seed: of the reset, None where the file states none. picture_max, picture_mean: {view: largest difference of
    a value, and of a picture's mean, over all frames}, in 0-255. robot_state_max: largest difference of
    robot_states. state_max: largest difference of a state on the way while the actions run from the first
    state. steps: actions run; success: whether they reached the goal.
    """

    num_frames: int
    seed: int | None
    picture_max: dict[str, int]
    picture_mean: dict[str, float]
    robot_state_max: float
    state_max: float
    steps: int
    success: bool

    def problems(self) -> list[str]:
        """What must not be so; empty where the file does not state the seed that places the fixtures."""
        if self.seed is None:
            return []
        found = [
            f"{view}: stored pictures differ from rendered ones by {mean:.1f} on average"
            for view, mean in self.picture_mean.items()
            if mean > PICTURE_TOLERANCE
        ]
        if self.robot_state_max > ROBOT_STATE_TOLERANCE:
            found.append(f"robot_states differ from the simulator's by {self.robot_state_max:.2g}")
        if not self.success:
            found.append(f"the actions, replayed from the first state, fail in {self.steps} steps")
        return found


def recorded_task(demos: DemoFile) -> LiberoTask:
    """The task of a demo file: what `bddl_file_name` (.../SUITE/NAME.bddl) says or, because published files name
    BDDL files that were renamed later, the file's own name (NAME_demo.hdf5), in the suite of bddl_file_name, of the
    file's folder or in one of LIBERO's own. BadInput where none of that is a task of this package, SimulatorMissing
    without that package."""
    stated = demos.attrs.get("bddl_file_name")
    bddl = PurePosixPath(stated if isinstance(stated, str) else "")
    folder, name = demos.path.resolve().parent.name, demos.path.stem.removesuffix("_demo")
    suites = dict.fromkeys((bddl.parent.name, folder, *LIBERO_SUITES))
    for suite, task in ((bddl.parent.name, bddl.stem), *((suite, name) for suite in suites)):
        try:
            return find_task(suite, task)
        except SimulatorMissing:
            raise
        except BadInput:  # not there
            continue
    raise BadInput(
        f"{demos.path}: neither bddl_file_name ({stated!r}) nor the file's name is a known task; "
        "name the file <task name>_demo.hdf5"
    )


def replay_demos(demos: DemoFile, task: LiberoTask, names: list[str]) -> Iterator[tuple[str, Replay]]:
    """(demo, Replay) of each demo in `names`. Makes one LiberoEnv: 6-16 s; then a few seconds per demo.

    BadInput where a demo's states do not fit the task or the file's render setting is unknown;
    SimulatorMissing without a simulator.
    """
    resolution = len(demos.frame(names[0], 0, demos.views[0]))
    env = LiberoEnv(task, resolution, demos.render)
    try:
        for name in names:
            yield name, _replay(env, demos, name)
    finally:
        env.close()


def _replay(env: LiberoEnv, demos: DemoFile, demo: str) -> Replay:
    attrs, states, actions = demos.demo_attrs(demo), demos.states(demo), demos.actions(demo)
    seed = int(attrs["seed"]) if "seed" in attrs else None
    compared = _Comparison(demos, demo)
    if "num_settle_steps" in attrs:
        outcome = _play_again(env, seed or 0, attrs, states, actions, compared)
    else:
        env.reset(seed or 0)
        for t, state in enumerate(states):
            env.set_sim_state(state)
            compared.add(t, env.render(compared.views), env.proprio_dict()["robot_states"])
        outcome = _run_actions(env, states, actions, attrs.get("start_gripper", -1.0))
    found = (compared.picture_max, compared.picture_mean, compared.robot_state_max)
    return Replay(len(states), seed, *found, *outcome)


class _Comparison:
    """The largest differences between a demo's stored frames and the simulator's; fields as in Replay."""

    def __init__(self, demos: DemoFile, demo: str):
        self._demos, self._demo, self._robot_states = demos, demo, demos.robot_states(demo)
        self.views = [view for view in demos.views if view in VIEWS]
        self.picture_max, self.picture_mean = dict.fromkeys(self.views, 0), dict.fromkeys(self.views, 0.0)
        self.robot_state_max = 0.0

    def add(self, t: int, pictures: dict[str, np.ndarray], robot_state: np.ndarray) -> None:
        for view, picture in pictures.items():
            difference = np.abs(picture.astype(np.int16) - self._demos.frame(self._demo, t, view))
            self.picture_max[view] = max(self.picture_max[view], int(difference.max()))
            self.picture_mean[view] = max(self.picture_mean[view], float(difference.mean()))
        difference = _robot_state_difference(robot_state, self._robot_states[t])
        self.robot_state_max = max(self.robot_state_max, difference)


def _play_again(
    env: LiberoEnv, seed: int, attrs: dict, states: np.ndarray, actions: np.ndarray, compared: _Comparison
) -> tuple[float, int, bool]:
    """The whole episode of a regenerated demo, from before it settled; each frame is compared on the way.

    Returns (largest difference of a state, steps, success after the last one).
    """
    env.reset(seed, attrs["init_state"])
    observation = env.settle(int(attrs["num_settle_steps"]), compared.views)
    state_max, success = 0.0, False
    for t, action in enumerate(actions):
        state_max = max(state_max, float(np.abs(env.sim_state() - states[t]).max()))
        compared.add(t, observation["views"], env.observed_proprio()["robot_states"])
        observation, success = env.step(action, compared.views)
    return state_max, len(actions), success


def _run_actions(
    env: LiberoEnv, states: np.ndarray, actions: np.ndarray, start_gripper: float
) -> tuple[float, int, bool]:
    """Run the actions from the first state: (largest difference of a state, steps, success)."""
    env.set_sim_state(states[0], start_gripper)
    state_max, steps, success = 0.0, 0, False
    while not success and steps < len(actions):
        state_max = max(state_max, float(np.abs(env.sim_state() - states[steps]).max()))
        _, success = env.step(actions[steps])
        steps += 1
    return state_max, steps, success


def _robot_state_difference(ours: np.ndarray, stored: np.ndarray) -> float:
    """Largest difference of two (9,) robot states; a quaternion and its negative are the same rotation."""
    sign = 1.0 if ours[5:] @ stored[5:] >= 0 else -1.0
    return float(np.abs(ours - np.concatenate([stored[:5], sign * stored[5:]])).max())
