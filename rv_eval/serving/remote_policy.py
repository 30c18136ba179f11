"""A policy that answers somewhere else: `rv_eval.policy.Policy`'s methods, over `rv_eval.serving.protocol`."""

import socket
import struct
import time
from collections.abc import Callable

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import CloseCode
from websockets.sync.client import connect

from libs.action_form import Rotations
from libs.errors import BadInput
from rv_eval.agent import AgentSettings
from rv_eval.drafts import numbers_of
from rv_eval.policy import Policy, check_observation
from rv_eval.serving import wire
from rv_eval.serving.connection import abort
from rv_eval.serving.protocol import (
    FAILED,
    KEY_VARIABLE,
    MAX_DRAFT,
    MAX_PIXELS,
    MAX_REASON,
    METADATA,
    PolicyChanged,
    PolicyFailed,
    PolicyLost,
    authorization,
    read_answer,
    read_metadata,
)
from rv_train.policies.base import Prediction

PAUSE_S = 0.5  # between two attempts to reach the server
LOADING_S = 1800.0  # a model of many billions of numbers comes slowly from a slow disk
OPEN_TIMEOUT_S = 10.0
MAX_ANSWER = 2**20  # bytes

_LOST = (OSError, ConnectionClosed, InvalidHandshake)  # time-outs are OSErrors


class _Refused(ConnectionError):
    """The server, or what stands before it, takes no connection more, for now."""


