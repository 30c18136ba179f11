"""Names, types and shapes of a LIBERO demonstration file.

    data                      attributes: tag, env_name, problem_info (JSON, language_instruction), bddl_file_name,
                              bddl_file_content, env_args (JSON), macros_image_convention, num_demos, total
    data/demo_0               attributes: num_samples, model_file (MuJoCo XML), init_state
    data/demo_0/actions       float64 (T, 7): 3 position, 3 rotation, gripper -1 open / +1 close
    data/demo_0/states        float64 (T, 1 + nq + nv): flattened simulator states
    data/demo_0/robot_states  float64 (T, 9): gripper 2, end effector position 3, quaternion xyzw 4
    data/demo_0/rewards, dones  uint8 (T,), the last one is 1
    data/demo_0/obs/...       pictures uint8 (T, H, W, 3), upside down; proprioception float64

The keys of pictures, robot states and actions stand in the key map `libero`, for readers and the writer alike. Two
attributes of `data` are this project's own: `render` (how the pictures were rendered) and `resolution`.
"""

import json
from dataclasses import dataclass, field

import numpy as np

IMAGE_CONVENTIONS = {True: "opengl", False: "opencv"}  # KeyMap.upside_down -> macros_image_convention
STANDARD_RENDER = "standard"
TAG = "libero-v1"  # attribute of `data` that LIBERO's own collector writes and its check_dataset_integrity.py reads

# One frame per chunk, because training reads single frames at random: of eight together seven are unpacked for nothing,
# 6.5 x slower. gzip, because every HDF5 library has it. `tools/dev/benchmark.py data` on rendered LIBERO frames (256
# pixels, one core): gzip 1 halves the size and gives 530 samples of two views a second, so 8 GPUs that take 40 each
# keep less than one core reading. Level 4 takes 1.5 x as long to write for 3 % more, shuffling gains nothing; lzf reads
# 1.2 x as fast and needs a quarter more space; not packed at all it is 4 to 5 x as fast and twice the size; PNG is no
# smaller and slower; JPEG is a fifth of the size and 1.6 x as fast, but the policy would be trained on pictures it
# never sees.
STORAGE = {"compression": "gzip", "compression_opts": 1}


@dataclass
class Demo:
    """One recorded trajectory of T steps; everything at index t belongs to the state before action t.

    actions (T, 7) float64; states (T, 1 + nq + nv) float64; robot_states (T, 9) float64; rewards, dones (T,);
    obs: pictures under their view names (T, H, W, 3) uint8 UPRIGHT, proprioception under LIBERO's names;
    attrs: model_file, init_state and whatever else belongs to the demo.
    """

    actions: np.ndarray
    states: np.ndarray
    robot_states: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    obs: dict
    attrs: dict = field(default_factory=dict)


def demo_number(name: str) -> int:
    """ "demo_12" → 12; names sort as text otherwise (demo_10 before demo_2)."""
    return int(name.rsplit("_", 1)[1])


def json_object(attrs: dict, name: str) -> dict:
    """The JSON object in an attribute, {} where there is none."""
    try:
        value = json.loads(attrs[name])
    except (KeyError, TypeError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
