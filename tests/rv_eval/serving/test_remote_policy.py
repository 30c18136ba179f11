import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from websockets.sync.server import serve

from rv_eval.agent import AgentSettings
from rv_eval.envs.base import Episode
from rv_eval.playing.rollout import Rollout
from rv_eval.policy import Policy
from rv_eval.serving import wire
from rv_eval.serving.protocol import PolicyChanged, PolicyFailed, PolicyLost
from rv_eval.serving.remote_policy import RemotePolicy
from rv_eval.serving.serve import ServerLimits
from tests.rv_eval.fakes import FakeEnv, FakeTask
from tests.rv_eval.servers import VIEWS, PicturePolicy, health, observation, running, wait_until
from tests.tiny import ROOT, make_tiny_checkpoint


def assert_same(found, wanted):
    np.testing.assert_array_equal(found.chunk, wanted.chunk)
    assert found.chunk.dtype == wanted.chunk.dtype == np.float32
    for name in ("valid", "repaired"):
        left, right = getattr(found, name), getattr(wanted, name)
        assert left.dtype == right.dtype == bool
        np.testing.assert_array_equal(left, right)
    assert found.texts == wanted.texts
    rows = range(len(wanted.texts))
    assert [found.writing(row) for row in rows] == [wanted.writing(row) for row in rows]


def test_a_served_policy_is_the_local_one(tmp_path):
    policy = Policy.from_checkpoint(make_tiny_checkpoint(tmp_path), batch_rows=2, temperature=0.7)
    observations = [observation(seed, side=64, random_key=(7, seed)) for seed in range(5)]
    with running(policy) as server:
        remote = RemotePolicy(server.url)
        for name in ("horizon", "action_dim", "views", "proprio", "render", "resolution", "batch_rows"):
            assert getattr(remote, name) == getattr(policy, name), name
        assert remote.describe() == policy.describe() | {"policy_server": server.url}
        assert_same(remote.predict_detailed(observations), policy.predict_detailed(observations))
        np.testing.assert_array_equal(remote.predict(observations[:1]), policy.predict(observations[:1]))
        remote.check_environment(("front", *policy.views), 7, "fast")
        with pytest.raises(ValueError, match=f"{server.url} writes actions of 7 numbers"):
            remote.check_environment(policy.views, 8, "fast")
        agentview = {"agentview": observations[0]["views"]["agentview"]}
        for wrong, message in (
            ({"views": agentview, "instruction": "go"}, "no view eye_in_hand, only agentview; the policy of ws"),
            ({"views": agentview}, "and an instruction, a text; got dict and NoneType"),
        ):
            with pytest.raises(ValueError, match=message):
                remote.predict([wrong])
        assert_same(remote.predict_detailed(observations[2:]), policy.predict_detailed(observations[2:]))
        remote.close()


def test_observations_of_a_batch_are_computed_together():
    policy = PicturePolicy()
    observations = [observation(seed) for seed in range(10)]
    with running(policy, ServerLimits(batch_wait_s=0.5)) as server:
        remote = RemotePolicy(server.url)
        remote.predict(observations[:4])
        start = time.monotonic()
        found = remote.predict_detailed(observations)
        remote.close()
    assert_same(found, policy.predict_detailed(observations))
    assert policy.batches[:-1] == [4, 4, 4, 2]
    assert time.monotonic() - start < 2


def test_where_no_more_connections_are_taken_fewer_do():
    policy, observations = PicturePolicy(), [observation(seed) for seed in range(7)]
    with running(policy, ServerLimits(max_clients=3)) as server:
        others = [RemotePolicy(server.url, reconnect_s=0.2) for _ in range(3)]
        remote = others.pop()
        others.pop().close()
        wait_until(lambda: health(server)[1]["clients"] == 2)
        assert_same(remote.predict_detailed(observations), policy.predict_detailed(observations))
        assert remote.reconnects == 0, "it is not lost"
        with pytest.raises(PolicyLost, match=r"HTTP 503, 3 clients are connected already: .* --max_clients"):
            RemotePolicy(server.url)
        remote.close()
        others.pop().close()


def test_a_rollout_does_not_see_the_difference():
    def play(policy):
        episodes = [Episode(FakeTask(), init_state, 7, 20) for init_state in range(1, 7)]
        rollout = Rollout(policy, FakeEnv, AgentSettings(0), num_envs=3)
        return sorted((result.episode.init_state, result.success, result.steps) for result in rollout.run(episodes))

    class StepPolicy(PicturePolicy):
        """What FakeEnv wants: the first number of an action is the step it is for."""

        def chunk(self, observation):
            chunk = np.zeros((self.horizon, self.action_dim), np.float32)
            state = observation["proprio"]  # parts by name; through the server one after another
            step = state["robot_states"][0] if isinstance(state, dict) else state[0]
            chunk[:, 0] = step + np.arange(self.horizon)
            return chunk

    policy = StepPolicy(proprio={"robot_states": 9})
    with running(policy) as server:
        remote = RemotePolicy(server.url)
        served = play(remote)
        remote.close()
    assert served == [(goal, True, goal) for goal in range(1, 7)] == play(policy)


