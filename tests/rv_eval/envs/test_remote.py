"""Environments that live elsewhere: what is believed of the other end, and what becomes of an episode when it dies."""

import contextlib
import copy
import importlib.util
import os
import subprocess
import sys
import threading
import time

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

from libs.action_form import Rotations
from libs.errors import BadInput
from rv_eval.agent import AgentSettings
from rv_eval.envs.base import CannotStart, Episode, WorkerFailure
from rv_eval.envs.remote import RemoteSimulator
from rv_eval.envs.remote_line import StartedServer
from rv_eval.envs.remote_messages import read_action, read_error, read_greeting, read_reply
from rv_eval.playing.rollout import Rollout
from rv_eval.serving import wire
from rv_train.policies.base import Prediction
from tests.rv_eval.envs.elsewhere import COMMAND, EXAMPLES, Standing, box, gone, misbehaving
from tests.stuck import never_ends
from tests.tiny import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")


@pytest.fixture(scope="module")
def file():
    """docs/examples/serve_env.py."""
    spec = importlib.util.spec_from_file_location("serve_env", EXAMPLES / "serve_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(file):
    """The other end without a socket."""
    return file.Server(file.Box)


class Walker:
    """A policy that pushes the hand on, by what its picture shows: the same picture, the same answer."""

    horizon, action_dim, views, batch_rows, rotations = 3, 4, ("front",), 2, Rotations()

    def predict_detailed(self, observations):
        seeds = [int(observation["views"]["front"].astype(np.int64).sum()) for observation in observations]
        chunk = np.stack([np.random.default_rng(seed).uniform(-1, 1, (self.horizon, 4)) for seed in seeds])
        rows = np.ones(len(seeds), bool)
        return Prediction(chunk.astype(np.float32), valid=rows, repaired=~rows, texts=[""] * len(seeds))


def play(simulator, num_envs=1, first=0, episodes=4, timeout_s=20.0, seen=lambda result: None):
    """{episode: (success, steps, distance, incidents)}"""
    task = simulator.tasks[0]
    rollout = Rollout(
        Walker(), lambda task: simulator.make(task, 32, "plain"), AgentSettings(), num_envs, timeout_s=timeout_s
    )
    found = {}
    for result in rollout.run([Episode(task, first + number, 7, task.max_steps) for number in range(episodes)]):
        found[result.episode.init_state] = result.success, result.steps, result.facts["distance"], len(result.incidents)
        seen(result)
    return found


def without_incidents(found):
    return {number: outcome[:3] for number, outcome in found.items()}


@pytest.fixture(scope="module")
def undisturbed():
    with RemoteSimulator(command=COMMAND) as simulator:
        return play(simulator, num_envs=2)


# ---- when something dies


def test_a_dead_and_a_hanging_environment_are_incidents_and_change_no_result(undisturbed, tmp_path):
    assert [outcome[3] for outcome in undisturbed.values()] == [0] * 4
    for trouble in ("os._exit(7)", "time.sleep(600)", "raise RuntimeError('the physics exploded')"):
        folder = tmp_path / trouble[:5]
        folder.mkdir()
        with RemoteSimulator(command=misbehaving(folder, trouble, at=1)) as simulator:
            found = play(simulator, timeout_s=1.0 if "sleep" in trouble else 20.0)
        assert without_incidents(found) == without_incidents(undisturbed)
        assert {number: outcome[3] for number, outcome in found.items()} == {0: 0, 1: 1, 2: 0, 3: 0}


def test_a_killed_server_that_comes_back_at_its_address_is_an_incident(undisturbed):
    standing, other = Standing(), Standing()
    starting = threading.Timer(0.3, standing.start)

    def kill_once(_):
        if not starting.ident:
            standing.kill()
            starting.start()

    try:
        with RemoteSimulator([standing.url, other.url]) as simulator:
            found = play(simulator, num_envs=2, seen=kill_once)
    finally:
        starting.join()
        standing.kill()
        other.kill()
    assert without_incidents(found) == without_incidents(undisturbed)
    assert sum(outcome[3] for outcome in found.values()) <= 1


LEFT_BEHIND = """
import sys, time
from rv_eval.envs.remote import RemoteSimulator
simulator = RemoteSimulator(command=sys.argv[1])
print(simulator.make(simulator.tasks[0], 32, "plain").pid, flush=True)
time.sleep(60)
"""


def test_an_environment_ends_with_the_process_that_started_it():
    command = [sys.executable, "-c", LEFT_BEHIND, COMMAND]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as evaluation:
        pid = int(evaluation.stdout.readline())
        assert os.path.exists(f"/proc/{pid}")
        evaluation.kill()
    assert gone(pid)


def test_closing_ends_the_process_and_says_nothing_twice():
    with RemoteSimulator(command=COMMAND) as simulator:
        env = simulator.make(simulator.tasks[0], 32, "plain")
        pid = env.pid
        env.begin(Episode(env.task, 0, 7, 12), ())
        env.close()
        env.close()
        assert gone(pid)


def test_a_process_that_nobody_can_kill_is_given_up(monkeypatch):
    server = StartedServer(f"{sys.executable} -c 'import sys; sys.stdin.read()'")
    process = server._process
    with monkeypatch.context() as stuck:
        stuck.setattr(process, "wait", never_ends)
        server.close()
    assert process.wait(10) is not None


def test_more_answers_than_a_socket_holds_may_wait():
    with RemoteSimulator(command=COMMAND) as simulator:
        env = simulator.make(simulator.tasks[0], 32, "plain")
        env.begin(Episode(env.task, 0, 7, 12), ())
        for _ in range(600):
            env.act(np.zeros(4), ())
        time.sleep(1.0)
        replies = [env.wait(20.0) for _ in range(601)]
        assert len({reply.facts["distance"] for reply in replies}) == 1
        with pytest.raises(WorkerFailure, match="no answer within"):
            env.wait(0.1)
        env.close()


# ---- what cannot be used


def test_what_cannot_be_started_is_bad_input_in_a_line():
    for command, told in (
        ("no_such_program", "--env_command: no_such_program cannot be started"),
        (f"{COMMAND.split()[0]} -c 'raise SystemExit(3)'", "its process ended with code 3: no message"),
        (f"{COMMAND.split()[0]} -c 'print(2**18 * \"noise\\n\"); print(1 / 0)'", "ZeroDivisionError: division by zero"),
        (f"{COMMAND.split()[0]} -c 'import no_such_simulator'", "No module named 'no_such_simulator'"),
        (" ", "--env_command is empty"),
        ("a 'b", "No closing quotation"),
    ):
        with pytest.raises(BadInput, match=told):
            RemoteSimulator(command=command)
    for urls, told in ((["ws://127.0.0.1:1"] * 2, "twice"), (["ws://127.0.0.1:x"], "ws://host:port")):
        with pytest.raises(BadInput, match=told):
            RemoteSimulator(urls)


def test_nobody_at_an_address_and_one_that_has_a_client(monkeypatch):
    monkeypatch.setattr("rv_eval.envs.remote.FIRST_PATIENCE_S", 0.5)
    with pytest.raises(BadInput, match=r"nobody answers at ws://127\.0\.0\.1:1"):
        RemoteSimulator(["ws://127.0.0.1:1"])
    standing = Standing()
    try:
        with RemoteSimulator([standing.url]) as simulator:
            with pytest.raises(BadInput, match="the environment has a client"):
                RemoteSimulator([standing.url])
            first = simulator.make(simulator.tasks[0], 32, "plain")
            with pytest.raises(BadInput, match="there are 1 addresses, an environment each"):
                simulator.make(simulator.tasks[0], 32, "plain")
            first.close()
            simulator.make(simulator.tasks[0], 32, "plain").close()
    finally:
        standing.kill()


@contextlib.contextmanager
def lying(*answers):
    """The address of something that says this, one thing for each message, and the last again and again."""

    def talk(connection):
        with contextlib.suppress(ConnectionClosed):
            connection.send(answers[0])
            for number, _ in enumerate(connection, start=1):
                connection.send(answers[min(number, len(answers) - 1)])

    with serve(talk, "127.0.0.1", 0, compression=None) as listener:
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        listener.shutdown()
        thread.join()


def test_what_is_no_environment_is_refused(file, monkeypatch):
    monkeypatch.setattr("rv_eval.envs.remote.FIRST_PATIENCE_S", 0.5)
    about = file.Server(file.Box).about
    for greeting, told in (
        (b"\xc1", "not a readable message"),
        ("hello", "text, not messages"),
        (wire.pack([1]), "a list, not a map"),
        (wire.pack({"protocol": "vla0-robot/1"}), "protocol 'vla0-env/1' but 'vla0-robot/1'"),
        (file.packed({**about, "views": []}), "its views are not a list of 1 to 16"),
        (bytes(33 * 2**20), "nobody answers"),
    ):
        with lying(greeting) as url, pytest.raises(BadInput, match=told):
            RemoteSimulator([url])


def test_wrong_answers_end_the_evaluation(file):
    about, done = file.packed(file.Server(file.Box).about), file.packed({"done": True})
    for answers, told in (
        ([done, file.packed({"views": {}})], "has not the views front"),
        ([done, b"\xc1"], "not a readable message"),
        ([file.packed({"error": "no display", "kind": "start"})], "cannot be started: no display"),
        ([done, file.packed({"error": "it is late", "kind": "request"})], "refuses a request: it is late"),
    ):
        with lying(about, *answers) as url, RemoteSimulator([url]) as simulator, pytest.raises(BadInput, match=told):
            play(simulator)


# ---- the messages, from here


def changed(tree, path, value):
    tree = copy.deepcopy(tree)
    *way, last = path
    place = tree
    for name in way:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["name"], "a/b", "name is letters"),
        (["name"], None, "name is not a text"),
        (["views"], ["front", "front"], "two of its views"),
        (["views"], ["../front"], "a view is letters"),
        (["proprio", "hand"], 0, "hand is not a number from 1"),
        (["proprio"], [3], "its proprio is not a map"),
        (["actions", 1, "levels"], [1.0, -1.0], "levels"),
        (["actions", 1, "size"], True, "size is not a number"),
        (["actions", 1, "name"], "move", "two of its actions"),
        (["control_hz"], float("nan"), "control_hz"),
        (["num_settle_steps"], -1, "num_settle_steps"),
        (["versions", "box"], 1, "map of names to texts"),
        (["expert"], 1, "expert is not true or false"),
        (["tasks", 0, "instruction"], "ä" * 300, "more than 512 bytes"),
        (["tasks", 0, "instruction"], " ", "instruction is not a text"),
        (["tasks", 0, "num_init_states"], 0, "num_init_states is not a number from 1"),
        (["tasks"], "all", "its tasks are not a list"),
    ],
)
def test_a_greeting_is_checked(server, path, value, told):
    with pytest.raises(BadInput, match=told):
        read_greeting(changed(server.about, path, value))


