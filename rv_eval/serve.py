"""The policy server: a policy behind a websocket, for many clients at once. See `rv_eval.protocol` for what is said.

One thread talks, one thread computes: while the policy works on a batch, pings and /healthz are answered.
"""

import asyncio
import contextlib
import functools
import hmac
import json
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from libs.errors import BadInput
from rv_eval import wire
from rv_eval.protocol import FAILED, HEALTH_PATH, PROTOCOL, authorization, message_limit, read_observation

NEWCOMERS = 64  # connections beyond max_clients whose handshake is not done yet
MAX_UNREAD = 2**20  # bytes sent to a client that does not read them
SEND_TIMEOUT_S = 20.0
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 3.0
PENALTY_S = 0.05  # after a refused message, so that a flood of them leaves time for the others
MAX_REASON = 300  # characters of an error

_log = logging.getLogger(__name__)  # what the library says about broken clients: nobody's concern
_log.addHandler(logging.NullHandler())
_log.propagate = False


@dataclass(frozen=True)
class ServerLimits:
    """max_clients: connected at a time, more get HTTP 503. batch_wait_s: how long an observation waits for others to
    share its batch. idle_s: a client that says nothing for so long is sent away."""

    max_clients: int = 64
    batch_wait_s: float = 0.005
    idle_s: float = 3600.0

    def __post_init__(self):
        if self.max_clients < 1:
            raise BadInput(f"the number of clients must be at least 1, got {self.max_clients}")
        if not 0 <= self.batch_wait_s <= 1:
            raise BadInput(f"a batch waits 0 to 1 s for more observations, got {self.batch_wait_s}")
        if not self.idle_s > 0:
            raise BadInput(f"the idle time must be positive, got {self.idle_s}")


