"""What a policy server and its clients say to each other: openpi's websocket protocol, with more in it.

Over one websocket, every message as in `rv_eval.serving.wire`:
    server, once connected    the metadata: {"protocol": PROTOCOL}, all that `policy.describe()` says ("pictures" among
                              it: the sizes of the cameras of training, and what becomes of frames of any other;
                              "rotations" where it is known which numbers of an action are),
                              "takes_prefix", "observation_keys", see `openpi_keys`, and a hello of
                              `rv_eval.serving.vla_eval`, whose clients are answered, too; while the model is loaded,
                              it is waited for
    client                    an observation, see `rv_eval.serving.observation`
    server                    {"actions": (H, A) float32 in environment units, "valid": bool, "repaired": bool,
                               "text": str, "tokens": int, "passes": int (of the model, to write them),
                               "server_timing": {"wait_ms", "infer_ms", "batch"}},
                              or a text message: what was wrong
and so on; one observation at a time, the answers come in order, with arrays in the form in which they were asked for.
Pongs that nobody asked for are the server's heartbeat: they keep what lies between awake, and want no answer.

A policy server remembers nothing between observations: how many actions of a chunk are executed, and whether chunks are
averaged, is the client's business.
"""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libs.action_form import Rotations
from libs.errors import BadInput
from libs.files import read_text
from rv_eval.agent import AgentSettings
from rv_eval.picture_sizes import are_sizes

PROTOCOL = "vla0-policy/1"
FAILED = "the policy failed"  # so begins a refusal that the observation is not to blame for
KEY_VARIABLE = "VLA0_API_KEY"
HEALTH_PATH = "/healthz"

MIN_SIDE, MAX_SIDE = 8, 1280  # of a picture, pixels
MAX_PIXELS = 1280 * 720  # of a picture
MAX_INSTRUCTION = 512  # bytes of UTF-8: no more tokens than that
MAX_PROPRIO = 256  # numbers of the robot's state
MAX_RANDOM_KEY = 16
MAX_DRAFT = 1024  # numbers; more are not needed to be fast

MAX_REASON = 500  # characters of an error

MAX_MORE = 2**19  # bytes of an observation that are not the pictures

OPENPI_PREFIX = "observation/"
OPENPI_IMAGE, OPENPI_WRIST_IMAGE = "observation/image", "observation/wrist_image"
OPENPI_STATE, OPENPI_PROMPT = "observation/state", "prompt"
METADATA = {
    "model_folder": str,
    "model_fingerprint": str,
    "weights_sha256": str,
    "horizon": int,
    "action_dim": int,
    "views": list,
    "proprio": dict,
    "render": str,
    "resolution": int,
    "preset": dict,
    "temperature": float,
    "batch_rows": int,
    "device": str,
    "dtype": str,
    "torch_compile": bool,
    "drafts": bool,
    "policy_versions": dict,
}


class PolicyError(Exception):
    """The policy cannot answer this observation."""


class PolicyLost(ConnectionError):
    """The policy server does not answer, and did not come back."""


class PolicyFailed(RuntimeError):
    """The policy behind the server raised what the observation is not to blame for: no memory, for instance."""


class PolicyChanged(BadInput):
    """The policy server came back with another policy."""


def message_limit(views: Sequence[str]) -> int:
    """Bytes of the largest observation that is taken."""
    return len(views) * 3 * MAX_PIXELS + MAX_MORE


def at_hand(view: str) -> bool:
    """Whether the name of a camera says that it moves with the hand."""
    return any(part in view for part in ("hand", "wrist", "gripper"))


