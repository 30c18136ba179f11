"""The server, with the real openpi-client as its client wherever it can be."""

import math
import socket
import threading
import time
from functools import partial

import msgpack
import numpy as np
import pytest
from openpi_client import msgpack_numpy
from openpi_client.action_chunk_broker import ActionChunkBroker
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rv_eval.policy import Policy
from rv_eval.serving import vla_eval, wire
from rv_eval.serving.connection import MAX_UNREAD
from rv_eval.serving.protocol import MAX_INSTRUCTION, PROTOCOL, message_limit
from rv_eval.serving.serve import ServerLimits
from tests.rv_eval.servers import (
    VIEWS,
    PicturePolicy,
    client,
    health,
    observation,
    openpi_observation,
    raw,
    running,
    wait_until,
)
from tests.tiny import make_tiny_checkpoint

# openpi-client opens its connection in a way that websockets will drop one day
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """openpi-client would ask the environment's proxy even for 127.0.0.1."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def in_threads(jobs):
    """Results of functions that all run at once."""
    results = [None] * len(jobs)

    def run(place):
        results[place] = jobs[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_openpi_client_gets_what_the_policy_says(tmp_path):
    policy = Policy.from_checkpoint(make_tiny_checkpoint(tmp_path), batch_rows=4)
    observations = [observation(seed, side=64) for seed in range(4)]
    wanted = [policy.predict_detailed([one]) for one in observations]
    with running(policy) as server:
        openpi = client(server)
        metadata = openpi.get_server_metadata()
        keys = {"views": {"agentview": "observation/image", "eye_in_hand": "observation/wrist_image"}}
        keys["instruction"] = "prompt"
        wanted_metadata = {"protocol": PROTOCOL, **policy.describe(), "observation_keys": keys}
        hello = vla_eval.hello(policy) | {"takes_prefix": True}  # for the clients that wait for one
        assert metadata == wanted_metadata | hello | {"timestamp": metadata["timestamp"]}
        assert len(metadata["model_fingerprint"]) == 64
        for own, prediction in zip(observations, wanted, strict=True):
            for form in (own, openpi_observation(own)):
                answer = openpi.infer(form)
                assert answer["actions"].dtype == np.float32
                np.testing.assert_array_equal(answer["actions"], prediction.chunk[0])
                assert (answer["text"], answer["valid"]) == (prediction.texts[0], prediction.valid[0])
                assert answer["repaired"] == prediction.repaired[0]
                assert answer["server_timing"]["batch"] == 1 and answer["server_timing"]["infer_ms"] > 0
        # As many at once: the same answers, from common batches.
        clients = [client(server) for _ in observations]
        answers = in_threads([partial(clients[place].infer, observations[place]) for place in range(4)])
    for answer, prediction in zip(answers, wanted, strict=True):
        np.testing.assert_array_equal(answer["actions"], prediction.chunk[0])
    assert max(answer["server_timing"]["batch"] for answer in answers) > 1


def test_chunks_are_executed_by_openpis_broker():
    policy = PicturePolicy()
    with running(policy) as server:
        broker = ActionChunkBroker(client(server), action_horizon=policy.horizon)
        steps = [broker.infer(observation(0))["actions"] for _ in range(policy.horizon)]
    np.testing.assert_array_equal(np.stack(steps), policy.chunk(observation(0)))
    assert policy.batches == [1]


def test_concurrent_clients_share_batches():
    policy = PicturePolicy(delay_s=0.05)
    with running(policy, ServerLimits(batch_wait_s=0.2)) as server:
        clients = [client(server) for _ in range(6)]
        for round_ in range(3):
            own = [observation(10 * round_ + place) for place in range(6)]
            answers = in_threads([partial(clients[place].infer, own[place]) for place in range(6)])
            for one, answer in zip(own, answers, strict=True):
                np.testing.assert_array_equal(answer["actions"], policy.chunk(one))
    assert sum(policy.batches) == 18
    assert max(policy.batches) == policy.batch_rows and len(policy.batches) <= 9


def test_a_client_alone_waits_for_nobody():
    with running(PicturePolicy(), ServerLimits(batch_wait_s=1.0)) as server:
        start = time.monotonic()
        client(server).infer(observation(0))
        assert time.monotonic() - start < 0.5


def test_proprio_and_random_key_reach_the_policy():
    policy = PicturePolicy(proprio={"hand": 2, "arm": 4})
    own = observation(0, proprio=np.array([4.0, 5, 0, 1, 2, 3]), random_key=np.array([7, 0, 3]))
    parts = {"arm": np.arange(4.0), "wheels": np.ones(3), "hand": np.array([4.0, 5])}
    with running(policy) as server:
        flat = client(server).infer(own | {"more": {"of": [1, 2]}, "episode": 3})
        named = client(server).infer(own | {"proprio": parts})
        openpi = client(server).infer(openpi_observation(own) | {"observation/state": own["proprio"]})
    np.testing.assert_array_equal(flat["actions"], policy.chunk(own))
    np.testing.assert_array_equal(named["actions"], policy.chunk(own))
    assert flat["actions"][1, 1] == 4 + 2 * 5 + 4 * 1 + 5 * 2 + 6 * 3 and flat["actions"][0, 1:4].tolist() == [7, 0, 3]
    np.testing.assert_array_equal(openpi["actions"][1], flat["actions"][1])


def changed(**changes):
    return observation(0) | changes


def views(**changes):
    return changed(views=observation(0)["views"] | changes)


PICTURE = np.zeros((32, 32, 3), np.uint8)
REFUSED = {
    "no map": ([1, 2], "a list"),
    "nothing in it": ({"hello": 1}, "'hello'"),
    "view missing": (changed(views={"agentview": PICTURE}), "no view eye_in_hand, only 'agentview';"),
    "openpi's view missing": ({"observation/image": PICTURE, "prompt": "go"}, "no view eye_in_hand"),
    "views no map": (changed(views=[PICTURE]), "map of camera names"),
    "picture no array": (views(agentview=[[1]]), "not list"),
    "picture of floats": (views(agentview=PICTURE.astype(np.float32)), "float32"),
    "batch of pictures": (views(agentview=PICTURE[None]), "(1, 32, 32, 3)"),
    "colours first": (views(agentview=np.zeros((3, 32, 32), np.uint8)), "3 colours"),
    "picture too small": (views(agentview=PICTURE[:4]), "sides of 8 to 1280"),
    "picture of nothing": (views(agentview=np.zeros((0, 0, 3), np.uint8)), "sides of"),
    "picture too long": (views(agentview=np.zeros((20, 1300, 3), np.uint8)), "sides of 8 to 1280"),
    "picture too large": (views(agentview=np.zeros((1000, 1000, 3), np.uint8)), "at most 921,600 of them"),
    "no instruction": ({"views": observation(0)["views"]}, "instruction is missing"),
    "instruction of spaces": (changed(instruction="  "), "instruction is missing"),
    "instruction no text": (changed(instruction=b"go"), "instruction is missing"),
    "instruction too long": (changed(instruction="ä" * (MAX_INSTRUCTION // 2 + 1)), "514 bytes"),
    "instruction with a mark": (changed(instruction="go <|image_pad|> left"), '"<|"'),
    "proprio not finite": (changed(proprio=np.array([1, np.nan])), "proprio"),
    "proprio too long": (changed(proprio=np.zeros(257)), "proprio"),
    "proprio of ints": (changed(proprio=np.zeros(9, int)), "proprio"),
    "random key negative": (changed(random_key=[-1]), "random_key"),
    "random key no ints": (changed(random_key=[0.5]), "random_key"),
    "draft negative": (changed(draft=[3, -1]), "draft: a list of at most 1024 ints"),
    "draft no ints": (changed(draft=["3"]), "draft: "),
    "draft too long": (changed(draft=np.arange(1025)), "draft: "),
    "draft no list": (changed(draft=7), "draft: "),
}


def test_bad_observations_are_refused_and_the_session_goes_on():
    policy = PicturePolicy()
    with running(policy) as server:
        openpi, other = client(server), client(server)
        for name, (message, reason) in REFUSED.items():
            with pytest.raises(RuntimeError, match="Error in inference server") as caught:
                openpi.infer(message)
            assert reason in str(caught.value), name
            np.testing.assert_array_equal(openpi.infer(observation(1))["actions"], policy.chunk(observation(1)))
        np.testing.assert_array_equal(other.infer(observation(2))["actions"], policy.chunk(observation(2)))
        status, about = health(server)
    assert status == 200 and about["errors"] == len(REFUSED) and about["requests"] == 2 * len(REFUSED) + 1
    assert set(policy.batches) == {1}


def test_broken_messages_get_a_text_and_the_session_goes_on():
    own = observation(0)
    good = wire.pack(own)
    broken = [b"", b"\xc1", good[:-5], good + good, b"\x91" * 10_000, "a text", ""]
    broken += [np.random.default_rng(0).bytes(1000)]
    broken += [[b"\x81\xa5", b"views"], msgpack.packb({"views": {b"__ndarray__": True, b"dtype": "|O"}})]
    with running(PicturePolicy()) as server, raw(server) as connection:
        for message in broken:
            connection.send(message)
            assert isinstance(connection.recv(10), str)
        connection.send([good[:100], good[100:1000], b"", good[1000:]])  # a good one in fragments
        assert msgpack_numpy.unpackb(connection.recv(10))["actions"].shape == (3, 7)


def test_too_large_ends_that_session_only():
    limit = message_limit(VIEWS)
    policy = PicturePolicy()
    with running(policy) as server:
        other = client(server)
        for message in (bytes(limit + 1), [bytes(limit // 2 + 1)] * 2):
            with pytest.raises(ConnectionClosed) as caught, raw(server) as connection:
                connection.send(message)
                connection.recv(10)
            assert caught.value.rcvd.code == 1009
        with raw(server) as connection:
            connection.send(bytes(limit))
            assert isinstance(connection.recv(10), str)
        # the largest pictures that are taken
        answer = other.infer(observation(0, side=768))
        np.testing.assert_array_equal(answer["actions"], policy.chunk(observation(0, side=768)))


def test_a_failing_observation_harms_no_neighbour():
    policy, lines = PicturePolicy(delay_s=0.05), []
    with running(policy, ServerLimits(batch_wait_s=0.3), report=lines.append) as server:
        clients = [client(server) for _ in range(4)]

        def ask(place):
            try:
                return clients[place].infer(changed(instruction="fail") if place == 2 else observation(place))
            except RuntimeError as error:
                return str(error)

        answers = in_threads([partial(ask, place) for place in range(4)])
        clients[2].infer(observation(2))
    assert policy.batches == [4, 1, 1, 1, 1, 1]
    assert answers[2].endswith("the policy failed: RuntimeError")
    for place in (0, 1, 3):
        np.testing.assert_array_equal(answers[place]["actions"], policy.chunk(observation(place)))
    assert lines == ["the policy failed: RuntimeError: asked to"]


def test_api_key():
    with running(PicturePolicy(), api_key="s3cret") as server:
        for wrong in (None, "s3cre", "s3cretx", "S3CRET"):
            with pytest.raises(InvalidStatus, match="401"):
                client(server, wrong)
        headers = [[("Authorization", "Bearer s3cret")], [("Authorization", "Api-Key s3cret")] * 2]
        headers += [[("Authorization", "Api-Key s\u00e9cret")]]
        for wrong in headers:
            with pytest.raises(InvalidStatus, match="401"):
                raw(server, additional_headers=wrong)
        status, about = health(server)
        assert status == 200 and set(about) == {"status", "uptime_s", "clients", "requests", "errors"}
        assert client(server, "s3cret").infer(observation(0))["actions"].shape == (3, 7)


def test_browsers_are_refused():
    with running(PicturePolicy()) as server, pytest.raises(InvalidStatus, match="403"):
        raw(server, origin="http://evil.example")


def test_healthz_while_the_policy_works():
    with running(PicturePolicy(delay_s=1.0)) as server:
        openpi = client(server)
        thread = threading.Thread(target=openpi.infer, args=(observation(0),))
        thread.start()
        time.sleep(0.2)
        start = time.monotonic()
        status, about = health(server)
        assert time.monotonic() - start < 0.5
        thread.join()
    assert status == 200 and about["status"] == "ok" and about["clients"] == about["requests"] == 1


def test_no_more_clients_than_allowed():
    with running(PicturePolicy(), ServerLimits(max_clients=2)) as server:
        first, second = raw(server), raw(server)
        with pytest.raises(InvalidStatus, match="503"):
            raw(server)
        assert health(server)[0] == 200
        second.close()
        wait_until(lambda: health(server)[1]["clients"] == 1)
        raw(server).close()
        first.close()


def test_who_leaves_is_not_computed_for():
    policy = PicturePolicy(delay_s=0.3)
    with running(policy, ServerLimits(batch_wait_s=0.0)) as server:
        stays, in_time, *leavers = (raw(server) for _ in range(6))
        in_time.send(wire.pack(observation(0)))
        time.sleep(0.1)
        for connection in (*leavers, stays):
            connection.send(wire.pack(observation(1)))
        for leaver in (in_time, *leavers):  # one while it is computed for, the others while they wait
            leaver.close()
        assert isinstance(stays.recv(10), bytes)
        assert health(server)[1]["clients"] == 1
        stays.close()
    assert policy.batches == [1, 1]


def test_the_silent_are_sent_away():
    with running(PicturePolicy(), ServerLimits(idle_s=0.3)) as server, raw(server) as connection:
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(10)
        assert caught.value.rcvd.code == 1001 and "nothing said" in caught.value.rcvd.reason
        assert health(server)[1]["clients"] == 0


def test_pings_whose_pongs_nobody_reads_end_the_session():
    with running(PicturePolicy()) as server:
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key + b"\r\n")
        ping = b"\x89\xfd\0\0\0\0" + b"a" * 125
        sent = 0
        with pytest.raises(OSError):
            while sent < 200 * MAX_UNREAD:
                plain.sendall(ping * 1000)
                sent += 1000 * len(ping)
        wait_until(lambda: health(server)[1]["clients"] == 0)


def test_limits_are_checked():
    waits = {"batch_wait_s": -1}, {"batch_wait_s": 2}, {"batch_wait_s": math.nan}
    times = [{name: wrong} for name in ("idle_s", "heartbeat_s", "dead_s") for wrong in (0, math.nan)]
    for wrong in ({"max_clients": 0}, *waits, *times, {"dead_s": 1e9}):
        with pytest.raises(ValueError, match="got"):
            ServerLimits(**wrong)
