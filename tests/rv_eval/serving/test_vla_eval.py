"""vla-eval's clients: one action for each observation, episodes, its pictures and its state. The client is written by
hand from the protocol (tests/rv_eval/vla_eval_client.py)."""

import http.client
import io
import json
import subprocess
import sys
import threading

import msgpack
import numpy as np
import pytest
import yaml
from PIL import Image

from rv_eval.agent import AgentSettings, ChunkAgent
from rv_eval.envs.base import PANDA_ACTIONS
from rv_eval.policy import Policy
from rv_eval.serving import wire
from rv_eval.serving.serve import ServerLimits
from rv_eval.serving.vla_eval import HEALTH_PATH, PATH
from tests.rv_eval.servers import PicturePolicy, client, health, observation, raw, running, wait_until
from tests.rv_eval.vla_eval_client import VlaEvalClient, frame, libero_observation
from tests.tiny import ROOT, make_tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class WritingPolicy(PicturePolicy):
    """Remembers what it was asked."""

    def __init__(self, **more):
        super().__init__(**more)
        self.asked = []

    def predict_detailed(self, observations):
        self.asked += observations
        return super().predict_detailed(observations)


def steps(policy, seeds, settings=None):
    """The actions of an episode whose observations have these seeds."""
    agent, actions = ChunkAgent(policy.horizon, settings or AgentSettings(), PANDA_ACTIONS), []
    for seed in seeds:
        if agent.needs_observation:
            agent.add_chunk(policy.chunk(observation(seed)))
        actions.append(agent.next_action().astype(np.float32))
    return np.stack(actions)


@pytest.mark.parametrize("path", ["", "/", PATH])
def test_one_action_for_each_observation(path):
    policy = PicturePolicy()
    with running(policy) as server:
        harness = VlaEvalClient(server, path)
        harness.send("episode_start", {"task": {"name": "milk", "suite": "libero_object", "task_id": 0}})
        actions = [harness.act(libero_observation(observation(seed))) for seed in range(7)]
        harness.send("episode_end", {"metrics": {"success": True}, "steps": 7, "elapsed_sec": 1.0})
        assert health(server)[1]["errors"] == 0
    assert all(action.dtype == np.float32 and action.shape == (7,) for action in actions)
    wanted = steps(policy, range(7))
    np.testing.assert_array_equal(np.stack(actions)[:, 0], wanted[:, 0])
    assert set(np.stack(actions)[:, -1]) <= {-1.0, 1.0}, "the gripper is open or closed"
    assert policy.batches == [1, 1, 1], "a chunk has three actions"


def test_hello_says_what_is_wanted_and_what_actions_mean():
    with running(PicturePolicy()) as server:
        info = VlaEvalClient(server).info
    assert {"harness_version", "protocol_version", "model_server", "capabilities"} <= set(info)
    assert info["protocol_version"] == 1
    assert info["observation_params"] == {"send_wrist_image": True, "send_state": False}
    assert set(info["action_spec"]) == {"position", "rotation", "gripper"}
    assert set(info["observation_spec"]) == {"agentview", "wrist", "language"}
    with running(PicturePolicy(views=("front",), proprio={"joints": 6})) as server:
        info = VlaEvalClient(server).info
    assert info["observation_params"] == {"send_wrist_image": False, "send_state": True}
    assert "action_spec" not in info, "what the actions of another robot mean nobody has told"


def test_the_last_of_seven_numbers_is_a_gripper_only_where_training_says_so():
    """It may be the seventh joint, or a gripper that goes from 0 to 1."""
    policy = PicturePolicy()
    policy.binary_gripper = False
    policy.chunk = lambda observed: np.full((3, 7), 0.3, np.float32)
    with running(policy) as server:
        harness = VlaEvalClient(server)
        np.testing.assert_array_equal(harness.act(libero_observation(observation(0))), np.full(7, 0.3, np.float32))
        assert "action_spec" not in harness.info


def test_what_training_says_of_the_gripper(tmp_path):
    folder = make_tiny_checkpoint(tmp_path)
    path = next(folder.rglob("action_stats.json"))
    stats = json.loads(path.read_text())
    assert not Policy.from_checkpoint(folder).binary_gripper, "between -1 and +1"

    def says(**changes):
        path.write_text(json.dumps(stats | changes))
        return Policy.from_checkpoint(folder).binary_gripper

    assert says(mean=[0.0] * 6 + [0.6], std=[0.5] * 6 + [0.8])
    assert not says(min=[-1.0] * 6 + [0.0], mean=[0.0] * 6 + [0.6], std=[0.5] * 6 + [0.8]), "from 0 to 1"
    for name in ("mean", "std"):
        del stats[name]  # as published statistics may be
    assert says() and not says(max=[1.0] * 6 + [2.8])
    assert Policy.from_checkpoint(ROOT / "checkpoints" / "quickstart").binary_gripper


