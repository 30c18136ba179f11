"""Who waits for whom: clients that are busy, clients that are gone, clients that come while the model is loaded."""

import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from rv_eval.serving import wire
from rv_eval.serving.protocol import PolicyLost, message_limit
from rv_eval.serving.remote_policy import RemotePolicy
from rv_eval.serving.serve import ServerLimits
from tests.rv_eval.servers import VIEWS, PicturePolicy, client, health, observation, running, wait_until
from tests.tiny import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")

PING, PONG = 0x89, 0x8A


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """openpi-client would ask the environment's proxy even for 127.0.0.1."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class BusyClient:
    """A client of plain TCP that answers nothing while it is busy: no thread and no library pongs for it."""

    def __init__(self, server):
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        head = ["GET / HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        head += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
        self._socket.sendall("\r\n".join(head).encode())
        self._file = self._socket.makefile("rb")
        while self._file.readline() != b"\r\n":
            pass

    def send(self, data):
        self._socket.sendall(b"\x82\xff" + len(data).to_bytes(8, "big") + bytes(4) + data)

    def frame(self):
        """(first byte, data)"""
        first, length = self._file.read(2)
        if length > 125:
            length = int.from_bytes(self._file.read(2 if length == 126 else 8), "big")
        return first, self._file.read(length)

    def close(self):
        self._file.close()
        self._socket.close()


def test_who_computes_and_answers_no_ping_is_not_dropped():
    policy = PicturePolicy()
    with running(policy, ServerLimits(heartbeat_s=0.05)) as server:
        busy = BusyClient(server)
        time.sleep(0.6)
        assert health(server)[1]["clients"] == 1
        busy.send(wire.pack(observation(0)))
        frames = [busy.frame()]
        while frames[-1][0] == PONG or len(frames) == 1:  # the first one is the metadata
            frames.append(busy.frame())
        busy.close()
        np.testing.assert_array_equal(wire.unpack(frames[-1][1])["actions"], policy.chunk(observation(0)))
        kinds = [first for first, _ in frames[1:-1]]
        assert len(kinds) >= 5, "what lies between sees that the server lives"
        assert set(kinds) == {PONG}, "and wants no answer, which a ping would"
        wait_until(lambda: health(server)[1]["clients"] == 0)  # who hangs up is noticed at once


# In a network of its own, whose only cable is then cut: what is left of a robot without power.
DEAD_PEER = """
import fcntl, socket, struct, time
from rv_eval.serving.serve import ServerLimits
from tests.rv_eval.servers import PicturePolicy, raw, running, wait_until

def loopback(up):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", up))  # SIOCSIFFLAGS, IFF_UP

loopback(1)
with running(PicturePolicy(), ServerLimits(heartbeat_s=0.1, dead_s=0.5)) as server:
    connection = raw(server)
    time.sleep(1)
    assert server.clients == 1
    loopback(0)
    wait_until(lambda: server.clients == 0, 20)
print("noticed")
"""


@pytest.mark.slow
def test_a_dead_peer_is_noticed_long_before_the_idle_time():
    alone = ["unshare", "--user", "--net", "--map-root-user"]
    try:
        allowed = subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("a network of its own is not allowed here")
    command = [*alone, sys.executable, "-c", DEAD_PEER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "noticed\n", done.stderr


# ---- while the model is loaded


def in_background(function):
    """(thread, list that will hold what the function returned)"""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    return thread, results


def test_clients_wait_while_the_model_is_loaded():
    policy = PicturePolicy()
    with running(None) as server:
        assert health(server)[1]["status"] == "loading"
        openpi, answers = in_background(lambda: client(server).infer(observation(0)))
        remote, chunks = in_background(lambda: RemotePolicy(server.url, timeout_s=0.2).predict([observation(1)]))
        wait_until(lambda: health(server)[1]["clients"] == 2)
        time.sleep(0.7)  # several times what a client waits for an answer
        assert openpi.is_alive() and remote.is_alive()
        status, about = health(server)
        assert (status, about["status"], about["requests"]) == (200, "loading", 0)
        assert server.load(lambda: policy) is policy
        openpi.join()
        remote.join()
        assert health(server)[1]["status"] == "ok"
    np.testing.assert_array_equal(answers[0]["actions"], policy.chunk(observation(0)))
    np.testing.assert_array_equal(chunks[0][0], policy.chunk(observation(1)))


def test_who_comes_early_keeps_the_limits():
    with running(None) as server:
        early = connect(server.url, compression=None, proxy=None, legacy=True)
        gone = connect(server.url, compression=None, proxy=None, legacy=True)
        wait_until(lambda: server.clients == 2)
        gone.close()
        wait_until(lambda: server.clients == 1)
        server.load(PicturePolicy)
        early.recv(10)
        early.send(bytes(message_limit(VIEWS) + 1))
        with pytest.raises(ConnectionClosed) as caught:
            early.recv(10)
        assert caught.value.rcvd.code == 1009


def test_a_model_that_cannot_be_loaded():
    def load():
        raise ValueError("no such model")

    with running(None) as server:
        with pytest.raises(ValueError, match="no such model"):
            server.load(load)
        waiting, lost = in_background(lambda: lost_because(server.url))
        wait_until(lambda: server.clients == 1)
        server.leave()
        waiting.join()
    assert "no policy server answers" in lost[0]


@pytest.mark.slow
def test_whoever_waits_for_a_model_notices_that_the_server_stands_still(monkeypatch):
    monkeypatch.setattr("rv_eval.serving.remote_policy.LOADING_S", 0.3)
    with running(None) as server:
        assert "it still loads its model after 0.3 s" in lost_because(server.url, timeout_s=0.2)

    code = "from tests.rv_eval.servers import running\nwith running(None) as s: print(s.url, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    monkeypatch.setattr("rv_eval.serving.remote_policy.LOADING_S", 60.0)
    try:
        url = process.stdout.readline().strip()
        waiting, lost = in_background(lambda: lost_because(url, timeout_s=0.5))
        time.sleep(1.2)
        assert waiting.is_alive()
        process.send_signal(19)  # SIGSTOP
        waiting.join(20)
        assert "timed out" in lost[0]
    finally:
        process.kill()
        process.communicate()


def lost_because(url, **more):
    with pytest.raises(PolicyLost) as caught:
        RemotePolicy(url, **more)
    return str(caught.value)
