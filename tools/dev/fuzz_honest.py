"""The honest clients of tools/dev/fuzz_server.py: they ask the same again and again and must get the same answers."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from rv_eval.serving import wire
from rv_eval.serving.protocol import authorization

PAUSE_S = 0.05  # between two questions
QUESTIONS = 4


class HonestClient:
    """Asks the same questions over and over, in a thread of its own. `problem`: what went wrong, or None.

    asker: (url, api_key) -> (observation -> what must never change of its answer, the client's name).
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        metadata: Mapping[str, Any],
        asker: Callable[[str, str | None], tuple[Callable[[dict], tuple], str]],
    ) -> None:
        rng = np.random.default_rng(12345)
        side = metadata["resolution"]
        self._questions = [
            {
                "views": {view: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for view in metadata["views"]},
                "instruction": f"put object {number} into the basket",
                "proprio": {part: np.zeros(size, np.float32) for part, size in metadata["proprio"].items()},
                "random_key": [7, number],
            }
            for number in range(QUESTIONS)
        ]
        self._ask, self.name = asker(url, api_key)
        self.latencies: list[float] = []
        self.problem: str | None = None
        self.right = [self._ask(question) for question in self._questions]
        self.calm = []
        for number in range(3 * QUESTIONS):
            self._check(number % QUESTIONS, self.calm)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._stop.set()
        self._thread.join(120)
        if self._thread.is_alive():
            self.problem = self.problem or f"the honest client ({self.name}) waits for an answer since two minutes"

    def _run(self):
        number = 0
        while not self._stop.wait(PAUSE_S) and not self.problem:
            try:
                self._check(number % QUESTIONS, self.latencies)
            except Exception as error:
                self.problem = f"the honest client ({self.name}): {type(error).__name__}: {error}"
            number += 1

    def _check(self, number, latencies):
        began = time.monotonic()
        answer = self._ask(self._questions[number])
        latencies.append(time.monotonic() - began)
        if answer != self.right[number]:
            raise RuntimeError(f"question {number} is answered differently than before")


def openpi_asker(url: str, api_key: str | None) -> tuple[Callable[[dict], Any], str]:
    """openpi-client, or RemotePolicy where it is not installed."""
    try:
        from openpi_client.websocket_client_policy import WebsocketClientPolicy
    except ModuleNotFoundError:
        from rv_eval.serving.remote_policy import RemotePolicy

        remote = RemotePolicy(url, api_key, reconnect_s=0)

        def ask(observation):
            prediction = remote.predict_detailed([observation])
            return prediction.chunk[0].tobytes(), prediction.texts[0]

        return ask, "RemotePolicy"
    # Proxies of the environment are for others: it would ask one even for 127.0.0.1.
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = f"{before},{urlsplit(url).hostname}".strip(",")
    client = WebsocketClientPolicy(url, api_key=api_key)

    def ask_openpi(observation):
        answer = client.infer(observation)
        return np.ascontiguousarray(answer["actions"]).tobytes(), answer["text"]

    return ask_openpi, "openpi-client"


def vla_eval_asker(url: str, api_key: str | None) -> tuple[Callable[[dict], Any], str]:
    """A client that speaks as vla-eval's does; every question is the first of an episode."""
    from websockets.sync.client import connect

    from rv_eval.serving.vla_eval import PATH
    from tools.dev.fuzz_vla_eval import frame, picture

    headers = {"Authorization": authorization(api_key)} if api_key else None
    connection = connect(url + PATH, additional_headers=headers, compression=None, proxy=None, legacy=True)
    connection.send(frame("hello", {}))
    connection.recv(60)

    def ask(observation):
        connection.send(frame("episode_start", {"task": {"name": "the same"}}))
        images = {view: picture(pixels) for view, pixels in observation["views"].items()}
        state = {part: values for part, values in observation["proprio"].items()}
        own = {"images": images, "task_description": observation["instruction"], "state": state}
        connection.send(frame("observation", own))
        told = connection.recv(60)
        assert isinstance(told, bytes), "the protocol has no texts"
        answer = wire.unpack(told)
        if answer["type"] != "action":
            raise RuntimeError(f"answered by {answer['payload']}")
        return answer["payload"]["actions"].tobytes()

    return ask, "vla-eval's form"
