"""tools/serve_policy.py as a process, and tools/dev/fuzz_server.py in short."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from rv_eval.policy import Policy
from rv_eval.serving.port import take_port
from rv_eval.serving.remote_policy import RemotePolicy
from rv_eval.serving.serve import ServerLimits
from tests.rv_eval.servers import PicturePolicy, observation, openpi_observation, running, wait_until
from tests.tiny import ROOT, make_tiny_checkpoint
from tools import serve_policy
from tools.dev import fuzz_attacks, fuzz_server

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """openpi-client would ask the environment's proxy even for 127.0.0.1."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture
def serve(run):
    """Starts servers: (options, environment) -> (process, its line when ready; read False: None, at once)."""
    started = []

    def start(*options, read=True, **environment):
        command = [sys.executable, "tools/serve_policy.py", "--model_path", str(run), "--device", "cpu", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
        return started[-1], started[-1].stdout.readline() if read else None

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_one_server_from_start_to_kill_9_to_sigterm(run, serve):
    local = Policy.from_checkpoint(run, batch_rows=2)
    observations = [observation(seed, side=64) for seed in range(3)]
    wanted = local.predict_detailed(observations)

    process, line = serve("--port", "0", "--policy_batch", "2", "--host", "0.0.0.0", VLA0_API_KEY="s3cret")
    port = int(re.match(r"serving ws://0\.0\.0\.0:(\d+) \| ", line).group(1))
    about = local.describe()
    for part in (about["model_folder"], "2 x 7 actions", "batches of 2 on cpu", about["model_fingerprint"][:12]):
        assert part in line
    openpi = WebsocketClientPolicy("127.0.0.1", port, "s3cret")
    for place, own in enumerate(observations):
        answer = openpi.infer(openpi_observation(own))
        np.testing.assert_array_equal(answer["actions"], wanted.chunk[place])
    assert about.items() < openpi.get_server_metadata().items()

    remote = RemotePolicy(f"ws://127.0.0.1:{port}", "s3cret")
    np.testing.assert_array_equal(remote.predict(observations), wanted.chunk)
    process.kill()
    process.wait()
    again = threading.Thread(
        target=lambda: replies.append(serve("--port", str(port), "--policy_batch", "2", VLA0_API_KEY="s3cret"))
    )
    replies = []
    again.start()
    np.testing.assert_array_equal(remote.predict(observations), wanted.chunk)
    assert remote.reconnects > 0
    again.join()
    remote.close()

    ((process, _),) = replies
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert process.stdout.read() == "stopping\n" and process.stderr.read() == ""


@pytest.mark.parametrize(
    "host, key, warning",
    [
        ("0.0.0.0", None, "warning: anyone who reaches ws://0.0.0.0:"),
        ("0.0.0.0", "s3cret", ""),
        ("127.0.0.1", None, ""),
        ("localhost", None, ""),
    ],
)
def test_ctrl_c_and_the_warning_without_a_key(host, key, warning, capsys):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ctrl_c = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    ctrl_c.start()
    try:
        assert asyncio.run(serve_policy.serve(ServerLimits(), key, take_port(host), PicturePolicy))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    printed = capsys.readouterr()
    assert re.fullmatch(r"serving ws://[0-9.]+:\d+ \| runs/pictures: .*\nstopping\n", printed.out)
    assert printed.err.startswith(warning) and len(printed.err.splitlines()) == bool(warning)


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        serve_policy.main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ""
    assert len(printed.err.splitlines()) == 1 and printed.err.startswith("error: ")
    return printed.err


def test_wrong_input_is_one_line(run, tmp_path, capsys, monkeypatch):
    port = ["--port", "0"]  # somebody may sit at the default one
    model = ["--model_path", str(run), "--device", "cpu", *port]
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "blanks").write_text("a b")
    for arguments, message in (
        (["--model_path", str(tmp_path / "no"), *port], "does not exist"),
        ([*model, "--port", "70000"], "--port"),
        ([*model, "--threads", "0"], "--threads"),
        ([*model, "--policy_batch", "0"], "0"),
        ([*model, "--max_clients", "0"], "clients"),
        ([*model, "--batch_wait_ms", "-1"], "0 to 1 s"),
        ([*model, "--idle_timeout", "0"], "idle"),
        ([*model, "--api_key_file", str(tmp_path / "no")], "does not exist"),
        ([*model, "--api_key_file", str(tmp_path / "empty")], "is empty or not printable"),
        ([*model, "--api_key_file", str(tmp_path / "blanks")], "without spaces"),
    ):
        assert message in refused(arguments, capsys)
    monkeypatch.setenv("VLA0_API_KEY", "")
    assert "VLA0_API_KEY is empty" in refused(model, capsys)


