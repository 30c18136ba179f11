"""What a policy server and its clients say to each other: openpi's websocket protocol, with more in it.

Over one websocket, every message as in `rv_eval.wire`:
    server, once connected    the metadata: {"protocol": PROTOCOL} and all that `policy.describe()` says
    client                    an observation, see `read_observation`
    server                    {"actions": (H, A) float32 in environment units, "valid": bool, "repaired": bool,
                               "text": str, "tokens": int, "passes": int (of the model, to write them),
                               "server_timing": {"wait_ms", "infer_ms", "batch"}},
                              or a text message: what was wrong
and so on; one observation at a time, the answers come in order.

A policy server remembers nothing between observations: how many actions of a chunk are executed, and whether chunks are
averaged, is the client's business.
"""

import os

import numpy as np

from libs.errors import BadInput
from libs.files import read_text
from rv_eval.agent import AgentSettings

PROTOCOL = "vla0-policy/1"
FAILED = "the policy failed"  # so begins a refusal that the observation is not to blame for
KEY_VARIABLE = "VLA0_API_KEY"
HEALTH_PATH = "/healthz"

MIN_SIDE, MAX_SIDE = 8, 768  # of a picture, pixels
MAX_INSTRUCTION = 512  # bytes of UTF-8: no more tokens than that
MAX_PROPRIO = 256  # numbers of the robot's state
MAX_RANDOM_KEY = 16
MAX_DRAFT = 1024  # numbers; more are not needed to be fast

MAX_MORE = 2**19  # bytes of an observation that are not the pictures

OPENPI_VIEWS = {"observation/image": "agentview", "observation/wrist_image": "eye_in_hand"}
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
    "torch_compile": bool,
    "drafts": bool,
    "policy_versions": dict,
}


class PolicyLost(ConnectionError):
    """The policy server does not answer, and did not come back."""


class PolicyFailed(RuntimeError):
    """The policy behind the server raised what the observation is not to blame for: no memory, for instance."""


class PolicyChanged(BadInput):
    """The policy server came back with another policy."""


def message_limit(views) -> int:
    """Bytes of the largest observation that is taken."""
    return len(views) * 3 * MAX_SIDE**2 + MAX_MORE


def read_observation(message, views, proprio) -> dict:
    """An observation as `Policy.predict_detailed` takes it, of one of two forms:

    {"views": {name: (R, R, 3) uint8 upright}, "instruction": str} and maybe "random_key": list of ints, the seed of the
    sampling noise; "draft": list of ints, what the text will probably say, which never changes it; where the policy is
    given the robot's state also "proprio": {part: floats} or (P,) floats, the parts one after another;
    {"observation/image": (R, R, 3) uint8 upright, "observation/wrist_image": the same, "prompt": str}, what openpi's
    LIBERO client sends; image is agentview, wrist_image eye_in_hand, "observation/state" the (P,) floats.

    Other entries, pictures of other cameras, and other parts of the robot's state are ignored: clients send what their
    other policies need.

    views: cameras that the policy looks at. proprio: {part of the robot's state that it is given: numbers in it}.
    BadInput: a view or a part is missing, or something is not as above or beyond a limit.
    """
    if not isinstance(message, dict):
        raise BadInput(f"an observation is a map, this is a {type(message).__name__}")
    if "views" in message:
        pictures, instruction = message["views"], message.get("instruction")
        if not isinstance(pictures, dict):
            raise BadInput("views: a map of camera names to pictures")
        state = _checked_state(message["proprio"]) if "proprio" in message else None
    elif any(name in message for name in OPENPI_VIEWS):
        pictures = {view: message[name] for name, view in OPENPI_VIEWS.items() if name in message}
        instruction = message.get("prompt")
        state = _checked_state(message.get("observation/state")) if proprio else None
    else:
        raise BadInput(f'an observation has "views" or "observation/image", this has {_names(message)}')
    missing = [view for view in views if view not in pictures]
    if missing:
        raise BadInput(f"the observation has no view {missing[0]}; the policy looks at {', '.join(views)}")
    for view in views:
        _check_picture(pictures[view], view)
    _check_instruction(instruction)
    more = {"proprio": _chosen_state(state, proprio)} if proprio else {}
    if "random_key" in message:
        more["random_key"] = _ints(message["random_key"], "random_key", MAX_RANDOM_KEY)
    if "draft" in message:
        more["draft"] = _ints(message["draft"], "draft", MAX_DRAFT)
    return {"views": {view: pictures[view] for view in views}, "instruction": instruction, **more}


def _check_picture(picture, view):
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
        found = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise BadInput(f"view {view}: a picture is (R, R, 3) uint8, not {found}")
    height, width, channels = picture.shape
    if channels != 3 or height != width or not MIN_SIDE <= height <= MAX_SIDE:
        raise BadInput(
            f"view {view}: a picture is square, {MIN_SIDE} to {MAX_SIDE} pixels, with 3 colours, not {picture.shape}"
        )


def _check_instruction(text):
    if not isinstance(text, str) or not text.strip():
        raise BadInput("the instruction is missing, empty or not a string")
    if len(text.encode()) > MAX_INSTRUCTION:
        raise BadInput(f"the instruction has {len(text.encode())} bytes, at most {MAX_INSTRUCTION} are taken")
    # The tokenizer reads its own marks in any text; one that stands for a picture would move the pictures of the
    # other rows of the batch.
    if "<|" in text:
        raise BadInput('the instruction holds "<|", with which the marks of the model begin')


def _checked_state(given):
    """The robot's state as it came: an array of floats, or a map of such."""
    for values in given.values() if isinstance(given, dict) else [given]:
        fits = isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 1
        if not fits or len(values) > MAX_PROPRIO or not np.isfinite(values).all():
            raise BadInput(f"proprio: an array of at most {MAX_PROPRIO} finite floats, or a map of such arrays")
    return given


def _chosen_state(given, parts):
    """(P,) floats: the parts that a policy is given, in their order, one after another."""
    wanted = ", ".join(f"{name} ({size})" for name, size in parts.items())
    if given is None:
        raise BadInput(f"the observation has no proprio; the policy is given {wanted}")
    if isinstance(given, dict):
        wrong = [name for name, size in parts.items() if name not in given or len(given[name]) != size]
        if wrong:
            found = f"{len(given[wrong[0]])} numbers of" if wrong[0] in given else "no"
            raise BadInput(f"the observation's proprio has {found} {wrong[0]}; the policy is given {wanted}")
        return np.concatenate([given[name] for name in parts])
    if len(given) != sum(parts.values()):
        raise BadInput(f"the observation's proprio has {len(given)} numbers; the policy is given {wanted}")
    return given


def _ints(values, name, most):
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = values.tolist()
    fits = isinstance(values, list) and len(values) <= most
    if not fits or not all(type(number) is int and 0 <= number < 2**63 for number in values):
        raise BadInput(f"{name}: a list of at most {most} ints, none negative")
    return tuple(values)


def _names(message):
    return ", ".join(repr(str(name)[:30]) for name in list(message)[:8]) or "nothing"


def read_metadata(message) -> dict:
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
    AgentSettings.from_dict(message["preset"])
    return message


def read_answer(message, horizon: int, action_dim: int) -> dict:
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


def read_api_key(path=None) -> str | None:
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
