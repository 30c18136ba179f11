"""The policy server: a policy behind a websocket, for many clients at once. What is said: `rv_eval.serving.protocol`.

One thread talks, one thread computes: while the policy is loaded or works on a batch, pings and /healthz are answered.

Who speaks first? openpi's clients wait for the metadata, vla-eval's say hello and wait for one; both come to the path
"/" and look alike. So the metadata is a hello, too, and theirs has its answer already.

Who is there? A client that computes for an hour answers no ping, so none is demanded: only the idle time ends its
session. Whether its machine is still there the network knows: a heartbeat that the client's system does not acknowledge
within `dead_s` ends it, too.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from libs.errors import BadInput
from rv_eval.agent import AgentSettings, Answering
from rv_eval.serving import vla_eval, wire
from rv_eval.serving.batcher import Batcher
from rv_eval.serving.connection import GuardedConnection, unless_gone
from rv_eval.serving.observation import read_observation
from rv_eval.serving.protocol import (
    HEALTH_PATH,
    MAX_REASON,
    PROTOCOL,
    PolicyError,
    authorization,
    message_limit,
    openpi_keys,
)

if TYPE_CHECKING:
    from rv_eval.serving.vla_eval import Session


NEWCOMERS = 64  # connections beyond max_clients whose handshake is not done yet
SEND_TIMEOUT_S = 20.0
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 3.0
PENALTY_S = 0.05  # after a refused message, so that a flood of them leaves time for the others

_log = logging.getLogger(__name__)  # what the library says about broken clients: nobody's concern
_log.addHandler(logging.NullHandler())
_log.propagate = False


@dataclass(frozen=True)
class ServerLimits:
    """max_clients: connected at a time, more get HTTP 503. batch_wait_s: how long an observation waits for others to
    share its batch. idle_s: a client that says nothing for so long is sent away. heartbeat_s: between two signs of life
    of the server, which proxies and address translators want to see. dead_s: a client whose system acknowledges nothing
    for so long is gone."""

    max_clients: int = 64
    batch_wait_s: float = 0.005
    idle_s: float = 3600.0
    heartbeat_s: float = 20.0
    dead_s: float = 120.0

    def __post_init__(self) -> None:
        if self.max_clients < 1:
            raise BadInput(f"the number of clients must be at least 1, got {self.max_clients}")
        if not 0 <= self.batch_wait_s <= 1:
            raise BadInput(f"a batch waits 0 to 1 s for more observations, got {self.batch_wait_s}")
        if not self.idle_s > 0:
            raise BadInput(f"the idle time must be positive, got {self.idle_s}")
        if not (self.heartbeat_s > 0 and 0.001 <= self.dead_s <= 86400):
            raise BadInput(
                "the heartbeat's interval must be positive and the dead time 0.001 s to a day, "
                f"got {self.heartbeat_s} and {self.dead_s}"
            )


class PolicyServer:
    """Serves `policy` (predict_detailed, describe, views, proprio, horizon, action_dim, batch_rows, takes_prefix)
    until `close`.

    policy: None: `load` will bring one; who comes before waits for the metadata, and /healthz says "loading".
    api_key: clients must send it. report: takes a line whenever the policy itself fails.
    executed: preset → how chunks are executed for vla-eval's clients, who get single actions; None: as the preset says.
    """

    def __init__(
        self,
        policy: vla_eval.About | None = None,
        limits: ServerLimits | None = None,
        api_key: str | None = None,
        report: Callable[[str], None] | None = None,
        executed: Callable[[AgentSettings], AgentSettings] | None = None,
    ) -> None:
        self.limits = limits or ServerLimits()
        self.clients = self.requests = self.errors = 0
        self._wanted = authorization(api_key).encode() if api_key else None
        self._max_bytes = wire.MAX_BYTES  # until the policy's cameras are known
        self._started = time.monotonic()
        self._batcher = Batcher(self.limits.batch_wait_s, lambda: self.clients, report or _to_stderr)
        self._ready = asyncio.Event()
        self._executed = executed or (lambda preset: preset)
        self._policy = policy
        self._about: dict = {} if policy is None else policy.describe()

    async def start(self, taken: socket.socket) -> str:
        """Answer at this socket, see `take_port`; returns the address, "ws://host:port"."""
        self._listener = await self._listen(taken)
        if self._policy is not None:
            self._begin()
        host, port = taken.getsockname()[:2]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    async def load(self, load: Callable[[], Answering]) -> Answering:
        """Serve what `load()` returns from now on; it is called in the policy's thread. Raises what it raises."""

        def load_and_describe():  # which reads all weights to hash them
            policy = load()
            return policy, policy.describe()

        policy, self._about = await self._batcher.load(load_and_describe)
        self._policy = policy
        self._begin()
        return policy

    def _begin(self):
        assert self._policy is not None, "what begins has one"
        self._views, self._proprio = tuple(self._policy.views), self._policy.proprio
        self._max_bytes = message_limit(self._views)
        keys = {"observation_keys": openpi_keys(self._views, self._proprio), "takes_prefix": self._policy.takes_prefix}
        hello = vla_eval.hello(self._policy)
        self._metadata = wire.pack({"protocol": PROTOCOL, **self._about, **keys, **hello})
        self._settings = self._executed(AgentSettings.from_dict(self._about["preset"])).resolve(self._policy.horizon)
        self._batcher.start(self._policy)
        self._ready.set()

    async def _listen(self, taken):
        return await listen(
            self._serve_client,
            sock=taken,
            process_request=self._before_handshake,
            create_connection=self._new_connection,  # type: ignore[arg-type]  # it is only called
            origins=[None],  # a page in the user's browser must not reach a server on 127.0.0.1
            compression=None,
            max_queue=1,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=None,  # see the module's docstring
            close_timeout=CLOSE_TIMEOUT_S,
            server_header=None,
            logger=_log,
        )

    def _new_connection(self, *args, **kwargs):
        most = self.limits.max_clients + NEWCOMERS
        connection = GuardedConnection(*args, most=most, dead_s=self.limits.dead_s, **kwargs)
        connection.protocol.max_message_size = self._max_bytes
        return connection

    @property
    def needs_key(self) -> bool:
        return self._wanted is not None

    async def close(self, patience_s: float = 5.0, reason: str = "") -> bool:
        """Say goodbye to everyone. False: the policy is still loading, or busy after `patience_s`; its thread cannot be
        ended."""
        self._listener.close(reason=reason)
        await self._listener.wait_closed()
        return await self._batcher.close(patience_s)

    def _before_handshake(self, connection, request):
        """An HTTP answer instead of a websocket, or None."""
        path = _path(request)
        if path in (HEALTH_PATH, vla_eval.HEALTH_PATH):
            loading = path == vla_eval.HEALTH_PATH and not self._ready.is_set()
            status = HTTPStatus.SERVICE_UNAVAILABLE if loading else HTTPStatus.OK
            response = connection.respond(status, json.dumps(self._health()) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        if self._wanted is not None:
            sent = request.headers.get_all("Authorization")
            known = len(sent) == 1 and hmac.compare_digest(sent[0].encode(errors="surrogateescape"), self._wanted)
            if not known:
                return connection.respond(HTTPStatus.UNAUTHORIZED, "this server wants an API key\n")
        if self.clients >= self.limits.max_clients:
            full = f"{self.clients} clients are connected already: tools/serve_policy.py --max_clients takes more\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, full)
        return None

    def _health(self):
        return {
            "status": "ok" if self._ready.is_set() else "loading",
            "uptime_s": round(time.monotonic() - self._started, 1),
            "clients": self.clients,
            "requests": self.requests,
            "errors": self.errors,
        }

    async def _serve_client(self, connection):
        self.clients += 1
        heartbeat = asyncio.create_task(self._heartbeat(connection))
        try:
            if not await unless_gone(connection, self._ready.wait()):
                return
            connection.protocol.max_message_size = self._max_bytes  # it may have come before this was known
            assert self._policy is not None, "what is ready has one"
            session = vla_eval.Session(self._policy, self._settings, self._batcher.ask)
            if _path(connection.request) != vla_eval.PATH:
                await self._send(connection, self._metadata)
                session.answered = True
            while True:
                try:
                    async with asyncio.timeout(self.limits.idle_s):
                        message = await connection.recv()
                except TimeoutError:
                    await connection.close(CloseCode.GOING_AWAY, f"nothing said for {self.limits.idle_s:g} s")
                    return
                self.requests += 1
                answer, refused = await self._answer(message, connection, session)
                if answer is not None:
                    await self._send(connection, answer)
                if refused:
                    self.errors += 1
                    await asyncio.sleep(PENALTY_S)
        except ConnectionClosed:
            pass
        except TimeoutError:  # it does not read its answers
            connection.transport.abort()
        finally:
            heartbeat.cancel()
            self.clients -= 1

    async def _heartbeat(self, connection):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(self.limits.heartbeat_s)
                await connection.pong()

    async def _send(self, connection, message):
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await connection.send(message)

    async def _answer(
        self, message: Any, connection: GuardedConnection, session: "Session"
    ) -> tuple[bytes | str | None, bool]:
        """(the answer to one message, or what is wrong, None: it wants none; whether it was refused)."""
        if isinstance(message, str):
            return "a text message: observations are binary msgpack", True
        try:
            received, form = wire.unpack_form(message, self._max_bytes)
            if vla_eval.is_frame(received):
                asked = session.answer(received)
            else:
                observation = read_observation(received, self._views, self._proprio)
                asked = self._ask(observation, form)
        except BadInput as error:
            return session.refusal(str(error)) if session.greeted else str(error)[:MAX_REASON], True
        del message, received  # as long as the observation waits, it is in memory once
        return await unless_gone(connection, asked) or (None, False)

    async def _ask(self, observation, form):
        try:
            return wire.pack(await self._batcher.ask(observation), form), False
        except PolicyError as error:
            return str(error)[:MAX_REASON], True


def _path(request: Any) -> str:
    return request.path.partition("?")[0]


def _to_stderr(line):
    print(line, file=sys.stderr, flush=True)