def test_a_port_that_cannot_be_had_is_one_line(run, capsys):
    arguments = ["--model_path", str(run), "--device", "cpu", "--port"]
    with running(PicturePolicy()) as server:
        said = refused([*arguments, str(server.port)], capsys)
    assert f"cannot listen at 127.0.0.1, port {server.port}: " in said
    assert "address already in use; choose another port (0: any that is free)" in said
    assert "cannot listen at no.host.invalid" in refused([*arguments, "0", "--host", "no.host.invalid"], capsys)


@pytest.mark.slow
def test_the_port_is_taken_before_anything_large_is_imported(run):
    """Which takes seconds where it is read from a disk for the first time."""
    missing = "sys.modules.update(dict.fromkeys(('torch', 'numpy', 'asyncio', 'websockets')))"
    code = f"import sys; {missing}; from tools.serve_policy import main; main()"
    with running(PicturePolicy()) as server:
        command = [sys.executable, "-c", code, "--model_path", str(run), "--port", str(server.port)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "address already in use" in done.stderr


@pytest.mark.slow
def test_told_to_end_while_the_model_is_loaded(serve):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    process, _ = serve("--port", str(port), read=False)
    wait_until(lambda: status(port), 30)
    assert status(port) == "loading", "importing torch alone takes seconds"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert process.stdout.read() == "stopping\n" and process.stderr.read() == ""


def status(port):
    """What /healthz says; None: nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/healthz")
        return json.load(connection.getresponse())["status"]
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


@pytest.mark.slow
def test_without_the_extra_one_line_says_what_to_install(run):
    code = "import sys; sys.modules['websockets'] = None; from tools.serve_policy import main; main()"
    command = [sys.executable, "-c", code, "--model_path", str(run), "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: websockets is not installed: pip install -e '.[serve]'\n")


@pytest.mark.slow
def test_a_few_seconds_of_attacks(run, capsys):
    kinds = [kind.__name__ for kind in (*fuzz_attacks.MESSAGES, *fuzz_attacks.MANNERS)]
    fuzz_server.main(["--model_path", str(run), "--seconds", "1.5", "--clients", str(len(kinds))])
    said = capsys.readouterr().out
    assert said.endswith("\nthe server holds\n")
    assert re.findall(r"^(\w+) +\d+", said, re.MULTILINE) == [*sorted(kinds), "all"]
    for name in ("openpi-client", "vla-eval's form"):
        assert re.search(rf"honest client \({name}\) during the attack: \d+ answers", said)


class BadPolicy(PicturePolicy):
    """Its answers depend on how often it was asked."""

    def chunk(self, observation):
        return super().chunk(observation) + len(self.batches) // 40


@pytest.mark.slow
def test_the_fuzzer_sees_wrong_answers_and_dead_servers(capsys):
    with running(BadPolicy()) as server, pytest.raises(SystemExit) as stop:
        fuzz_server.main(["--url", server.url, "--seconds", "1", "--clients", "4"])
    assert stop.value.code == 1
    assert "FAILED: the honest client (openpi-client): RuntimeError: question" in capsys.readouterr().out

    with running(PicturePolicy()) as server:
        closing = threading.Timer(0.5, server.leave)
        closing.start()
        with pytest.raises(SystemExit) as stop:
            fuzz_server.main(["--url", server.url, "--seconds", "1", "--clients", "2"])
    said = capsys.readouterr().out
    assert stop.value.code == 1 and "FAILED: /healthz does not answer" in said
