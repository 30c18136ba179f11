"""Compare the demos of a file with the simulator: the stored states drawn again, the actions run again."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from libs.demo_hdf5 import DemoFile
from libs.libero_sim.env import VIEWS, LiberoEnv
from libs.libero_sim.suites import LiberoTask, find_task

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
    """The task that `bddl_file_name` (.../SUITE/NAME.bddl) names. ValueError where this package has none such."""
    path = demos.attrs.get("bddl_file_name")
    if not isinstance(path, str) or len(PurePosixPath(path).parts) < 2:
        raise ValueError("bddl_file_name does not name a suite and a task")
    path = PurePosixPath(path)
    return find_task(path.parent.name, path.stem)


def replay_demos(demos: DemoFile, task: LiberoTask, names: list[str]) -> Iterator[tuple[str, Replay]]:
    """(demo, Replay) of each demo in `names`. Makes one LiberoEnv: 6-16 s; then a few seconds per demo.

    ValueError where a demo's states do not fit the task or the file's render setting is unknown;
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
    attrs, states = demos.demo_attrs(demo), demos.states(demo)
    seed = int(attrs["seed"]) if "seed" in attrs else None
    env.reset(seed or 0)
    views = [view for view in demos.views if view in VIEWS]
    picture_max, picture_mean = dict.fromkeys(views, 0), dict.fromkeys(views, 0.0)
    robot_state_max = 0.0
    for t, (state, robot_state) in enumerate(zip(states, demos.robot_states(demo), strict=True)):
        env.set_sim_state(state)
        for view, picture in env.render(views).items():
            difference = np.abs(picture.astype(np.int16) - demos.frame(demo, t, view))
            picture_max[view] = max(picture_max[view], int(difference.max()))
            picture_mean[view] = max(picture_mean[view], float(difference.mean()))
        difference = _robot_state_difference(env.proprio_dict()["robot_states"], robot_state)
        robot_state_max = max(robot_state_max, difference)
    state_max, steps, success = _run_actions(env, states, demos.actions(demo), attrs.get("start_gripper", -1.0))
    return Replay(len(states), seed, picture_max, picture_mean, robot_state_max, state_max, steps, success)


def _run_actions(env: LiberoEnv, states: np.ndarray, actions: np.ndarray, start_gripper: float):
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