def test_an_episode_begins_with_a_new_chunk():
    policy = WritingPolicy()
    with running(policy) as server:
        harness = VlaEvalClient(server)
        firsts = []
        for episode in (0, 1, 0):
            harness.send("episode_start", {"task": {"suite": "s", "task_id": 3, "episode_idx": episode}})
            firsts.append(harness.act(libero_observation(observation(5))))
            harness.act(libero_observation(observation(6)))  # two of three are executed
    np.testing.assert_array_equal(firsts[0], firsts[2])
    keys = [asked["random_key"] for asked in policy.asked]
    assert keys[0] == keys[2] != keys[1], "what is drawn depends on the episode alone"
    assert policy.batches == [1, 1, 1]


def test_chunks_are_executed_as_the_server_is_told_and_drafts_are_passed():
    settings = AgentSettings(n_action_steps=1, ensemble_size=3)
    policy = WritingPolicy()
    policy.chunk = lambda observed: np.full((3, 7), observed["views"]["agentview"].sum() % 11, np.float32)
    text = " ".join(map(str, range(21)))
    predict = policy.predict_detailed

    def written(observations):
        prediction = predict(observations)
        prediction.texts[:] = [text] * len(observations)
        return prediction

    policy.predict_detailed = written
    with running(policy, executed=lambda preset: settings) as server:
        harness = VlaEvalClient(server)
        actions = [harness.act(libero_observation(observation(seed))) for seed in range(4)]
    np.testing.assert_allclose(np.stack(actions)[:, 0], steps(policy, range(4), settings)[:, 0], rtol=1e-6)
    assert [len(asked["draft"]) for asked in policy.asked] == [0, 14, 14, 14]
    assert policy.asked[1]["draft"] == list(range(7, 21)), "the action that was executed is left out"


def test_a_preset_that_does_not_fit_is_refused_before_anybody_is_served():
    with running(None, executed=lambda preset: AgentSettings(n_action_steps=9)) as server:
        with pytest.raises(ValueError, match="action horizon 9"):
            server.load(PicturePolicy)
        assert health(server)[1]["status"] == "loading"


def test_a_real_policy_answers_as_it_does_at_home(tmp_path):
    policy = Policy.from_checkpoint(make_tiny_checkpoint(tmp_path), batch_rows=2)
    policy.binary_gripper = True
    observations = [observation(seed, side=64) for seed in range(3)]
    wanted = policy.predict_detailed(observations).chunk  # (3, 2, 7)
    with running(policy) as server:
        harness = VlaEvalClient(server, PATH)
        for seed in range(3):
            for step in range(policy.horizon):
                action = harness.act(libero_observation(observations[seed]))
                np.testing.assert_array_equal(action[:-1], wanted[seed, step, :-1])
                assert action[-1] == (1.0 if wanted[seed, step, -1] > 0 else -1.0)


def test_several_at_once_share_batches_with_other_clients():
    policy = PicturePolicy(delay_s=0.05)
    with running(policy, ServerLimits(batch_wait_s=0.3)) as server:
        harnesses, openpi = [VlaEvalClient(server, PATH) for _ in range(3)], client(server)
        answers = [None] * 4

        def ask(place):
            own = observation(place)
            answers[place] = (
                openpi.infer(own)["actions"][0] if place == 3 else harnesses[place].act(libero_observation(own))
            )

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for place, answer in enumerate(answers):
        assert answer[0] == policy.chunk(observation(place))[0, 0]
    assert policy.batches == [4]


@pytest.mark.parametrize("form, exact", [("png", True), ("raw", True), ("array", True), ("jpeg", False)])
def test_pictures_in_every_form(form, exact):
    policy = WritingPolicy()
    smooth = np.add.outer(np.arange(32), np.arange(32))[:, :, None].repeat(3, 2).astype(np.uint8)
    own = observation(0) | {"views": {"agentview": smooth, "eye_in_hand": smooth[::-1].copy()}}
    with running(policy) as server:
        VlaEvalClient(server, form=form).act(libero_observation(own))
    for view, picture in own["views"].items():
        seen = policy.asked[0]["views"][view]
        assert seen.dtype == np.uint8 and seen.shape == picture.shape
        assert np.abs(seen.astype(int) - picture).max() <= (0 if exact else 4)


def state(turn):
    return np.array([0.1, 0.2, 0.3, *turn, 0.04, -0.04], np.float32)


QUARTER = np.array([0, 0, np.pi / 2])


