"""What an environment in a program of its own and an evaluation say to each other, and what is taken of it.

Over one websocket, every message as `wire.Form.TEXT_KEYS`; docs/examples/serve_env.py is the other end:
    environment, once connected  {"protocol": PROTOCOL, "expert": bool} and what `serve_env.Box.describe` explains
    here  {"do": "make", "suite", "task_id", "resolution", "render"}        environment  {"done": true}
    here  {"do": "begin", "init_state", "seed", "settle", "views": [name]}  environment  an observation
    here  {"do": "act", "action": (A,) float64, "views": [name]}            environment  an observation
    here  {"do": "expert"}                                                  environment  {"action": (A,) floats}
An observation is {"views": {name: (R, R, 3) uint8, upright, of those that were asked for}, "proprio": {part: (n,)
floats}, "success": bool, "facts": {name: JSON}}. Requests may be queued, answers come in their order. Instead of any
answer {"error": text, "kind"} may come: "request", which was wrong; "start", there can be no such simulation; "failed",
the simulation broke. One connection is one simulation, which ends with it.
"""

import json
import math
import re
from dataclasses import dataclass

import numpy as np

from libs.errors import BadInput
from rv_eval.envs.base import ActionPart, CannotStart, Description, Reply, WorkerFailure
from rv_eval.serving import wire

PROTOCOL = "vla0-env/1"
MAX_BYTES = 32 * 2**20  # of an answer: eight pictures of 1024 pixels and more
MAX_FACTS = 4096  # bytes of them as JSON
MAX_INSTRUCTION = 512  # bytes of UTF-8, as a served policy takes it
KINDS = ("request", "start", "failed")

_NAME = re.compile(r"\w[\w.-]{0,79}")  # goes into file names, tables and key maps


@dataclass(frozen=True)
class RemoteTask:
    """A task as an environment tells it: see `rv_eval.envs.base.Task`."""

    suite: str
    task_id: int
    name: str
    instruction: str
    max_steps: int
    num_init_states: int


@dataclass(frozen=True)
class Greeting:
    """What an environment says of itself. versions: of the packages that physics and pictures depend on. drawn_by: what
    a result keeps of how pictures are drawn. expert: it has somebody who knows how."""

    description: Description
    tasks: tuple[RemoteTask, ...]
    versions: dict[str, str]
    drawn_by: dict[str, str]
    expert: bool


def unpack(data: bytes | str) -> dict:
    """BadInput: not a message of this wire."""
    if isinstance(data, str):
        raise BadInput("it answers text, not messages")
    message = wire.unpack(data, MAX_BYTES)
    if not isinstance(message, dict):
        raise BadInput(f"it answers a {type(message).__name__}, not a map")
    return message


def read_greeting(message: dict) -> Greeting:
    """BadInput: not the greeting of an environment server, and what is wrong with it."""
    if not _is(message.get("protocol"), (PROTOCOL,)):
        found = str(message.get("protocol"))[:40]
        raise BadInput(f"it does not say protocol {PROTOCOL!r} but {found!r}: not an environment of this version")
    actions = tuple(_action_part(part) for part in _list(message, "actions", 100))
    tasks = tuple(_task(task) for task in _list(message, "tasks", 1000))
    if len({(task.suite, task.task_id) for task in tasks}) < len(tasks):
        raise BadInput("two of its tasks have the same suite and task_id")
    reported = message.get("reported_render")
    description = Description(
        name=_text(message, "name", _NAME),
        benchmark=_text(message, "benchmark"),
        views=_distinct([_fits(view, _NAME, "a view") for view in _list(message, "views", 16)], "views"),
        proprio={part: _in(size, 1, 1000, part) for part, size in _names(message, "proprio").items()},
        actions=actions,
        control_hz=float(_in(message.get("control_hz"), 1e-3, 1e5, "control_hz", (int, float))),
        num_settle_steps=_in(message.get("num_settle_steps"), 0, 10_000, "num_settle_steps"),
        reported_render=None if reported is None else _text(message, "reported_render", _NAME),
    )
    _distinct([part.name for part in actions], "actions")
    if type(message.get("expert")) is not bool:
        raise BadInput("its expert is not true or false")
    texts = {name: _names(message, name, str) for name in ("versions", "drawn_by")}
    return Greeting(description, tasks, expert=message["expert"], **texts)


def read_error(message: dict) -> None:
    """Raises what an error stands for: BadInput a wrong request, CannotStart no such simulation, WorkerFailure one that
    broke. Nothing where the message is none."""
    if "error" not in message:
        return
    text = str(message["error"])[:500]
    if not _is(message.get("kind"), KINDS):
        raise BadInput(f"its error has no kind of {', '.join(KINDS)}: {text}")
    if message["kind"] == "request":
        raise BadInput(f"the environment refuses a request: {text}")
    raise (CannotStart if message["kind"] == "start" else WorkerFailure)(text)