def test_the_robots_state_may_be_lists_and_its_absence_is_named():
    policy = PicturePolicy(proprio={"hand": 2, "arm": 1})
    own = observation(0) | {"proprio": np.array([1.0, 2, 3])}
    with running(policy) as server:
        remote = RemotePolicy(server.url)
        for state in ([1, 2, 3], {"arm": [3], "hand": [1, 2]}):
            np.testing.assert_array_equal(remote.predict([own | {"proprio": state}])[0], policy.chunk(own))
        with pytest.raises(ValueError, match=r"no proprio; the policy is given hand \(2\), arm \(1\)"):
            remote.predict([own | {"proprio": None}])
        remote.close()


def test_refused_observations_are_value_errors_and_do_not_mix_up_answers():
    policy = PicturePolicy()
    good, bad = observation(0), observation(1) | {"instruction": "x" * 600}
    with running(policy) as server:
        remote = RemotePolicy(server.url)
        for batch in ([bad, good], [good, bad], [bad]):
            with pytest.raises(ValueError, match="600 bytes, at most 512"):
                remote.predict(batch)
            assert_same(remote.predict_detailed([good]), policy.predict_detailed([good]))
        with pytest.raises(PolicyFailed, match=f"the policy server {server.url}: the policy failed: RuntimeError"):
            remote.predict([good | {"instruction": "fail"}])
        huge = {"views": dict.fromkeys(VIEWS, np.zeros((1500, 1500, 3), np.uint8)), "instruction": "go"}
        with pytest.raises(ValueError, match=r"so large: .*, such as 1280 x 720"):
            remote.predict([huge])
        assert remote.reconnects == 0
        remote.close()


def test_api_key():
    policy = PicturePolicy()
    with running(policy, api_key="s3cret") as server:
        with pytest.raises(ValueError, match=r"wants an API key: set VLA0_API_KEY or give --api_key_file"):
            RemotePolicy(server.url)
        with pytest.raises(ValueError, match="wants another API key"):
            RemotePolicy(server.url, "wrong")
        remote = RemotePolicy(server.url, "s3cret")
        assert_same(remote.predict_detailed([observation(0)]), policy.predict_detailed([observation(0)]))
        remote.close()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "socks_proxy"])
def test_the_proxies_of_the_environment_are_not_asked(variable, monkeypatch):
    monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nobody listens
    policy = PicturePolicy()
    with running(policy) as server:
        remote = RemotePolicy(server.url)
        np.testing.assert_array_equal(remote.predict([observation(0)])[0], policy.chunk(observation(0)))
        remote.close()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://127.0.0.1", "ws://"])
def test_no_address(url):
    with pytest.raises(ValueError, match="ws://host:port"):
        RemotePolicy(url)


@pytest.mark.parametrize(
    "greeting, message",
    [
        (wire.pack({}), "protocol 'vla0-policy/1'"),
        (wire.pack({"reset_pose": [0.0]}), "protocol 'vla0-policy/1'"),
        ("no metadata", "protocol 'vla0-policy/1'"),
        (b"\xc1", "not a readable message"),
        (wire.pack({"protocol": "vla0-policy/1", "horizon": 8}), "lacks model_folder, .*action_dim, views"),
        (wire.pack({"protocol": "vla0-policy/1", **PicturePolicy(views=[1]).about}), "not strings"),
        (wire.pack({"protocol": "vla0-policy/1", **PicturePolicy(batch_rows=0).about}), "below 1"),
    ],
)
def test_foreign_servers_are_refused(greeting, message):
    with foreign_server(lambda connection: connection.send(greeting)) as url:
        with pytest.raises(ValueError, match=message) as caught:
            RemotePolicy(url)
        assert url in str(caught.value)


@pytest.mark.parametrize(
    "answer, message",
    [
        (wire.pack({"actions": np.zeros((3, 7), np.float32)}), "lacks actions, valid"),
        (wire.pack({"actions": np.zeros((3, 8), np.float32), "valid": True, "repaired": False, "text": ""}), "(3, 8)"),
        (wire.pack({"actions": np.zeros((3, 7)), "valid": True, "repaired": False, "text": ""}), "float64"),
        (
            wire.pack({"actions": np.full((3, 7), np.nan, np.float32), "valid": True, "repaired": False, "text": ""}),
            "not finite",
        ),
        (b"\xc1", "not a readable message"),
    ],
)
def test_foreign_answers_are_refused(answer, message):
    def talk(connection):
        connection.send(wire.pack({"protocol": "vla0-policy/1", **PicturePolicy().about}))
        connection.recv()
        connection.send(answer)

    with foreign_server(talk) as url:
        remote = RemotePolicy(url)
        with pytest.raises(ValueError, match=re.escape(message)):
            remote.predict([observation(0)])


