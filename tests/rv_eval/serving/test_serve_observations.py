"""What clients of other making ask and get: cameras of any name, the robot's state, three forms of arrays, Node."""

import json
import os
import shutil
import subprocess
import sys

import msgpack
import numpy as np
import pytest
from openpi_client import msgpack_numpy

from libs.demo_hdf5.key_map import KeyMap, shipped
from rv_eval.serving import wire
from rv_eval.serving.observation import read_observation
from rv_eval.serving.protocol import openpi_keys
from tests.rv_eval.servers import PicturePolicy, client, observation, openpi_observation, raw, running
from tests.tiny import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")

STATE = {"hand": 2, "arm": 4}
PICTURE = np.full((32, 32, 3), 7, np.uint8)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """openpi-client would ask the environment's proxy even for 127.0.0.1."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


# ---- cameras and the robot's state under openpi's keys


@pytest.mark.parametrize(
    "views, names",
    [
        (("agentview", "eye_in_hand"), ("image", "wrist_image")),
        (("robot0_eye_in_hand", "agentview"), ("wrist_image", "image")),
        (("table_cam", "wrist_cam"), ("image", "wrist_image")),
        (("front", "side", "left_wrist", "right_wrist"), ("image", "side", "wrist_image", "right_wrist")),
        (("side", "image"), ("side", "image")),  # a camera that is called so keeps its name
        (("eye_in_hand",), ("wrist_image",)),
    ],
)
def test_openpi_keys(views, names):
    wanted = {view: f"observation/{name}" for view, name in zip(views, names, strict=True)}
    assert openpi_keys(views, {}) == {"views": wanted, "instruction": "prompt"}
    assert openpi_keys(views, STATE)["proprio"] == "observation/state"


@pytest.mark.parametrize("name", shipped())
def test_every_layout_of_demos_is_reachable_in_openpis_form(name):
    key_map = KeyMap.find(name)
    parts = {part: place.dim for part, place in key_map.proprio.items()}
    policy = PicturePolicy(views=tuple(key_map.views), proprio=parts)
    rng = np.random.default_rng(0)
    pictures = {view: rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for view in policy.views}
    state = {part: rng.normal(size=size).astype(np.float32) for part, size in parts.items()}
    flat = np.concatenate(list(state.values()))
    wanted = policy.chunk({"views": pictures, "instruction": "go", "proprio": flat})
    with running(policy) as server:
        openpi = client(server)
        keys = openpi.get_server_metadata()["observation_keys"]
        named = {keys["views"][view]: picture for view, picture in pictures.items()} | {keys["instruction"]: "go"}
        plain = {f"observation/{view}": picture for view, picture in pictures.items()} | {"prompt": "go"}
        by_part = {f"observation/{part}": values for part, values in state.items()}
        for message in (named | {keys["proprio"]: flat}, named | by_part, plain | {keys["proprio"]: flat}):
            np.testing.assert_array_equal(openpi.infer(message)["actions"], wanted)


GIVEN = r"; the policy is given hand \(2\), arm \(4\): 6 finite floats"
BAD_STATES = {
    "none": (None, "the observation has no {key}"),
    "too many": (np.zeros(7), "the observation's {key} has 7 numbers"),
    "a row of a batch": (np.zeros((1, 6)), r"{key} has float64 \(1, 6\)"),
    "ints": (np.zeros(6, int), r"{key} has int64 \(6,\)"),
    "a list": ([0.0] * 6, "{key} has a list"),
    "not finite": (np.array([0, 1, np.nan, 3, np.inf, 5]), "{key} has 2 numbers that are not finite"),
    "a part missing": ({"hand": np.ones(2)}, "{key} has no arm"),
    "a part too long": ({"hand": np.ones(2), "arm": np.ones(5)}, "{key} has 5 numbers of arm"),
    "a part not finite": ({"hand": np.full(2, np.nan), "arm": np.ones(4)}, "has 2 numbers of hand that are not finite"),
    "a part of text": ({"hand": "open", "arm": np.ones(4)}, "{key} has a str of hand"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_state_that_does_not_fit_is_named_with_what_came_and_what_is_wanted(name):
    state, reason = BAD_STATES[name]
    own = {"views": observation(0)["views"], "instruction": "go"}
    openpi = {key: value for key, value in openpi_observation(own).items() if key != "observation/state"}
    for message, key in ((own, "proprio"), (openpi, "observation/state")):
        if state is not None:
            message[key] = state
        with pytest.raises(ValueError, match=reason.replace("{key}", key) + GIVEN):
            read_observation(message, ("agentview", "eye_in_hand"), STATE)


def test_other_parts_of_the_state_are_nobodys_concern():
    parts = {"arm": np.arange(4.0), "hand": np.array([4.0, 5]), "wheels": np.array([1, 2]), "mode": "slow"}
    message = observation(0) | {"proprio": parts}
    read = read_observation(message, ("agentview", "eye_in_hand"), STATE)
    assert read["proprio"].tolist() == [4, 5, 0, 1, 2, 3]


# ---- forms of arrays


def msgpack_numpy_form(value):
    """As the package msgpack-numpy (0.4.8) writes arrays and scalars."""
    if isinstance(value, np.ndarray):
        more = {b"kind": b"", b"shape": value.shape}
        return {b"nd": True, b"type": value.dtype.str, **more, b"data": value.tobytes()}
    return {b"nd": False, b"type": value.dtype.str, b"data": value.tobytes()}


def text_form(value):
    """As an encoder that knows no keys but strings."""
    return {key.decode(): entry for key, entry in msgpack_numpy.pack_array(value).items()}


ACTIONS = {
    wire.Form.OPENPI: (msgpack_numpy.pack_array, {b"__ndarray__", b"data", b"dtype", b"shape"}),
    wire.Form.TEXT_KEYS: (text_form, {"__ndarray__", "data", "dtype", "shape"}),
    wire.Form.MSGPACK_NUMPY: (msgpack_numpy_form, {b"nd", b"type", b"kind", b"data", b"shape"}),
}


@pytest.mark.parametrize("form", wire.Form)
def test_who_asks_in_a_form_is_answered_in_it(form):
    encode, keys = ACTIONS[form]
    policy = PicturePolicy(proprio=STATE)
    own = observation(0, proprio=np.arange(6.0))
    with running(policy) as server, raw(server) as connection:
        for message in (own, openpi_observation(own) | {"observation/state": own["proprio"]}):
            connection.send(msgpack.packb(message, default=encode))
            answer = msgpack.unpackb(connection.recv(10))
            assert set(answer["actions"]) == keys
            assert wire.pack(policy.chunk(own), form) == msgpack.packb(answer["actions"])
        connection.send(msgpack.packb({}))
        assert isinstance(connection.recv(10), str)


# ---- the examples of docs/serving.md


def run_example(command, **environment):
    environment = {**os.environ, "VLA0_API_KEY": "s3cret", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def grey(policy, instruction):
    """What the examples ask."""
    pictures = dict.fromkeys(policy.views, np.full((policy.resolution, policy.resolution, 3), 128, np.uint8))
    return {"views": pictures, "instruction": instruction, "proprio": np.zeros(sum(policy.proprio.values()))}


def test_the_example_with_openpi_client():
    policy = PicturePolicy(views=("table_cam", "wrist_cam"), proprio=STATE)
    example = [sys.executable, str(ROOT / "docs/examples/ask_with_openpi.py")]
    with running(policy, api_key="s3cret") as server:
        code, printed, _ = run_example([*example, "127.0.0.1", str(server.port), "stack them"])
    assert code == 0
    np.testing.assert_array_equal(np.float32(json.loads(printed)["actions"]), policy.chunk(grey(policy, "stack them")))


@pytest.fixture
def node_example(tmp_path):
    """docs/examples/ask_from_node.mjs beside stand-ins for the two packages that it imports."""
    if shutil.which("node") is None:
        pytest.skip("no node")
    shutil.copytree(ROOT / "tests/rv_eval/node", tmp_path / "node_modules")
    return shutil.copy(ROOT / "docs/examples/ask_from_node.mjs", tmp_path)


def test_the_example_from_node(node_example):
    policy = PicturePolicy(views=("table_cam", "wrist_cam"), proprio=STATE)
    with running(policy, api_key="s3cret") as server:
        code, printed, errors = run_example(["node", node_example, server.url, "ein Würfel"])
        assert (code, errors) == (0, "")
        answer = json.loads(printed)
        np.testing.assert_array_equal(np.float32(answer["actions"]), policy.chunk(grey(policy, "ein Würfel")))
        assert {"valid", "repaired", "text", "tokens", "passes", "server_timing"} < set(answer)
        code, _, errors = run_example(["node", node_example, server.url, " "])
        assert code == 1 and "the server refuses the observation: the instruction is missing" in errors
        code, _, errors = run_example(["node", node_example, server.url], VLA0_API_KEY="wrong")
        assert code == 1 and "401" in errors
