"""The clients of vla-eval, the evaluation harness of the Allen Institute (0.8.0): what they say, and the answers.

A message is a map {"type", "payload", "seq", "timestamp"}; arrays have strings as keys (`wire.Form.TEXT_KEYS`),
pictures are files (`rv_eval.serving.pictures`). Over one websocket:
    client    hello, and the server answers hello: who it is, which observations it wants, what its actions mean. At any
              other path than PATH it has said so before, see `hello`
    client    episode_start {"task": {...}}; no answer
    client    observation {"images": {camera: (R, R, 3) uint8 upright}, "task_description": str, "states" or "state"};
              the server answers action {"actions": (A,) float32} with the same seq: one action for each observation
    client    episode_end; no answer
What is wrong is answered with error {"error": str}, which fails the client's episode and not its session.

So here the server does what is otherwise the client's: it keeps a chunk and gives out its actions one by one.
"""

import json
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from libs.errors import BadInput
from rv_eval.agent import AgentSettings, Answering, ChunkAgent
from rv_eval.drafts import numbers_of
from rv_eval.envs.base import PANDA_ACTIONS, ActionPart
from rv_eval.serving import wire
from rv_eval.serving.observation import read_observation
from rv_eval.serving.protocol import MAX_REASON, PolicyError, at_hand

PATH, HEALTH_PATH = "/vla-eval", "/health"
HARNESS_VERSION, PROTOCOL_VERSION = "0.8.0", 1  # that this was written after
MAX_SEQ = 2**53