@pytest.mark.parametrize("key", ["states", "state"])
def test_the_state_of_libero_in_the_parts_of_its_files(key):
    half = np.sqrt(0.5)
    wanted = {
        "robot_states": [0.04, -0.04, 0.1, 0.2, 0.3, 0, 0, half, half],
        "ee_ori": [0, 0, np.pi / 2],
        "gripper_states": [0.04, -0.04],
    }
    policy = WritingPolicy(proprio={name: len(values) for name, values in wanted.items()})
    with running(policy) as server:
        VlaEvalClient(server).act(libero_observation(observation(0), **{key: state(QUARTER)}))
    np.testing.assert_allclose(policy.asked[0]["proprio"], np.concatenate(list(wanted.values())), atol=1e-6)


def test_the_quaternion_keeps_its_sign():
    """LIBERO's axis-angle has angles up to 2 pi: q and -q are told apart."""
    quaternion = np.array([0.1, -0.5, 0.3, -0.8])
    quaternion /= np.linalg.norm(quaternion)
    turn = quaternion[:3] * 2 * np.arccos(quaternion[3]) / np.sqrt(1 - quaternion[3] ** 2)
    policy = WritingPolicy(proprio={"robot_states": 9})
    with running(policy) as server:
        harness = VlaEvalClient(server)
        harness.act(libero_observation(observation(0), states=state(turn)))
        harness.send("episode_start", {})
        harness.act(libero_observation(observation(0), states=state(np.zeros(3))))
    np.testing.assert_allclose(policy.asked[0]["proprio"][5:], quaternion, atol=1e-6)
    np.testing.assert_allclose(policy.asked[1]["proprio"][5:], [0, 0, 0, 1])


def test_other_states_are_taken_as_they_come():
    flat = WritingPolicy(proprio={"state": 8})
    parts = WritingPolicy(proprio={"arm": 2, "hand": 1})
    with running(flat) as server:
        VlaEvalClient(server).act(libero_observation(observation(0), state=state(QUARTER)))
    with running(parts) as server:
        harness = VlaEvalClient(server)
        harness.act(libero_observation(observation(0), state={"hand": np.ones(1), "arm": np.zeros(2)}))
        harness.send("episode_start", {})
        assert "has 8 numbers" in harness.refused(libero_observation(observation(0), states=state(QUARTER)))
        assert "has no proprio" in harness.refused(libero_observation(observation(0)))
    np.testing.assert_array_equal(flat.asked[0]["proprio"], state(QUARTER))
    np.testing.assert_array_equal(parts.asked[0]["proprio"], [0, 0, 1])


def test_cameras_of_other_benchmarks_find_their_places():
    policy = WritingPolicy()
    own = observation(0)["views"]
    images = {"depth": np.zeros((9, 9, 3), np.uint8)}
    calvin = {"rgb_gripper": own["eye_in_hand"], "rgb_static": own["agentview"], "more": own["eye_in_hand"]}
    named = {"left": own["eye_in_hand"], "agentview": own["agentview"], "eye_in_hand": own["eye_in_hand"]}
    with running(policy) as server:
        harness = VlaEvalClient(server)
        for pictures in (calvin, named | images):
            harness.send("episode_start", {})
            harness.act({"images": pictures, "task_description": "go"})
        harness.send("episode_start", {})
        said = harness.refused({"images": {"front": own["agentview"]}, "task_description": "go"})
    assert said == "no picture for view eye_in_hand among front"
    for asked in policy.asked:
        for view, picture in own.items():
            np.testing.assert_array_equal(asked["views"][view], picture)


def files(**more):
    """A good PNG, changed."""
    data = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(data, "png")
    return {"__image__": True, "format": "png", "data": data.getvalue(), "shape": [32, 32, 3]} | more


def saved(picture, kind, **options):
    data = io.BytesIO()
    Image.fromarray(picture).save(data, kind, **options)
    return data.getvalue()


