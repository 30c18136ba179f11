"""docs/examples/serve_lerobot.py with a fake of LeRobot's interface, and our side of its wire."""

import argparse
import ast
import contextlib
import importlib.util
import io
import sys
import threading
import types

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

from rv_eval.serving import wire
from rv_eval.serving.remote_robot import PROTOCOL, RemoteRobot, RobotLost, RobotRefused
from tests.tiny import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")

JOINTS = ("shoulder_pan.pos", "shoulder_lift.pos", "gripper.pos")


class FakeLeRobot:
    """LeRobot's interface of an arm with three joints and two cameras."""

    def __init__(self):
        self.action_features = dict.fromkeys(JOINTS, float)
        self.observation_features = {**self.action_features, "front": (48, 64, 3), "wrist": (64, 48, 3)}
        self.sent, self.place, self.trouble = [], dict(zip(JOINTS, (1.5, -2.0, 50.0), strict=True)), None

    def get_observation(self):
        if self.trouble:
            raise self.trouble
        front = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)
        return {**self.place, "front": front, "wrist": front.transpose(1, 0, 2)}

    def send_action(self, action):
        self.sent.append(action)
        self.place = dict(action)
        return action


@pytest.fixture(scope="module")
def file():
    """The file that a user copies."""
    spec = importlib.util.spec_from_file_location("serve_lerobot", ROOT / "docs/examples/serve_lerobot.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def served(server):
    """The address of what answers; `server`: called with every connection."""
    with serve(server, "127.0.0.1", 0, compression=None, ping_interval=None) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        finally:
            listener.shutdown()
            thread.join()


def test_it_needs_numpy_websockets_and_msgpack_only(file):
    tree = ast.parse((ROOT / "docs/examples/serve_lerobot.py").read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in found}
    assert tops - set(sys.stdlib_module_names) == {"numpy", "websockets", "msgpack"}


def test_look_act_and_hold(file):
    robot, said = FakeLeRobot(), []
    with served(file.LeRobotServer(robot, report=said.append)) as url:
        remote = RemoteRobot(url)
        assert remote.views == ["front", "wrist"] and remote.actions == list(JOINTS)
        assert remote.proprio == {"state": 3}
        seen = remote.observe()
        assert seen["proprio"]["state"].tolist() == [1.5, -2.0, 50.0]
        front = robot.get_observation()["front"]
        np.testing.assert_array_equal(seen["views"]["front"], front, "the policy fits them as those of its training")
        np.testing.assert_array_equal(seen["views"]["wrist"], front.transpose(1, 0, 2))
        remote.act(np.array([1.0, 2.0, 3.0]))
        assert robot.sent == [dict(zip(JOINTS, (1.0, 2.0, 3.0), strict=True))]
        assert remote.observe()["proprio"]["state"].tolist() == [1, 2, 3]
        remote.hold()
        assert len(robot.sent) == 1, "servos hold by themselves: nothing is sent again"
        remote.close()
    assert said == ["the client is gone: holding"]


def test_what_is_wrong_is_said_and_the_session_goes_on(file):
    robot = FakeLeRobot()
    with served(file.LeRobotServer(robot, report=lambda line: None)) as url:
        remote = RemoteRobot(url)
        for action in (np.zeros(2), np.array([0, np.nan, 1]), np.zeros((1, 3))):
            with pytest.raises(RobotRefused, match="an action is 3 finite numbers: shoulder_pan"):
                remote.act(action)
        robot.trouble = ConnectionError("the bus is gone")
        with pytest.raises(RobotRefused, match="ConnectionError: the bus is gone"):
            remote.observe()
        robot.trouble = None
        remote.observe()
        remote.close()
        plain = connect(url, compression=None, proxy=None, legacy=True)
        assert wire.unpack(plain.recv(5))["protocol"] == PROTOCOL
        objects = {"__ndarray__": True, "data": b"", "dtype": "|O", "shape": [0]}
        for message in (b"\xc1", wire.pack({"do": "dance"}), wire.pack({"do": "act", "action": objects}), "text"):
            plain.send(message)
            assert isinstance(plain.recv(5), str)
        plain.close()
    assert robot.sent == []


def test_one_client_at_a_time(file):
    with served(file.LeRobotServer(FakeLeRobot(), report=lambda line: None)) as url:
        first = RemoteRobot(url)
        with pytest.raises(ValueError, match="nobody answers"):
            RemoteRobot(url)
        first.observe()
        first.close()


def test_silence_is_a_hold(file, monkeypatch):
    monkeypatch.setattr(file, "WATCHDOG_S", 0.05)
    held, said = threading.Event(), []
    server = file.LeRobotServer(FakeLeRobot(), report=said.append)
    server.hold = held.set
    with served(server) as url:
        remote = RemoteRobot(url)
        assert held.wait(5)
        remote.observe()  # it may go on
        remote.close()
    assert said[0] == "nothing said for 0.05 s: holding"


def test_pictures_become_square_where_that_is_asked_for(file):
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(file.sized(picture), picture)
    np.testing.assert_array_equal(file.sized(picture, "cut"), picture[:, 1:5])
    padded = file.sized(picture, "pad")
    np.testing.assert_array_equal(padded[1:5], picture)
    assert padded.shape == (6, 6, 3) and not padded[0].any() and not padded[5].any()
    large = np.full((1080, 1920, 3), 7, np.uint8)
    for square, shape in ((None, (540, 960, 3)), ("cut", (540, 540, 3)), ("pad", (480, 480, 3))):
        assert file.sized(large, square).shape == shape
    assert (file.sized(large) == 7).all()


def arguments(**changes):
    given = {"type": "so101_follower", "camera": ["front=0", "wrist=/dev/video4"], "fps": 30, "units": "degrees"}
    return argparse.Namespace(**{**given, "robot_port": "/dev/tty", "id": "arm", "max_relative_target": 5.0, **changes})


@pytest.mark.parametrize("place", ["lerobot.robots.so101_follower", "lerobot.robots.so_follower"])
def test_the_arm_is_made_where_lerobot_has_it(file, place, monkeypatch):
    """Its versions have the classes in different places. This is a fake of both."""
    made = []

    class Config:
        def __init__(self, **options):
            made.append(options)

    class Follower:
        def __init__(self, config):
            self.connected = False

        def connect(self):
            self.connected = True

    arm, cameras = types.ModuleType(place), types.ModuleType("lerobot.cameras.opencv")
    arm.SO101Follower, arm.SO101FollowerConfig, cameras.OpenCVCameraConfig = Follower, Config, dict
    for name in ("lerobot", "lerobot.robots", "lerobot.cameras"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, place, arm)
    monkeypatch.setitem(sys.modules, "lerobot.cameras.opencv", cameras)
    assert file.make_robot(arguments()).connected
    (options,) = made
    assert options["use_degrees"] and options["max_relative_target"] == 5.0 and options["port"] == "/dev/tty"
    assert options["cameras"]["front"]["index_or_path"] == 0
    assert options["cameras"]["wrist"]["index_or_path"] == "/dev/video4"


def test_without_lerobot_it_says_so(file):
    with pytest.raises(SystemExit, match="LeRobot is not installed here"):
        file.make_robot(arguments())


def test_nobody_there_and_no_robot():
    with pytest.raises(ValueError, match="nobody answers at ws:"):
        RemoteRobot("ws://127.0.0.1:1")
    with pytest.raises(ValueError, match="nobody answers at ws:"):
        RemoteRobot("ws://")
    with (
        served(lambda connection: connection.send(wire.pack({"protocol": "other"}))) as url,
        pytest.raises(ValueError, match="does not say protocol"),
    ):
        RemoteRobot(url)


def test_a_robot_that_does_not_answer_in_time_is_lost():
    leave = threading.Event()

    def silent(connection):
        connection.send(wire.pack({"protocol": PROTOCOL, "views": [], "proprio": {}, "actions": ["a"]}))
        with contextlib.suppress(ConnectionClosed):
            connection.recv()
            leave.wait(10)

    with served(silent) as url:
        remote = RemoteRobot(url, timeout_s=0.1)
        for ask in (remote.observe, remote.hold, lambda: remote.act(np.zeros(1))):
            with pytest.raises(RobotLost, match="does not answer"):
                ask()
        leave.set()


def answering(answer):
    """A robot that answers everything so."""

    def robot(connection):
        connection.send(wire.pack({"protocol": PROTOCOL, "views": [], "proprio": {}, "actions": ["a"]}))
        with contextlib.suppress(ConnectionClosed):
            while True:
                connection.recv()
                connection.send(answer)

    return robot


def test_pictures_may_come_as_files_and_nonsense_is_refused():
    data = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(data, "png")
    picture = {"__image__": True, "format": "png", "data": data.getvalue(), "shape": [8, 8, 3]}
    with served(answering(wire.pack({"views": {"front": picture}, "proprio": {}}))) as url:
        remote = RemoteRobot(url)
        assert (remote.observe()["views"]["front"] == 9).all()
        remote.close()
    for nonsense in ({"views": []}, [1], {}):
        with served(answering(wire.pack(nonsense))) as url:
            remote = RemoteRobot(url)
            with pytest.raises(RobotRefused, match="answers observe with"):
                remote.observe()
            remote.close()