def openpi_keys(views: Sequence[str], proprio: Collection[str]) -> dict:
    """Under which keys an observation in openpi's form holds what a policy wants.

    views: cameras that the policy looks at. proprio: {part of the robot's state that it is given: numbers in it}.
    Returns {"views": {camera: key}, "instruction": key} and, where it is given the robot's state, "proprio": the key
    of the parts one after another. The first camera is openpi's image, the first at a hand its wrist_image; every other
    camera keeps its own name.
    """
    names = {view: view for view in views}
    moving = [view for view in views if at_hand(view)]
    others = [view for view in views if view not in moving]
    for key, cameras in ((OPENPI_IMAGE, others), (OPENPI_WRIST_IMAGE, moving)):
        alias = key.removeprefix(OPENPI_PREFIX)
        if cameras and alias not in views:
            names[cameras[0]] = alias
    keys = {"views": {view: OPENPI_PREFIX + name for view, name in names.items()}, "instruction": OPENPI_PROMPT}
    return keys | ({"proprio": OPENPI_STATE} if proprio else {})


def read_metadata(message: Any) -> dict:
    """BadInput: not the metadata of a policy server of ours; says what is missing."""
    if not isinstance(message, dict) or message.get("protocol") != PROTOCOL:
        raise BadInput(f"its metadata does not say protocol {PROTOCOL!r}: not a policy server of this repository")
    wrong = [name for name, kind in METADATA.items() if not isinstance(message.get(name), kind)]
    if wrong:
        raise BadInput(f"its metadata lacks {', '.join(wrong)}")
    if not all(isinstance(text, str) for text in [*message["views"], *message["policy_versions"].values()]):
        raise BadInput("its metadata holds views or policy_versions that are not strings")
    sizes = message["proprio"].values()
    if not all(type(size) is int and size > 0 for size in sizes) or sum(sizes) > MAX_PROPRIO:
        raise BadInput(f"its metadata holds a proprio that is not {{part: numbers in it}}, {MAX_PROPRIO} at most")
    if message["horizon"] < 1 or message["action_dim"] < 1 or message["batch_rows"] < 1:
        raise BadInput("its metadata holds a horizon, action_dim or batch_rows below 1")
    if "pictures" in message:  # servers of earlier versions do not say them
        pictures = message["pictures"]
        if not are_sizes(pictures.get("cameras") if isinstance(pictures, dict) else None, message["views"]):
            raise BadInput("its metadata holds pictures without the sizes of its cameras")
    try:
        Rotations.from_dict(message.get("rotations"), message["action_dim"])
    except BadInput as error:
        raise BadInput(f"its metadata: {error}") from None
    AgentSettings.from_dict(message["preset"])
    return message


def read_answer(message: Any, horizon: int, action_dim: int) -> dict:
    """BadInput: not an answer, not of this shape, or with numbers that are not finite."""
    kinds = {"actions": np.ndarray, "valid": bool, "repaired": bool, "text": str}
    if not isinstance(message, dict) or not all(isinstance(message.get(name), kind) for name, kind in kinds.items()):
        raise BadInput("the answer lacks actions, valid, repaired or text")
    actions = message["actions"]
    if actions.shape != (horizon, action_dim) or actions.dtype != np.float32:
        raise BadInput(f"the answer holds actions of {actions.dtype} {actions.shape}, not ({horizon}, {action_dim})")
    if not np.isfinite(actions).all():
        raise BadInput("the answer holds actions that are not finite")
    counts = {name: message.get(name, 0) for name in ("tokens", "passes")}
    if not all(type(count) is int and 0 <= count < 2**31 for count in counts.values()):
        raise BadInput(f"the answer holds counts that are none: {counts}")
    return message | counts


def read_api_key(path: Path | str | None = None) -> str | None:
    """The key in the file `path`, else in the environment variable VLA0_API_KEY, else None.

    Never on a command line: every user of the machine can read those. BadInput: no such file, or it is empty or not
    printable ASCII.
    """
    key = read_text(path) if path else os.environ.get(KEY_VARIABLE)
    if key is None:
        return None
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise BadInput(f"the API key in {path or KEY_VARIABLE} is empty or not printable ASCII without spaces")
    return key


def authorization(api_key: str) -> str:
    """The value of the HTTP header Authorization, as openpi-client sends it."""
    return f"Api-Key {api_key}"