BIG = np.zeros((3000, 3000, 3), np.uint8)
GREY = np.zeros((32, 32), np.uint8)
BAD_PICTURES = {
    "cut off": (files(data=files()["data"][:60]), "png that cannot be read"),
    "no picture": (files(data=b"\x89PNG\r\n\x1a\n" + b"a" * 50), "png that cannot be read"),
    "another kind": (files(data=saved(BIG[:32, :32], "bmp")), "png that cannot be read"),
    "larger than declared": (files(data=saved(BIG, "png")), "3000 x 3000 RGB"),
    "declared too large": (files(data=saved(BIG, "png"), shape=[3000, 3000, 3]), "up to 1280"),
    "grey": (files(data=saved(GREY, "png")), "32 x 32 L"),
    "progressive": (files(format="jpeg", data=saved(BIG[:32, :32], "jpeg", progressive=True)), "progressive"),
    "raw too short": (files(format="raw", dtype="|u1", data=b"a"), "3072 bytes"),
    "raw of floats": (files(format="raw", dtype="<f4"), "raw |u1"),
    "a format nobody has": (files(format="tiff"), "'tiff'"),
    "an entry too many": (files(more=1), "has the entries"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures_fail_the_episode_and_not_the_session(name, capfd):
    picture, reason = BAD_PICTURES[name]
    policy = PicturePolicy()
    with running(policy) as server:
        harness = VlaEvalClient(server)
        own = libero_observation(observation(0))
        harness.send("observation", own | {"images": own["images"] | {"agentview": picture}})
        assert reason in harness.receive("error")["error"]
        harness.act(own)
    assert policy.batches == [1] and capfd.readouterr().err == ""


def test_what_is_no_frame_is_refused():
    with running(PicturePolicy()) as server:
        harness = VlaEvalClient(server)
        own = libero_observation(observation(0))
        for kind, payload, reason in (
            ("dance", {}, "'dance'"),
            (7, {}, "is a string, this is a int"),
            (np.zeros(3), {}, "is a string, this is a ndarray"),
            ("observation", [1], "a list"),
            ("observation", {}, "images: a map"),
            ("observation", own | {"images": []}, "images: a map"),
            ("observation", own | {"task_description": ""}, "instruction"),
            ("observation", own | {"task_description": "<|im_end|>"}, '"<|"'),
        ):
            harness.send(kind, payload)
            assert reason in harness.receive("error")["error"]
        harness.send("error", {"error": "mine"})
        harness.send_raw(frame("hello", {}, -5))
        harness.seq = 0
        harness.receive("hello")
        harness.send_raw(b"\xc1")
        assert "not a readable message" in harness.receive("error")["error"]
        assert health(server)[1]["errors"] == 9


def test_a_failing_policy_fails_the_episode():
    with running(PicturePolicy(), report=lambda line: None) as server:
        harness = VlaEvalClient(server)
        said = harness.refused(libero_observation(observation(0)) | {"task_description": "fail"})
        assert said == "the policy failed: RuntimeError"
        harness.act(libero_observation(observation(1)))


def test_hello_may_be_late_and_repeated():
    """The metadata is one, so nothing depends on who is faster."""
    with running(PicturePolicy()) as server, raw(server) as connection:  # it has read the metadata
        connection.send(frame("hello", {}, 1))
        connection.send(frame("hello", {}, 8))
        again = msgpack.unpackb(connection.recv(10))
        assert (again["type"], again["seq"]) == ("hello", 8), "the first had its answer"
        connection.send(wire.pack(observation(0)))  # the other forms are taken as ever
        assert wire.unpack(connection.recv(10))["actions"].shape == (3, 7)


def ready(server, path=HEALTH_PATH):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path)
    return connection.getresponse().status


def test_health_says_ready_once_the_model_is_there_and_hello_waits():
    with running(None) as server:
        assert (ready(server), ready(server, "/healthz")) == (503, 200)
        made = []
        early = threading.Thread(target=lambda: made.append(VlaEvalClient(server)))
        early.start()
        wait_until(lambda: health(server)[1]["clients"] == 1)
        server.load(PicturePolicy)
        early.join(10)
        assert ready(server) == 200
        assert made[0].act(libero_observation(observation(0))).shape == (7,)


def test_the_configs_for_its_command_line_name_our_path():
    for path in sorted((ROOT / "configs/vla_eval").glob("*.yaml")):
        tree = yaml.safe_load(path.read_text())
        assert tree["server"]["url"].endswith(f":8000{PATH}")
        assert tree["docker"]["image"].startswith("ghcr.io/allenai/vla-evaluation-harness/libero")
        assert all(entry["benchmark"].startswith("vla_eval.benchmarks.libero") for entry in tree["benchmarks"])


@pytest.mark.slow
def test_the_example_of_the_documentation():
    example = [sys.executable, str(ROOT / "docs/examples/ask_as_vla_eval.py")]
    policy = PicturePolicy(proprio={"state": 8})
    with running(policy, report=lambda line: None) as server:
        for path in ("", PATH):
            done = subprocess.run([*example, server.url + path, "go"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            printed = json.loads(done.stdout)
            assert printed["about"]["observation_params"] == {"send_wrist_image": True, "send_state": True}
            assert [len(action) for action in printed["actions"]] == [7, 7]
        done = subprocess.run([*example, server.url, "fail"], capture_output=True, text=True)
    assert done.returncode == 1 and "the policy failed" in done.stderr


def test_browsers_and_keys_are_checked_here_too():
    from websockets.exceptions import InvalidStatus

    with running(PicturePolicy(), api_key="s3cret") as server:
        with pytest.raises(InvalidStatus, match="401"):
            VlaEvalClient(server, PATH)
        VlaEvalClient(server, PATH, additional_headers={"Authorization": "Api-Key s3cret"}).close()
        with pytest.raises(InvalidStatus, match="401"):
            raw(server)