ENTRIES = ("type", "payload", "seq", "timestamp")
# LIBERO, for which alone it is known what a policy's numbers mean: of its cameras, and with a gripper that was always
# -1 or +1 in training.
LIBERO_VIEWS, LIBERO_ACTIONS, LIBERO_STATE = ("agentview", "eye_in_hand"), 7, 8
_ACTION_SPEC = {
    "position": {"name": "position", "dims": 3, "format": "delta_xyz", "range": [-1, 1]},
    "rotation": {"name": "rotation", "dims": 3, "format": "axis_angle", "range": [-3.15, 3.15]},
    "gripper": {"name": "gripper", "dims": 1, "format": "binary_close_positive", "range": [-1, 1]},
}
_PICTURE_SPEC = {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"}
_LANGUAGE_SPEC = {"name": "language", "dims": 0, "format": "language"}
_STATE_SPEC = {"name": "state", "dims": LIBERO_STATE, "format": "eef_pos3_axisangle3_gripper2"}


def is_frame(message: Any) -> bool:
    """Whether a message is one of this protocol."""
    return isinstance(message, dict) and all(name in message for name in ENTRIES)


class About(Answering, Protocol):
    """binary_gripper: the last number of an action was always -1 or +1 in the policy's training."""

    binary_gripper: bool


def hello(about: About, seq: int = 1) -> dict:
    """The frame that tells a client about the policy (`views`, `proprio`, `action_dim`, `binary_gripper`). seq:
    its hello's; the harness numbers from 1."""
    wants = {"send_wrist_image": any(at_hand(view) for view in about.views), "send_state": bool(about.proprio)}
    payload = {"harness_version": HARNESS_VERSION, "protocol_version": PROTOCOL_VERSION, "model_server": "vla0"}
    payload |= {"capabilities": {}, "observation_params": wants}
    if _has_panda_gripper(about) and set(about.views) <= set(LIBERO_VIEWS):
        names = {"agentview": "agentview", "eye_in_hand": "wrist"}
        sees = {names[view]: _PICTURE_SPEC for view in about.views} | {"language": _LANGUAGE_SPEC}
        sees |= {"state": _STATE_SPEC} if about.proprio else {}
        payload |= {"action_spec": _ACTION_SPEC, "observation_spec": sees}
    return _frame("hello", payload, seq)


class Session:
    """One client's connection: its episode, and what is left of the chunk.

    about: of the policy, `views`, `proprio`, `horizon`, `action_dim` and `binary_gripper`: of seven numbers the last is
    then snapped to -1 or +1, after averaging; any other action is given out as it is.
    settings: how its chunks are executed.
    ask: observation -> what the policy answers, see `Batcher.ask`; what it raises fails the episode only.
    greeted: the client has said hello. answered: the server has, before the client did.
    """

    def __init__(self, about: About, settings: AgentSettings, ask: Callable[[dict], Awaitable[dict]]) -> None:
        self._about, self._ask = about, ask
        parts = PANDA_ACTIONS if _has_panda_gripper(about) else [ActionPart("action", about.action_dim)]
        self._agent = ChunkAgent(about.horizon, settings, parts, about.rotations)
        self.greeted = self.answered = False
        self._begin({})

    async def answer(self, frame: dict) -> tuple[bytes | None, bool]:
        """(what is sent back, None: nothing; whether the frame was refused)."""
        seq = frame["seq"] if type(frame["seq"]) is int and 0 <= frame["seq"] <= MAX_SEQ else 0
        try:
            kind, payload = frame["type"], frame["payload"]
            if not isinstance(kind, str):
                raise BadInput(f"the type of a message is a string, this is a {type(kind).__name__}")
            if not isinstance(payload, dict):
                raise BadInput(f"the payload is a map, this is a {type(payload).__name__}")
            if kind == "hello":
                told, self.greeted, self.answered = self.answered, True, False
                return None if told else _packed(hello(self._about, seq)), False
            if kind == "observation":
                return _packed(_frame("action", {"actions": await self._act(payload)}, seq)), False
            if kind == "episode_start":
                self._begin(payload)
            elif kind not in ("episode_end", "error"):
                raise BadInput(f"no message of type {kind[:20]!r} is taken")
            return None, False
        except (BadInput, PolicyError) as error:
            return self.refusal(str(error), seq), True

    def refusal(self, reason: str, seq: int = 0) -> bytes:
        """What is sent back for a message that cannot be taken."""
        return _packed(_frame("error", {"error": reason[:MAX_REASON]}, seq))

    def _begin(self, payload):
        self._agent.reset()
        self._queries = 0
        task = payload.get("task")
        known = task if isinstance(task, dict) else {}
        names = {name: value for name, value in known.items() if type(value) in (str, int)}
        self._episode = zlib.crc32(json.dumps(names, sort_keys=True).encode())

    async def _act(self, payload):
        """(A,) float32, the next action of the chunk; asks for another where there is none left."""
        if self._agent.needs_observation:
            observation = self._observation(payload)
            answer = await self._ask(observation)
            self._queries += 1
            chunk = answer["actions"]
            self._agent.add_chunk(chunk, numbers_of(answer["text"]))
        return self._agent.next_action().astype(np.float32)

    def _observation(self, payload):
        views, proprio = tuple(self._about.views), self._about.proprio
        own = {"views": _pictures(payload.get("images"), views), "instruction": payload.get("task_description")}
        if proprio:
            state = payload.get("states", payload.get("state"))
            own["proprio"] = _libero_parts(state, proprio) or state
        observation = read_observation(own, views, proprio)
        # What is drawn depends on the episode and the query, so an evaluation can be repeated.
        return observation | {"random_key": (self._episode, self._queries)} | self._agent.told()


def _has_panda_gripper(about):
    """Seven numbers alone say nothing: seven joints have as many, and other grippers go from 0 to 1."""
    return about.action_dim == LIBERO_ACTIONS and about.binary_gripper


def _frame(kind: str, payload: Any, seq: int) -> dict:
    return dict(zip(ENTRIES, (kind, payload, seq, time.time()), strict=True))


def _packed(frame: dict) -> bytes:
    return wire.pack(frame, wire.Form.TEXT_KEYS)


def _pictures(images: Any, views: Sequence[str]) -> dict:
    """{camera of the policy: picture}: a camera by its own name; else the first camera at a hand is the first picture
    whose name says so, the first other camera the first other picture."""
    if not isinstance(images, dict):
        raise BadInput(f"images: a map of camera names to pictures, not a {type(images).__name__}")
    found = {view: images[view] for view in views if view in images}
    for hand in (False, True):
        here = [view for view in views if at_hand(view) == hand]
        there = [name for name in images if at_hand(name) == hand]
        if here and there and here[0] not in found:
            found[here[0]] = images[there[0]]
    missing = [view for view in views if view not in found]
    if missing:
        raise BadInput(f"no picture for view {missing[0]} among {', '.join(map(str, list(images)[:8])) or 'none'}")
    return found


def _libero_parts(state: Any, proprio: Mapping[str, int]) -> dict | None:
    """LIBERO's state in this harness, position 3, axis-angle 3, gripper 2, as the parts of LIBERO's own files that a
    policy is given; None where it is given others, or the state is another."""
    if not isinstance(state, np.ndarray) or state.dtype.kind != "f" or state.shape != (LIBERO_STATE,):
        return None
    position, turn, gripper = state[:3], state[3:6], state[6:]
    angle = np.linalg.norm(turn)
    axis = turn / angle if angle > 0 else turn
    quaternion = np.append(axis * np.sin(angle / 2), np.cos(angle / 2))  # xyzw; the sign survives, as angles to 2 pi do
    parts = {
        "robot_states": np.concatenate([gripper, position, quaternion]),
        "ee_states": state[:6],
        "ee_pos": position,
        "ee_ori": turn,
        "gripper_states": gripper,
    }
    fits = all(name in parts and len(parts[name]) == size for name, size in proprio.items())
    return {name: parts[name] for name in proprio} if fits else None