def test_two_tasks_of_the_same_number_are_refused(server):
    with pytest.raises(BadInput, match="two of its tasks"):
        read_greeting({**server.about, "tasks": server.about["tasks"] * 2})


OBSERVATION = {
    "views": {"front": np.zeros((32, 32, 3), np.uint8)},
    "proprio": {"hand": np.zeros(3), "gripper": np.zeros(1, np.float32)},
    "success": False,
    "facts": {"distance": 0.5},
}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["views"], {}, "has not the views front"),
        (["views", "back"], np.zeros((32, 32, 3), np.uint8), "has not the views front"),
        (["views", "front"], np.zeros((32, 32), np.uint8), r"not uint8 \(32, 32, 3\) but uint8 \(32, 32\)"),
        (["views", "front"], np.zeros((32, 32, 3)), "but float64"),
        (["views", "front"], b"picture", "but bytes"),
        (["proprio", "hand"], None, "has not the proprio"),
        (["proprio", "hand"], np.zeros(4), "hand is not 3 numbers"),
        (["proprio", "hand"], [0.0] * 3, "hand is not 3 numbers but list"),
        (["success"], 1, "success"),
        (["facts"], {"a": float("inf")}, "4096 bytes of JSON"),
        (["facts"], {"a": "b" * 5000}, "4096 bytes of JSON"),
        (["facts"], {"a": np.zeros(2)}, "4096 bytes of JSON"),
    ],
)
def test_a_reply_is_checked(server, path, value, told):
    about = read_greeting(server.about).description
    assert read_reply(OBSERVATION, about, "do it", ("front",), 32).observation["instruction"] == "do it"
    with pytest.raises(BadInput, match=told):
        read_reply(changed(OBSERVATION, path, value), about, "do it", ("front",), 32)


