"""One stacking demonstration: a random reset, perhaps a late start, the expert's actions, pictures of the states."""

import json
from pathlib import Path

import numpy as np

from libs.demo_hdf5 import DemoWriter
from libs.demo_hdf5.schema import IMAGE_CONVENTIONS, STORAGE
from libs.robosuite_sim.experts.motion import OPEN
from libs.robosuite_sim.recording import Recording, Start, look_at_states, record_run, start_late
from libs.stack_sim.env import CONTROL_FREQ, VIEWS, StackEnv
from libs.stack_sim.expert import stack_actions


def record_expert(
    env: StackEnv, seed: int, rng: np.random.Generator, late: float = 0.0, begin: Start | None = None
) -> Recording | None:
    """Let the expert stack after reset(seed), see `record_run`; None if the cube does not rest there at the end, or it
    takes too long. It goes on beyond the moment of success until the hand has gone up.

    late: how probable a start in the middle of a pushed run is. begin: takes the place of it.
    """

    def vary() -> float | None:
        return start_late(env, stack_actions(env), rng) if rng.random() < late else OPEN

    return record_run(env, seed, lambda: stack_actions(env), begin or vary, past_success=True)


def observe_states(env: StackEnv, states: np.ndarray) -> dict[str, np.ndarray]:
    """What stands under obs/ of a demo file for each of `states` (T, D): see `StackDemoWriter`."""

    def look() -> dict[str, np.ndarray]:
        cubes = {"cube_positions": env.cube_positions(), "cube_orientations": env.cube_orientations()}
        return env.proprio_dict() | cubes | env.render()

    return look_at_states(env, states, look)


def file_attrs(env: StackEnv) -> dict:
    """Attributes of `data` in a file of demos that were recorded in `env`."""
    kwargs = {"robots": ["Panda"], "controller": "OSC_POSE", "control_freq": CONTROL_FREQ}
    kwargs |= {"camera_heights": env.resolution, "camera_widths": env.resolution}
    env_args = {"type": 1, "env_name": "Stack", "env_kwargs": kwargs}  # 1: robosuite, in robomimic's numbering
    return {
        "env_args": json.dumps(env_args),
        "problem_info": json.dumps({"language_instruction": env.task.instruction}),
        "macros_image_convention": IMAGE_CONVENTIONS[False],  # upright
        "render": env.render_setting,
        "resolution": env.resolution,
    }


class StackDemoWriter(DemoWriter):
    """Writes a file in the layout of Isaac Lab's and NVIDIA Cosmos' cube stacking.

    data/demo_i/actions (T, 7) and states (T, 1 + nq + nv) float64; data/demo_i/obs/: joint_pos, joint_vel, eef_pos,
    eef_quat and gripper_pos as in `StackEnv.proprio_dict`, cube_positions (T, 6), cube_orientations (T, 8), all
    float64; table_cam and wrist_cam uint8 (T, R, R, 3), upright. Everything is from before its action.
    """

    def add(  # type: ignore[override]  # the parts of another layout
        self, actions: np.ndarray, states: np.ndarray, obs: dict[str, np.ndarray], attrs: dict
    ) -> None:
        """Append a demo."""
        with self._output.writing() as file:
            group = file["data"].create_group(f"demo_{self._count}")
            group.attrs["num_samples"] = len(actions)
            group.attrs.update(attrs)
            group["actions"], group["states"] = actions, states
            for name, values in obs.items():
                packed = {"chunks": (1, *values.shape[1:]), **STORAGE} if name in VIEWS else {}
                group.create_dataset(f"obs/{name}", data=values, **packed)
        self._count += 1
        self._total += len(actions)


def write_demo(path: str | Path, data_attrs: dict, recording: Recording, obs: dict, attrs: dict) -> None:
    """Write a demo file of one demo."""
    with StackDemoWriter(path, data_attrs) as writer:
        writer.add(recording.actions, recording.states, obs, attrs)