class RemotePolicy:
    """The policy of the server at `url`, "ws://host:port".

    Every observation of a batch has its own connection, so the server can compute them together; where it takes no more
    connections (--max_clients) those that are left go round.
    timeout_s: for one answer. reconnect_s: how long a server that was there before is given to come back; the
    observation is sent again then, which changes nothing: the server remembers nothing. A server that still loads its
    model is waited for, as long as it lives, up to half an hour; one whose port is not open yet for wait_s, and report
    takes a line that says so. No proxy is ever used, whatever the environment says.
    BadInput: no such address, a wrong key, or not a policy server of this repository. PolicyLost: nobody there.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        reconnect_s: float = 60.0,
        wait_s: float = 0.0,
        report: Callable[[str], None] | None = None,
    ) -> None:
        if not url.startswith(("ws://", "wss://")):
            raise BadInput(f"the address of a policy server is ws://host:port, got {url!r}")
        self.url, self.timeout_s, self.reconnect_s = url, timeout_s, reconnect_s
        self.reconnects = 0
        self._headers = {"Authorization": authorization(api_key)} if api_key else None
        self._connections = []
        self._metadata: dict = {}  # of the first connection
        try:
            self._connections.append(self._await_server(wait_s, report))
        except _LOST as error:
            raise PolicyLost(f"no policy server answers at {url}: {_reason(error)}") from error
        self.horizon, self.action_dim = self._metadata["horizon"], self._metadata["action_dim"]
        self.views = tuple(self._metadata["views"])
        self.folder = url
        self.render, self.resolution = self._metadata["render"], self._metadata["resolution"]
        self.proprio = self._metadata["proprio"]
        self.pictures = self._metadata.get("pictures")
        self.rotations = Rotations.from_dict(self._metadata.get("rotations"), self.action_dim)
        self.takes_prefix = self._metadata.get("takes_prefix") is True  # servers of earlier versions do not say
        self.preset = AgentSettings.from_dict(self._metadata["preset"])
        self.batch_rows = self._metadata["batch_rows"]

    check_environment = Policy.check_environment  # the same rule in the same words

    def describe(self) -> dict:
        """What the server says its answers depend on, and "policy_server", its address."""
        more = {"pictures": self.pictures, "rotations": self.rotations.as_dict()}
        told = {name: self._metadata[name] for name in METADATA} | {name: one for name, one in more.items() if one}
        return told | {"policy_server": self.url}

    def predict(self, observations: list[dict]) -> np.ndarray:
        """B observations -> (B, H, A) float32, see Policy.predict. Raises like `predict_detailed`."""
        return self.predict_detailed(observations).chunk

    def predict_detailed(self, observations: list[dict]) -> Prediction:
        """BadInput: the server refuses an observation. PolicyLost, PolicyFailed, PolicyChanged: see there."""
        messages = [self._pack(observation) for observation in observations]
        answers = []
        for start in range(0, len(messages), self.batch_rows):
            answers += self._ask(messages[start : start + self.batch_rows])
        return Prediction(
            chunk=np.stack([answer["actions"] for answer in answers]),
            valid=np.array([answer["valid"] for answer in answers]),
            repaired=np.array([answer["repaired"] for answer in answers]),
            texts=[answer["text"] for answer in answers],
            tokens=np.array([answer["tokens"] for answer in answers]),
            passes=np.array([answer["passes"] for answer in answers]),
            numbers=[numbers_of(answer["text"]) for answer in answers],
        )

    def close(self) -> None:
        """Hang up. The next observation connects again."""
        for connection in self._connections:
            connection.close()
        self._connections = []

    def _pack(self, observation):
        check_observation(observation)
        given = observation["views"]
        if missing := [view for view in self.views if view not in given]:
            raise BadInput(
                f"the observation has no view {missing[0]}, only {', '.join(map(str, given)) or 'none'}; the policy of "
                f"{self.url} looks at {', '.join(self.views)}"
            )
        views = {view: given[view] for view in self.views}
        message = {"views": views, "instruction": observation["instruction"]}
        if self.proprio and observation.get("proprio") is not None:
            message["proprio"] = self._state(observation["proprio"])
        if "random_key" in observation:
            message["random_key"] = [int(number) for number in observation["random_key"]]
        if self._metadata["drafts"] and "draft" in observation:
            message["draft"] = [int(number) for number in observation["draft"][:MAX_DRAFT]]
        if np.size(prefix := observation.get("prefix", ())):
            if not self.takes_prefix:  # it would be ignored
                raise BadInput(f"the policy server {self.url} takes no prefix")
            message["prefix"] = np.asarray(prefix, np.float64)
        return wire.pack(message)

    def _state(self, given):
        """What the policy is given of the robot's state; what is missing or wrong the server says."""
        if isinstance(given, dict):
            return {name: np.asarray(given[name], np.float64) for name in self.proprio if name in given}
        return np.asarray(given, np.float64)

    def _ask(self, messages):
        """All sent, then all awaited; again where the server was lost, until it is gone for too long."""
        answers, lost_at = {}, None
        while len(answers) < len(messages):
            try:
                self._exchange(messages, answers)
            except _LOST as error:
                self._hang_up()
                _refuse_if_too_large(error)
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at >= self.reconnect_s:
                    raise PolicyLost(
                        f"the policy server {self.url} is lost, and did not come back within {self.reconnect_s:g} s: "
                        f"{_reason(error)}"
                    ) from error
                self.reconnects += 1
                time.sleep(min(PAUSE_S, self.reconnect_s))
            except BaseException:
                self._hang_up()  # else the answers that still come would be taken for those of the next observations
                raise
        return [answers[place] for place in range(len(messages))]

    def _exchange(self, messages, answers):
        todo = [place for place in range(len(messages)) if place not in answers]
        while len(self._connections) < len(todo):
            try:
                self._connections.append(self._connect())
            except _Refused:
                if not self._connections:
                    raise
                break  # the others are asked when these have answered
        asked = list(zip(self._connections, todo, strict=False))
        for connection, place in asked:
            connection.send(messages[place])
        for connection, place in asked:
            answer = connection.recv(self.timeout_s)
            if isinstance(answer, str) and answer.startswith(FAILED):
                raise PolicyFailed(f"the policy server {self.url}: {answer}")
            if isinstance(answer, str):
                raise BadInput(f"the policy server refuses an observation: {answer}")
            answers[place] = read_answer(wire.unpack(answer), self.horizon, self.action_dim)

    def _await_server(self, wait_s, report):
        """The first connection. Only a port that is not open is waited for: a wrong address stays wrong."""
        asked = time.monotonic()
        while True:
            try:
                return self._connect()
            except ConnectionRefusedError:
                if time.monotonic() - asked >= wait_s:
                    raise
                if report:
                    report(f"no policy server answers at {self.url} yet: waiting up to {wait_s:g} s")
                    report = None
                time.sleep(min(PAUSE_S, wait_s))

    def _connect(self):
        """A connection whose metadata is read and the same as ever."""
        try:
            connection = connect(
                self.url,
                additional_headers=self._headers,
                compression=None,
                proxy=None,  # the server stands in the same network
                open_timeout=min(OPEN_TIMEOUT_S, self.timeout_s),
                ping_interval=None,  # every answer has a time limit anyway
                close_timeout=1,
                max_size=MAX_ANSWER,
                legacy=True,  # gives the connection itself, to be kept
            )
        except InvalidURI as error:
            raise BadInput(f"the address of a policy server is ws://host:port, got {self.url!r}") from error
        except InvalidStatus as error:
            status = error.response.status_code
            if status == 401:
                wanted = "another API key" if self._headers else "an API key"
                raise BadInput(
                    f"the policy server {self.url} wants {wanted}: set {KEY_VARIABLE} or give --api_key_file"
                ) from error
            if status < 500:
                raise BadInput(f"{self.url} is no policy server: it answers HTTP {status}") from error
            said = (error.response.body or b"").decode(errors="replace").strip().partition("\n")[0][:MAX_REASON]
            raise _Refused(f"it answers HTTP {status}{said and ', '}{said}") from error
        try:
            self._check(self._greeting(connection))
            # A server that stands still must not block us while we send.
            limit = struct.pack("ll", int(self.timeout_s), int(self.timeout_s % 1 * 1e6))
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        except BaseException:
            abort(connection)
            raise
        return connection

    def _greeting(self, connection):
        """The first message. It comes once the model is loaded; until then a server that lives answers pings."""
        deadline = time.monotonic() + LOADING_S
        while True:
            try:
                return connection.recv(self.timeout_s)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it still loads its model after {LOADING_S:g} s") from None
                if not connection.ping().wait(self.timeout_s):
                    raise

    def _check(self, message):
        try:
            found = read_metadata(message if isinstance(message, str) else wire.unpack(message))
        except BadInput as error:
            raise BadInput(f"{self.url}: {error}") from None
        if not self._metadata:
            self._metadata = found
        before = self._metadata
        # The place of the model, drafts and which of the GPUs it is are nothing that an answer depends on.
        depends = [name for name in METADATA if name not in ("model_folder", "drafts")]
        changed = [name for name in depends if _kind(name, found[name]) != _kind(name, before[name])]
        if changed:
            raise PolicyChanged(
                f"the policy server {self.url} came back with another policy: "
                + ", ".join(f"{name} was {before[name]}, is {found[name]}" for name in changed)
            )

    def _hang_up(self):
        for connection in self._connections:
            abort(connection)
        self._connections = []


def _kind(name, value):
    """What of a value of the metadata is to stay the same: of "cuda:1" the "cuda"."""
    return value.partition(":")[0] if name == "device" else value


def _refuse_if_too_large(error):
    if isinstance(error, ConnectionClosed) and error.rcvd and error.rcvd.code == CloseCode.MESSAGE_TOO_BIG:
        raise BadInput(
            f"the policy server does not take observations so large: {error.rcvd.reason}; a picture has at most "
            f"{MAX_PIXELS:,} pixels, such as 1280 x 720"
        ) from error


def _reason(error):
    return str(error) or type(error).__name__