class PolicyServer:
    """Serves `policy` (predict_detailed, describe, views, batch_rows) until `close`.

    api_key: clients must send it. report: takes a line whenever the policy itself fails.
    """

    def __init__(self, policy, limits: ServerLimits | None = None, api_key: str | None = None, report=None):
        self.limits = limits or ServerLimits()
        self.clients = self.requests = self.errors = 0
        self._views, self._proprio = tuple(policy.views), policy.proprio
        self._max_bytes = message_limit(self._views)
        self._metadata = wire.pack({"protocol": PROTOCOL, **policy.describe()})
        self._wanted = authorization(api_key).encode() if api_key else None
        self._started = time.monotonic()
        self._batcher = Batcher(policy, self.limits.batch_wait_s, lambda: self.clients, report or _to_stderr)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; returns the address, "ws://host:port". port 0: any that is free. OSError: it is taken."""
        self._listener = await listen(
            self._serve_client,
            host,
            port,
            process_request=self._before_handshake,
            create_connection=functools.partial(_Connection, most=self.limits.max_clients + NEWCOMERS),
            origins=[None],  # a page in the user's browser must not reach a server on 127.0.0.1
            compression=None,
            max_size=self._max_bytes,
            max_queue=1,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            server_header=None,
            logger=_log,
        )
        self._batcher.start()
        host, port = self._listener.sockets[0].getsockname()[:2]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    @property
    def needs_key(self) -> bool:
        return self._wanted is not None

    async def close(self, patience_s: float = 5.0) -> bool:
        """Say goodbye to everyone. False: the policy is still busy after `patience_s`; its thread cannot be ended."""
        self._listener.close()
        await self._listener.wait_closed()
        return await self._batcher.close(patience_s)

    def _before_handshake(self, connection, request):
        """An HTTP answer instead of a websocket, or None."""
        if request.path.partition("?")[0] == HEALTH_PATH:
            response = connection.respond(HTTPStatus.OK, json.dumps(self._health()) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        if self._wanted is not None:
            sent = request.headers.get_all("Authorization")
            known = len(sent) == 1 and hmac.compare_digest(sent[0].encode(errors="surrogateescape"), self._wanted)
            if not known:
                return connection.respond(HTTPStatus.UNAUTHORIZED, "this server wants an API key\n")
        if self.clients >= self.limits.max_clients:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{self.clients} clients are connected already\n")
        return None

    def _health(self):
        return {
            "status": "ok",
            "uptime_s": round(time.monotonic() - self._started, 1),
            "clients": self.clients,
            "requests": self.requests,
            "errors": self.errors,
        }

    async def _serve_client(self, connection):
        self.clients += 1
        try:
            await self._send(connection, self._metadata)
            while True:
                try:
                    async with asyncio.timeout(self.limits.idle_s):
                        message = await connection.recv()
                except TimeoutError:
                    await connection.close(CloseCode.GOING_AWAY, f"nothing said for {self.limits.idle_s:g} s")
                    return
                self.requests += 1
                answer = await self._answer(message, connection)
                await self._send(connection, answer)
                if isinstance(answer, str):
                    self.errors += 1
                    await asyncio.sleep(PENALTY_S)
        except ConnectionClosed:
            pass
        except TimeoutError:  # it does not read its answers
            connection.transport.abort()
        finally:
            self.clients -= 1

    async def _send(self, connection, message):
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await connection.send(message)

    async def _answer(self, message, connection) -> bytes | str:
        """The answer, or what is wrong, to one message."""
        if isinstance(message, str):
            return "a text message: observations are binary msgpack"
        try:
            observation = read_observation(wire.unpack(message, self._max_bytes), self._views, self._proprio)
        except BadInput as error:
            return str(error)[:MAX_REASON]
        del message  # as long as the observation waits, it is in memory once
        answer = asyncio.ensure_future(self._batcher.ask(observation))
        gone = asyncio.ensure_future(connection.wait_closed())
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else "nobody listens"
        except PolicyError as error:
            return str(error)[:MAX_REASON]
        finally:
            answer.cancel()
            gone.cancel()


class PolicyError(Exception):
    """The policy cannot answer this observation."""


@dataclass
class _Request:
    observation: dict
    answer: asyncio.Future
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Collects observations and asks the policy, in a thread of its own, for up to policy.batch_rows at once.

    clients: how many there are, each with one observation at most: nobody is waited for who cannot come.
    """

    def __init__(self, policy, wait_s, clients, report):
        self._policy, self._wait_s, self._clients, self._report = policy, wait_s, clients, report
        self._queue = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._busy = self._task = None

    def start(self):
        self._task = asyncio.create_task(self._run())

    async def close(self, patience_s) -> bool:
        """See PolicyServer.close."""
        self._task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._busy is None:
            return True
        await asyncio.wait({self._busy}, timeout=patience_s)
        return self._busy.done()

    async def ask(self, observation) -> bytes:
        """The packed answer. PolicyError: the policy failed on it."""
        request = _Request(observation, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(request)
        return await request.answer

    async def _run(self):
        while True:
            await self._settle(await self._collect())

    async def _collect(self):
        requests = [await self._queue.get()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                while len(requests) < min(self._policy.batch_rows, self._clients()):
                    requests.append(await self._queue.get())
        return [request for request in requests if not request.answer.done()]  # its client may be gone

    async def _settle(self, requests):
        if not requests:
            return
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        observations = [request.observation for request in requests]
        try:
            self._busy = loop.run_in_executor(self._thread, self._policy.predict_detailed, observations)
            prediction = await asyncio.shield(self._busy)
            answers = [self._pack(prediction, row, began, request) for row, request in enumerate(requests)]
        except Exception as error:
            if len(requests) > 1:  # one of them is at fault: the others must not suffer
                for request in requests:
                    await self._settle([request])
                return
            self._report(f"{FAILED}: {type(error).__name__}: {error}")
            reason = str(error) if isinstance(error, BadInput) else f"{FAILED}: {type(error).__name__}"
            answers = [PolicyError(reason)]
        for request, answer in zip(requests, answers, strict=True):
            if request.answer.done():
                continue
            if isinstance(answer, PolicyError):
                request.answer.set_exception(answer)
            else:
                request.answer.set_result(answer)

    def _pack(self, prediction, row, began, request):
        timing = {
            "wait_ms": round(1e3 * (began - request.arrived), 3),
            "infer_ms": round(1e3 * (time.monotonic() - began), 3),
            "batch": len(prediction.chunk),
        }
        tokens, passes = prediction.writing(row)
        return wire.pack(
            {
                "actions": prediction.chunk[row],
                "valid": bool(prediction.valid[row]),
                "repaired": bool(prediction.repaired[row]),
                "text": prediction.texts[row],
                "tokens": tokens,
                "passes": passes,
                "server_timing": timing,
            }
        )


class _Connection(ServerConnection):
    """Two limits that the library does not have: connections before their handshake, and what a client leaves unread.
    (A flood of pings is answered by pongs, which know no back-pressure.)"""

    def __init__(self, *args, most, **kwargs):
        super().__init__(*args, **kwargs)
        self._most = most

    def connection_made(self, transport):
        super().connection_made(transport)
        if len(self.server.handler_tasks) > self._most:
            transport.abort()

    def data_received(self, data):
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNREAD:
            self.transport.abort()


def _to_stderr(line):
    print(line, file=sys.stderr, flush=True)
