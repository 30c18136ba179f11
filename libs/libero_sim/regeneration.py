"""Published demonstrations played again: pictures of any size, the observation before each action, no idle steps.

A demo starts from its first recorded state, waits `SETTLE_STEPS` steps for the objects to come to rest, and runs
its recorded actions but for the no-ops. What is recorded at each step is what the simulator showed before the
action, as an evaluation would see it. A demo stays in the set if the task is solved after its last action.
(The procedure is the one of Kim et al. 2024, OpenVLA, arXiv:2406.09246, appendix on LIBERO.)

Demos that this project recorded say how they began (attribute `start_gripper`): already at rest, perhaps in the middle
of a run with the hand closed, which settling would open. Where their expert holds still it waits for something, mostly
for what it let go to fall. They are played as they were recorded, to the bit, and drawn anew.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from libs.demo_hdf5 import DemoFile, merge_files
from libs.demo_hdf5.schema import demo_number, json_object
from libs.errors import BadInput
from libs.files import read_json_object, write_whole
from libs.libero_sim.env import VIEWS, LiberoEnv
from libs.libero_sim.recording import file_attrs, observe_states, write_demo
from libs.libero_sim.suites import LiberoTask, get_task
from libs.robosuite_sim.pool import Job

SETTLE_STEPS = 10
NOOP_NORM = 1e-4
LOOK_AHEAD = 20  # steps behind the last action of a demo that fails, to say whether waiting would have helped
RECORD = "regeneration"  # attribute of `data`: settings and what became of every demo, as JSON
_DEMO_TIMEOUT_S, _STEP_TIMEOUT_S = 300.0, 5.0  # making an env included; a step takes 0.4 s on one free core
_NOT_CARRIED = ("num_demos", "total", "macros_image_convention", "collection")


@dataclass(frozen=True)
class RegenerationSettings:
    """Everything the content of a regenerated file depends on; source_sha256: of what is replayed."""

    task_suite: str
    task_id: int
    resolution: int
    render: str
    stop_at_success: bool
    wait: int
    source_sha256: str


def is_noop(action: np.ndarray, previous: np.ndarray | None) -> bool:
    """Whether `action` (7,) neither moves the arm (norm of the first six below 1e-4) nor changes the gripper's
    command of `previous`, the action kept before it (None: there is none, and only the arm counts)."""
    still = np.linalg.norm(action[:-1]) < NOOP_NORM
    return bool(still and (previous is None or action[-1] == previous[-1]))


def without_noops(actions: np.ndarray) -> np.ndarray:
    """The actions (K, 7) of (T, 7) that are no no-ops."""
    kept: list[np.ndarray] = []
    for action in actions:
        if not is_noop(action, kept[-1] if kept else None):
            kept.append(action)
    return np.array(kept).reshape(-1, actions.shape[1])


def play_episode(
    env: LiberoEnv, seed: int, init_state: np.ndarray, actions: np.ndarray, stop_at_success: bool
) -> tuple[np.ndarray, dict[str, np.ndarray], bool]:
    """Run `actions` (T, 7) from `init_state` after settling, and record what was there before each.

    Returns (states (N, D), obs as of `observe_states`, success after the last step). N is T, or less with
    stop_at_success, where the first success ends the episode.
    """
    env.reset(seed, init_state)
    observation = env.settle(SETTLE_STEPS)
    states, frames, success = [], [], False
    for t, action in enumerate(actions):
        states.append(env.sim_state())
        frames.append({**observation["views"], **env.observed_proprio()})
        observation, success = env.step(action, VIEWS if t + 1 < len(actions) else ())
        if success and stop_at_success:
            break
    return np.stack(states), {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}, success


def play_recording(
    env: LiberoEnv, seed: int, start_gripper: float, states: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray], bool]:
    """The same of a demo that says how it began: `states` (T, D) are its own, drawn again after `actions` (T, 7) have
    run through them."""
    env.reset(seed)
    env.set_sim_state(states[0], start_gripper)
    success = False
    for action in actions:
        _, success = env.step(action)
    return states, observe_states(env, states), success


def steps_to_success(env: LiberoEnv, gripper: float, most: int) -> int:
    """Hold the arm still until the task is solved: after how many steps, 0 if not within `most`."""
    for step in range(1, most + 1):
        if env.step(np.array([0.0] * 6 + [gripper]), ())[1]:
            return step
    return 0


class RegenerationWorker:
    """Runs in a simulator process: replays the demos of one file."""

    def __init__(self, settings: RegenerationSettings) -> None:
        self.settings = settings
        task = get_task(settings.task_suite, settings.task_id)
        self.env = LiberoEnv(task, settings.resolution, settings.render)

    def attempt(self, source: str, demo: str, path: str) -> dict:
        """Replay a demo; a success is written to `path` as a demo file of one demo.

        Returns {"frames": of the source, "kept": frames written, "noops": removed, "reason": "" or why nothing was
        written}. The reset is seeded with the demo's number: fixtures stand a little differently in each.
        """
        demos, record = DemoFile(source), {"frames": 0, "kept": 0, "noops": 0, "reason": ""}
        record["frames"] = demos.num_frames(demo)
        settings = self.settings
        try:
            all_actions, init_state = demos.actions(demo).astype(np.float64), demos.states(demo)[0]
            start = _recorded_start(demos, demo)
            actions = all_actions if start else without_noops(all_actions)
            record["noops"] = len(all_actions) - len(actions)
            if len(actions) == 0:
                return {**record, "reason": "every action is a no-op"}
            began = start or {"seed": demo_number(demo), "num_settle_steps": SETTLE_STEPS}
            if start:
                played = play_recording(self.env, **start, states=demos.states(demo), actions=actions)
            else:
                played = play_episode(self.env, began["seed"], init_state, actions, settings.stop_at_success)
            states, obs, success = played
            if not success and (reason := self._after_the_end(actions[-1, -1])):
                return {**record, "reason": reason}
        except BadInput as error:  # recorded in another scene, or numbers that are not finite
            return {**record, "reason": str(error)}
        finally:
            demos.close()
        attrs = {
            "model_file": self.env.model_xml(),
            "init_state": init_state,  # num_settle_steps lie between it and the first of `states`
            **began,
            "source_file": demos.path.name,
            "source_demo": demo,
        }
        write_demo(path, self._data_attrs(demos), actions[: len(states)], states, obs, attrs)
        return {**record, "kept": len(states)}

    def _after_the_end(self, gripper: float) -> str:
        """Why a demo is dropped that is not solved after its last action; "" where waiting as asked solves it."""
        steps = steps_to_success(self.env, gripper, max(self.settings.wait, LOOK_AHEAD))
        if steps == 0:
            return "the replay does not succeed"
        if steps > self.settings.wait:
            return f"the replay succeeds {steps} steps after its last action (--wait {steps} would keep it)"
        return ""

    def close(self) -> None:
        self.env.close()

    def _data_attrs(self, source: DemoFile) -> dict:
        """The source's attributes, but for what says how large the pictures are and how they were drawn.

        The instruction is the benchmark's, which an evaluation will state (published files write some with
        quotes, some as lists of characters).
        """
        own = file_attrs(self.env)
        carried = {key: value for key, value in source.attrs.items() if key not in _NOT_CARRIED}
        info, env_args = json_object(carried, "problem_info"), json_object(carried, "env_args")
        info = {**json.loads(own["problem_info"]), **info, "language_instruction": self.env.task.instruction}
        sizes = {key: self.settings.resolution for key in ("camera_heights", "camera_widths")}
        env_args = env_args or json.loads(own["env_args"])
        env_args["env_kwargs"] = {**env_args.get("env_kwargs", {}), **sizes}
        replaced = {"problem_info": json.dumps(info), "env_args": json.dumps(env_args)}
        return {**own, **carried, **replaced, "render": own["render"], "resolution": own["resolution"]}


def _recorded_start(demos: DemoFile, demo: str) -> dict:
    """{"seed", "start_gripper"} of a demo that says how it began, else {}."""
    attrs = demos.demo_attrs(demo)
    if "seed" not in attrs or "start_gripper" not in attrs:
        return {}
    return {"seed": int(attrs["seed"]), "start_gripper": float(attrs["start_gripper"])}


class FileJob(Job):
    """The demos of one published file; the regenerated file keeps its name and holds those that succeed again.

    A demo is numbered as in the source. A finished one is NUMBER.json (its record) in `parts` and, if it
    succeeded, NUMBER.hdf5. Where no demo succeeds there is no file, and the parts stay, so that another call knows.
    BadInput where the source cannot be replayed at all.
    """

    WORKER = "libs.libero_sim.regeneration:RegenerationWorker"
    PIECE = "demo"

    def __init__(
        self,
        source: DemoFile,
        task: LiberoTask,
        out: Path,
        resolution: int,
        render: str,
        stop_at_success: bool = False,
        wait: int = 0,
    ) -> None:
        self.source, self.task = source, task
        self.names = {demo_number(demo): demo for demo in source.demos}
        if RECORD in source.attrs:
            raise BadInput(f"{source.path} is regenerated already: give the published file")
        settings = RegenerationSettings(
            task.suite, task.task_id, resolution, render, stop_at_success, wait, fingerprint(source)
        )
        super().__init__(out / source.path.name, settings, len(source.demos))

    @property
    def num_done(self) -> int:
        return len(self.finished)

    @property
    def num_failed(self) -> int:
        return sum(bool(record["reason"]) for record in self.finished.values())

    def records(self) -> dict[str, dict]:
        """demo of the source -> its record (see RegenerationWorker.attempt), in the source's order."""
        return {name: self.finished[number] for number, name in self.names.items() if number in self.finished}

    def read_file(self) -> None:
        about = json_object(DemoFile(self.path).attrs, RECORD)
        self.check_same(about.get("settings", {}), self.path)
        self.finished = {demo_number(demo): record for demo, record in about["demos"].items()}

    def read_parts(self) -> dict[int, dict]:
        found = self.parts.glob("[0-9]*.json")
        return {int(path.stem): read_json_object(path) for path in found}

    def next_number(self) -> int | None:
        missing = (number for number in self.names if number not in self.finished and number not in self.running)
        return next(missing, None)

    def request(self, number: int) -> tuple:
        return str(self.source.path), self.names[number], str(self.part(number))

    def time_limit_s(self, number: int) -> float:
        return _DEMO_TIMEOUT_S + _STEP_TIMEOUT_S * self.source.num_frames(self.names[number])

    def keep(self, number: int, result: dict) -> None:
        write_whole(self.part(number, ".json"), json.dumps(result))

    def merge(self) -> bool:
        parts = [self.part(number) for number in self.names if not self.finished[number]["reason"]]
        if not parts:
            return False
        about = {"settings": asdict(self.settings), "demos": self.records()}
        merge_files(self.path, parts, {RECORD: json.dumps(about)})
        return True


def fingerprint(source: DemoFile) -> str:
    """sha256 over what a replay uses: names, first states and actions of the demos, and how they say they began.
    BadInput where one lacks them or is damaged."""
    digest = hashlib.sha256()
    for demo in source.demos:
        digest.update(demo.encode())
        if start := _recorded_start(source, demo):
            digest.update(json.dumps(start).encode())
        for values in (source.states(demo)[0], source.actions(demo)):
            digest.update(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    source.close()
    return digest.hexdigest()