def read_reply(message: dict, about: Description, instruction: str, views: tuple[str, ...], resolution: int) -> Reply:
    """BadInput: not the observation that was asked for. WorkerFailure: numbers that are not finite."""
    read_error(message)
    pictures = message.get("views")
    if not isinstance(pictures, dict) or set(pictures) != set(views):
        raise BadInput(f"its observation has not the views {', '.join(views) or '(none)'}")
    for view, picture in pictures.items():
        wanted = (resolution, resolution, 3)
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape != wanted:
            raise BadInput(f"its view {view} is not uint8 {wanted} but {_found(picture)}")
    proprio = message.get("proprio")
    if not isinstance(proprio, dict) or set(proprio) != set(about.proprio):
        raise BadInput(f"its observation has not the proprio {', '.join(about.proprio) or '(none)'}")
    proprio = {part: _floats(proprio[part], size, part) for part, size in about.proprio.items()}
    if type(message.get("success")) is not bool:
        raise BadInput("the success of its observation is not true or false")
    observation = {"views": {view: pictures[view] for view in views}, "instruction": instruction, "proprio": proprio}
    return Reply(observation, message["success"], _facts(message.get("facts")))


def read_action(message: dict, about: Description) -> np.ndarray:
    """The expert's action (A,) float64. BadInput: it is none. WorkerFailure: it is not finite."""
    read_error(message)
    return _floats(message.get("action"), about.action_dim, "action")


def _is(found, texts):
    """Whether it is one of these; an array is equal to nothing, and fails where it is compared."""
    return type(found) is str and found in texts


def _facts(facts):
    try:
        if isinstance(facts, dict) and len(json.dumps(facts, allow_nan=False)) <= MAX_FACTS:
            return facts
    except (TypeError, ValueError):
        pass
    raise BadInput(f"the facts of its observation are not at most {MAX_FACTS} bytes of JSON")


def _floats(values, size, name):
    if not isinstance(values, np.ndarray) or values.shape != (size,) or values.dtype.kind not in "fiu":
        raise BadInput(f"its {name} is not {size} numbers but {_found(values)}")
    if not np.isfinite(values).all():
        raise WorkerFailure(f"{name} is not finite any more")
    return values.astype(np.float64)


def _task(task):
    if not isinstance(task, dict):
        raise BadInput(f"one of its tasks is a {type(task).__name__}, not a map")
    instruction = _text(task, "instruction")
    if len(instruction.encode()) > MAX_INSTRUCTION:
        raise BadInput(f"the instruction of one of its tasks has more than {MAX_INSTRUCTION} bytes")
    numbers = {"task_id": 0, "max_steps": 1, "num_init_states": 1}
    numbers = {name: _in(task.get(name), low, 2**31 - 1, name) for name, low in numbers.items()}
    return RemoteTask(_text(task, "suite", _NAME), name=_text(task, "name", _NAME), instruction=instruction, **numbers)


def _action_part(part):
    if not isinstance(part, dict):
        raise BadInput(f"one of its actions is a {type(part).__name__}, not a map")
    levels = part.get("levels")
    if levels is not None:
        whole = isinstance(levels, list) and len(levels) == 2 and all(type(n) in (int, float) for n in levels)
        if not whole or not all(map(math.isfinite, levels)) or not levels[0] < levels[1]:
            raise BadInput(f"the levels of one of its actions are not [low, high] but {str(levels)[:40]}")
        levels = float(levels[0]), float(levels[1])
    return ActionPart(_text(part, "name", _NAME), _in(part.get("size"), 1, 1000, "size"), levels)


def _list(message, name, most):
    found = message.get(name)
    if not isinstance(found, list) or not 1 <= len(found) <= most:
        raise BadInput(f"its {name} are not a list of 1 to {most}")
    return found


def _names(message, name, kind=None):
    """A map whose keys are names; kind: of its values."""
    found = message.get(name)
    if not isinstance(found, dict) or not all(kind is None or type(value) is kind for value in found.values()):
        raise BadInput(f"its {name} is not a map of names{' to texts' if kind else ''}")
    for key in found:
        _fits(key, _NAME, f"a name in {name}")
    return found


def _text(message, name, pattern=None):
    text = message.get(name)
    if type(text) is not str or not text.strip() or len(text) > 1000:
        raise BadInput(f"its {name} is not a text but {str(text)[:40]!r}")
    return text if pattern is None else _fits(text, pattern, name)


def _fits(text, pattern, what):
    if type(text) is not str or not pattern.fullmatch(text):
        raise BadInput(f"{what} is letters, digits, '_', '-' and '.', not {str(text)[:40]!r}")
    return text


def _in(number, low, high, name, kinds=(int,)):
    if type(number) not in kinds or not low <= number <= high:
        raise BadInput(f"its {name} is not a number from {low:g} to {high:g} but {str(number)[:40]}")
    return number


def _distinct(names, what):
    if len(set(names)) < len(names):
        raise BadInput(f"two of its {what} have the same name")
    return tuple(names)


def _found(value):
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
