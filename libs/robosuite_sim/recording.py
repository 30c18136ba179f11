"""A demonstration: a random reset, perhaps a start in the middle of a pushed run, the expert's actions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from libs.robosuite_sim.env import ACTION_DIM, RobosuiteEnv
from libs.robosuite_sim.experts.motion import OPEN

NUM_SETTLE_STEPS = 10
LATE_STEPS = (5, 75)  # steps that a late start lets pass, the upper one excluded
_PUSH_CHANCE, _PUSH, _PUSH_STEPS = 0.15, 0.8, (3, 10)  # per step; largest action; steps

# Moves an env from its reset to where a recording begins. Returns the gripper's last command there, None where the task
# was solved on the way: the recording then begins at the reset.
Start = Callable[[], float | None]


@dataclass(frozen=True)
class Recording:
    """A successful run.

    actions: (T, 7); states: (T, 1 + nq + nv), the state before each action; start_gripper: the gripper's
    command before the first action, -1 open or +1 closed (see RobosuiteEnv.set_sim_state).
    """

    actions: np.ndarray
    states: np.ndarray
    start_gripper: float


def record_run(
    env: RobosuiteEnv,
    seed: int,
    expert: Callable[[], Iterable[np.ndarray]],
    start: Start,
    past_success: bool = False,
) -> Recording | None:
    """Let an expert solve env.task after reset(seed); None if it fails within the task's step limit.

    expert: called when the recording begins, gives actions (7,) from the env's present state. past_success: the
    recording goes on to the expert's last action, after which the task must be solved; else it ends at success.
    It starts from a state set with `set_sim_state`, so that setting its first state and repeating its actions repeats
    it to the bit. Renders nothing.
    """

    def begin() -> None:
        env.reset(seed)
        env.settle(NUM_SETTLE_STEPS, ())

    begin()
    start_gripper = start()
    if start_gripper is None:
        begin()
        start_gripper = OPEN
    env.set_sim_state(env.sim_state(), start_gripper)
    actions: list[np.ndarray] = []
    states: list[np.ndarray] = []
    success = False
    for action in expert():
        if len(actions) == env.task.max_steps:
            return None
        action = np.clip(action, -1.0, 1.0)
        actions.append(action)
        states.append(env.sim_state())
        _, success = env.step(action)
        if success and not past_success:
            break
    return Recording(np.stack(actions), np.stack(states), start_gripper) if success else None


def start_late(
    env: RobosuiteEnv, actions: Iterable[np.ndarray], rng: np.random.Generator, latest: int = LATE_STEPS[1]
) -> float | None:
    """Let the expert's `actions` run for a random while, less than `latest` steps, pushed off their way in bursts; see
    `Start`."""
    push, steps_left, finger = np.zeros(ACTION_DIM), 0, OPEN
    for _, action in zip(range(rng.integers(LATE_STEPS[0], latest)), actions, strict=False):
        if steps_left == 0 and rng.random() < _PUSH_CHANCE:
            push[:3] = rng.uniform(-_PUSH, _PUSH, size=3)
            push[5] = rng.uniform(-_PUSH, _PUSH) / 2
            steps_left = rng.integers(*_PUSH_STEPS)
        pushed = np.clip(action + push * (steps_left > 0), -1.0, 1.0)
        steps_left = max(0, steps_left - 1)
        finger = pushed[-1] = action[-1]
        if env.step(pushed)[1]:
            return None
    return float(finger)


def look_at_states(
    env: RobosuiteEnv, states: np.ndarray, look: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `look()` returns in each of `states` (T, D), one after another in arrays (T, ...)."""
    frames = []
    for state in states:
        env.set_sim_state(state)
        frames.append(look())
    return {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}