def test_numbers_that_are_not_finite_are_a_broken_simulation(server):
    about = read_greeting(server.about).description
    with pytest.raises(WorkerFailure, match="hand is not finite"):
        read_reply(changed(OBSERVATION, ["proprio", "hand"], np.full(3, np.nan)), about, "do it", ("front",), 32)
    with pytest.raises(WorkerFailure, match="action is not finite"):
        read_action({"action": np.full(4, np.inf)}, about)
    with pytest.raises(BadInput, match="its error has no kind"):
        read_error({"error": "x", "kind": "other"})
    for kind, error in (("start", CannotStart), ("failed", WorkerFailure)):
        with pytest.raises(error, match="why"):
            read_error({"error": "why", "kind": kind})


# ---- the messages, from there

MAKE = {"do": "make", "suite": "box", "task_id": 0, "resolution": 16, "render": "plain"}
BEGIN = {"do": "begin", "init_state": 3, "seed": 7, "settle": 0, "views": ["front"]}
ACT = {"do": "act", "action": np.zeros(4), "views": []}


def answer_to(server, request):
    message = wire.pack(request, wire.Form.TEXT_KEYS) if isinstance(request, dict) else request
    return wire.unpack(server.answer(message))


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ("make", "binary message"),
        (b"", "not a readable message"),
        (b"\x91" * 5000, "not a readable message"),
        (b"\xdd\xff\xff\xff\xff", "not a readable message"),
        (msgpack.packb(msgpack.ExtType(3, b"x")), "not a readable message"),
        (msgpack.packb([1]), "a map whose do is one of make, begin, act, expert"),
        ({"do": "quit"}, "a map whose do is one of"),
        ({"do": ["make"]}, "a map whose do is one of"),
        ({**MAKE, "task_id": 1}, "no task 1 of suite 'box'"),
        ({**MAKE, "resolution": 10**6}, "resolution is not as it must be"),
        ({**MAKE, "resolution": True}, "resolution is not as it must be"),
        ({**MAKE, "more": 1}, "make has the entries suite, task_id, resolution, render"),
        ({**MAKE, "render": "nonsense"}, "unknown render setting 'nonsense'"),
        ({**BEGIN, "views": ["back"]}, "no view 'back'"),
        ({**BEGIN, "views": [["front"]]}, "no view"),
        ({**BEGIN, "init_state": -1}, "init_state is not as it must be"),
        ({**ACT, "action": np.zeros(5)}, "an action is 4 finite numbers"),
        ({**ACT, "action": np.full(4, np.nan)}, "an action is 4 finite numbers"),
        ({**ACT, "action": np.zeros((2, 2))}, "an array is a row"),
        ({**ACT, "action": np.zeros(4, np.int64)}, "an array is a row"),
        ({**ACT, "action": [0.0] * 4}, "action is not as it must be"),
    ],
)
def test_the_file_refuses_what_is_wrong_and_lives_on(server, request_, told):
    for request in ({**MAKE}, {**BEGIN}):
        assert "error" not in answer_to(server, request)
    found = answer_to(server, request_)
    assert found["kind"] == "request" and told in found["error"]
    if request_ not in ("make",) and isinstance(request_, dict) and request_["do"] == "make":
        server.answer(wire.pack(MAKE, wire.Form.TEXT_KEYS))  # a wrong one ends the simulation before
        server.answer(wire.pack(BEGIN, wire.Form.TEXT_KEYS))
    assert "error" not in answer_to(server, ACT)