@contextlib.contextmanager
def foreign_server(talk):
    """A websocket server that talks with everyone as `talk` says; yields its address."""
    with serve(talk, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_nobody_there():
    with running(PicturePolicy()) as server:
        url = server.url
    with pytest.raises(PolicyLost, match=f"no policy server answers at {url}"):
        RemotePolicy(url)


def test_a_server_that_comes_later_is_waited_for_when_asked_to():
    policy, said = PicturePolicy(), []
    with running(policy) as server:
        url, port = server.url, server.port
    with contextlib.ExitStack() as later:
        start = threading.Timer(0.7, lambda: later.enter_context(running(policy, port=port)))
        start.start()
        remote = RemotePolicy(url, wait_s=20, report=said.append)
        start.join()
        assert said == [f"no policy server answers at {url} yet: waiting up to 20 s"]
        np.testing.assert_array_equal(remote.predict([observation(0)])[0], policy.chunk(observation(0)))
        remote.close()
    said.clear()
    with pytest.raises(PolicyLost, match="no policy server answers"):
        RemotePolicy("ws://no.host.invalid:8000", wait_s=20, report=said.append)
    assert not said, "a wrong address stays wrong"


def test_a_lost_server_that_stays_away():
    with running(PicturePolicy()) as server:
        remote = RemotePolicy(server.url, reconnect_s=0.6)
        remote.predict([observation(0), observation(1)])
    start = time.monotonic()
    with pytest.raises(PolicyLost, match=f"{server.url} is lost, and did not come back within 0.6 s"):
        remote.predict([observation(0)])
    assert 0.6 <= time.monotonic() - start < 3 and isinstance(PolicyLost(), ConnectionError)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_fingerprint": "ef" * 32}, "model_fingerprint was abab"),
        ({"temperature": 0.5}, "temperature was 0.0, is 0.5"),
        ({"batch_rows": 8}, "batch_rows was 4, is 8"),
        ({"device": "cuda:0"}, "device was cpu, is cuda:0"),
    ],
)
def test_a_server_that_comes_back_with_another_policy(changes, message):
    with running(PicturePolicy()) as server:
        remote = RemotePolicy(server.url)
        port = server.port
        remote.predict([observation(0)])
    with running(PicturePolicy(**changes), port=port), pytest.raises(PolicyChanged, match=message):
        remote.predict([observation(0)])


def test_a_server_that_comes_back_on_another_of_its_gpus():
    """Which of the GPUs it was no result tells apart, either."""
    policy = PicturePolicy(device="cuda:0")
    with running(policy) as server:
        remote = RemotePolicy(server.url)
        port = server.port
        remote.predict([observation(0)])
    with running(PicturePolicy(device="cuda:1"), port=port):
        np.testing.assert_array_equal(remote.predict([observation(0)])[0], policy.chunk(observation(0)))
    assert remote.reconnects == 1
    remote.close()


SERVER = """
import asyncio, sys
from rv_eval.serving.port import take_port
from rv_eval.serving.serve import PolicyServer
from tests.rv_eval.servers import PicturePolicy
async def main():
    print(await PolicyServer(PicturePolicy(delay_s=0.02)).start(take_port(port=int(sys.argv[1]))), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


class ServerProcess:
    def __init__(self, port=0):
        command = [sys.executable, "-c", SERVER, str(port)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def url(self):
        return self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.mark.slow
def test_answers_go_on_after_kill_9():
    policy = PicturePolicy()
    servers = [ServerProcess()]
    remote = RemotePolicy(servers[0].url())
    port = int(remote.url.rpartition(":")[2])

    def kill_and_restart():
        servers[-1].kill()
        servers.append(ServerProcess(port))

    try:
        batches = [[observation(10 * i + k) for k in range(1 + i % 4)] for i in range(60)]
        killer = threading.Timer(0.3, kill_and_restart)
        killer.start()
        for batch in batches:
            assert_same(remote.predict_detailed(batch), policy.predict_detailed(batch))
            time.sleep(0.01)
        killer.join()
        assert remote.reconnects > 0
        remote.close()
    finally:
        servers[-1].kill()


@pytest.mark.slow
def test_a_server_that_stands_still_is_lost():
    server = ServerProcess()
    try:
        url = server.url()
        remotes = [RemotePolicy(url, timeout_s=0.5, reconnect_s=0.3) for _ in range(2)]
        os.kill(server.process.pid, signal.SIGSTOP)
        for remote, side in zip(remotes, (32, 2500), strict=True):  # fits the buffers between us, and does not
            start = time.monotonic()
            with pytest.raises(PolicyLost):
                remote.predict([observation(0, side)])
            assert time.monotonic() - start < 8
    finally:
        server.kill()
