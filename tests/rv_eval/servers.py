"""A policy without a model, and its server in a thread, to test server and clients with."""

import asyncio
import contextlib
import http.client
import json
import threading
import time
from dataclasses import asdict

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.sync.client import connect

from libs.action_form import Rotations
from rv_eval.agent import AgentSettings
from rv_eval.serving.port import take_port
from rv_eval.serving.serve import PolicyServer
from rv_train.policies.base import Prediction

VIEWS = ("agentview", "eye_in_hand")


class PicturePolicy:
    """Its actions are numbers of the pictures, the instruction and the random key, so no two observations are
    answered alike. An instruction "fail" makes it raise; `delay_s` is how long a call takes."""

    horizon, action_dim, render, resolution, batch_rows, takes_prefix = 3, 7, "fast", 32, 4, False
    binary_gripper, rotations = True, Rotations()

    def __init__(self, delay_s=0.0, proprio=None, views=VIEWS, **changes):
        self.delay_s, self.batches, self.proprio, self.views = delay_s, [], proprio or {}, views
        self.horizon = max(self.horizon, len(views) + 1)  # an action for each picture, and one for the instruction
        self.about = {
            "model_folder": "runs/pictures",
            "model_fingerprint": "ab" * 32,
            "weights_sha256": "cd" * 32,
            "horizon": self.horizon,
            "action_dim": self.action_dim,
            "views": list(self.views),
            "proprio": self.proprio,
            "render": self.render,
            "resolution": self.resolution,
            "preset": asdict(AgentSettings()),
            "temperature": 0.0,
            "batch_rows": self.batch_rows,
            "device": "cpu",
            "dtype": "float32",
            "torch_compile": False,
            "drafts": True,
            "policy_versions": {"python": "3.11"},
            **changes,
        }

    def describe(self):
        return self.about

    def predict_detailed(self, observations):
        self.batches.append(len(observations))
        time.sleep(self.delay_s)
        chunks = np.stack([self.chunk(observation) for observation in observations])
        even = np.array([int(chunk[0, 0]) % 2 == 0 for chunk in chunks])
        return Prediction(chunks, even, ~even, [f"{chunk[0, 0]:g}" for chunk in chunks])

    def chunk(self, observation):
        if observation["instruction"] == "fail":
            raise RuntimeError("asked to")
        chunk = np.zeros((self.horizon, self.action_dim), np.float32)
        sums = [observation["views"][view].sum() % 9973 for view in self.views]
        chunk[:, 0] = [*sums, len(observation["instruction"])]
        chunk[0, 1 : 1 + len(observation.get("random_key", ()))] = observation.get("random_key", ())
        chunk[1, 1] = observation["proprio"] @ np.arange(1, 1 + len(observation["proprio"])) if self.proprio else 0
        return chunk


def observation(seed, side=32, **more):
    rng = np.random.default_rng(seed)
    views = {view: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for view in VIEWS}
    return {"views": views, "instruction": f"pick up the milk {seed}", **more}


def openpi_observation(own):
    """An observation of ours as openpi's LIBERO client would send it."""
    pictures = [own["views"][view] for view in VIEWS]
    keys = ("observation/image", "observation/wrist_image")
    return {**dict(zip(keys, pictures, strict=True)), "observation/state": np.zeros(8), "prompt": own["instruction"]}


@contextlib.contextmanager
def running(policy, limits=None, api_key=None, report=None, port=0, executed=None):
    """A server in a thread of this process; yields it with its `url` and `port`, `load(function)`, and `leave()`, which
    ends it early. policy None: it is loading."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(20)

    async def make():
        return PolicyServer(policy, limits, api_key, report, executed)

    try:
        server = run(make())
        server.url = run(server.start(take_port(port=port)))
        server.leave = lambda: run(server.close())
        begin_to_load = server.load
        server.load = lambda function: run(begin_to_load(function))
        server.port = int(server.url.rpartition(":")[2])
        try:
            yield server
        finally:
            run(server.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def client(server, api_key=None):
    return WebsocketClientPolicy("127.0.0.1", server.port, api_key)


def health(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def raw(server, **more):
    """A websocket past its metadata."""
    connection = connect(server.url, compression=None, proxy=None, max_size=None, legacy=True, **more)
    connection.recv(10)
    return connection


def wait_until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.02)
