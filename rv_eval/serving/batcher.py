"""The policy's side of the server: observations that wait at the same time are computed together, in one thread."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from libs.errors import BadInput
from rv_eval.serving.protocol import FAILED, PolicyError

if TYPE_CHECKING:
    from rv_eval.agent import Answering


T = TypeVar("T")


@dataclass
class _Request:
    observation: dict
    answer: asyncio.Future
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Collects observations and asks the policy, in a thread of its own, for up to policy.batch_rows at once.

    wait_s: how long an observation waits for others. clients: how many there are, each with one observation at most:
    nobody is waited for who cannot come. report: takes a line whenever the policy itself fails.
    """

    def __init__(self, wait_s: float, clients: Callable[[], int], report: Callable[[str], None]) -> None:
        self._wait_s, self._clients, self._report = wait_s, clients, report
        self._queue = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._policy: Answering | None = None
        self._busy: asyncio.Future | None = None
        self._task: asyncio.Task | None = None

    async def load(self, load: Callable[[], T]) -> T:
        """What `load()` returns, called in the policy's thread; raises what it raises."""
        busy = self._busy = asyncio.get_running_loop().run_in_executor(self._thread, load)
        return await asyncio.shield(busy)

    def start(self, policy: "Answering") -> None:
        """Answer with this policy from now on."""
        self._policy = policy
        self._task = asyncio.create_task(self._run())

    async def close(self, patience_s: float) -> bool:
        """See PolicyServer.close."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._task is None:  # nobody waits for what is loaded, if it is
            return self._busy is None or self._busy.done()
        self._task.cancel()
        if self._busy is None:
            return True
        await asyncio.wait({self._busy}, timeout=patience_s)
        return self._busy.done()

    async def ask(self, observation: dict) -> dict:
        """The answer, see `rv_eval.serving.protocol`. PolicyError: the policy failed on it."""
        request = _Request(observation, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(request)
        return await request.answer

    async def _run(self):
        while True:
            await self._settle(await self._collect())

    async def _collect(self):
        assert self._policy is not None, "started with one"
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
        assert self._policy is not None, "started with one"
        try:
            busy = self._busy = loop.run_in_executor(self._thread, self._policy.predict_detailed, observations)
            prediction = await asyncio.shield(busy)
            answers = [_answer(prediction, row, began, request) for row, request in enumerate(requests)]
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


def _answer(prediction, row, began, request):
    timing = {
        "wait_ms": round(1e3 * (began - request.arrived), 3),
        "infer_ms": round(1e3 * (time.monotonic() - began), 3),
        "batch": len(prediction.chunk),
    }
    tokens, passes = prediction.writing(row)
    return {
        "actions": prediction.chunk[row],
        "valid": bool(prediction.valid[row]),
        "repaired": bool(prediction.repaired[row]),
        "text": prediction.texts[row],
        "tokens": tokens,
        "passes": passes,
        "server_timing": timing,
    }