def test_the_file_says_that_there_is_nothing_to_play_with(server, file, monkeypatch, capsys):
    assert "make one first" in answer_to(server, ACT)["error"]
    answer_to(server, MAKE)
    monkeypatch.setattr(file.Box, "act", lambda self, action: 1 / 0)
    answer_to(server, BEGIN)
    found = answer_to(server, ACT)
    assert found == {"error": "ZeroDivisionError: division by zero", "kind": "failed"}
    assert "make one first" in answer_to(server, ACT)["error"], "nothing is known of a simulation that broke"
    monkeypatch.setattr(file.Box, "__init__", lambda self, *args: 1 / 0)
    assert answer_to(server, MAKE)["kind"] == "start"
    assert "ZeroDivisionError" in capsys.readouterr().err, "its traceback stands in its own console"


def test_a_web_page_cannot_play():
    standing = Standing()
    try:
        with pytest.raises(InvalidStatus, match="403"):
            connect(standing.url, origin="http://somewhere.example", proxy=None, legacy=True)
    finally:
        standing.kill()


def test_its_own_files_import_nothing_of_ours():
    for name in ("serve_env.py", "serve_metaworld.py"):
        text = (EXAMPLES / name).read_text()
        for package in ("libs", "rv_train", "rv_eval", "tools", "torch"):
            assert f"import {package}" not in text and f"from {package}" not in text


def test_tasks_are_chosen_by_suite_number_and_name():
    import argparse

    simulator = box()
    parser = argparse.ArgumentParser()
    simulator.add_task_arguments(parser.add_argument)
    for words, told in (
        (["--task_suite", "cube"], "--task_suite cube: there are box"),
        (["--task_ids", "3"], "--task_ids 3: there are 0"),
        (["--task_names", "x"], "--task_names x: there are close_at_the_ball"),
        (["--task_ids", "0", "--task_names", "x"], "give one of them"),
    ):
        with pytest.raises(BadInput, match=told):
            simulator.choose_tasks(parser.parse_args(words))
    assert simulator.choose_tasks(parser.parse_args(["--task_ids", "0"])) == list(simulator.tasks)
