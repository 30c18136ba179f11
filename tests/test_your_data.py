"""docs/your_data.md: its commands, one after another, as they stand there."""

import os
import re
import socket
import subprocess
import sys
import time

import pytest
import yaml

from rv_train.config import load_cfg
from tests.tiny import ROOT


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path):
    blocks = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "docs/your_data.md").read_text(), re.DOTALL)
    commands = [text for kind, text in blocks if kind == "bash"]
    (client,) = [text for kind, text in blocks if kind == "python"]
    serve = commands.pop()
    assert len(commands) == 5 and serve.rstrip().endswith("&")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def adapted(text):
        text = text.replace(".venv/bin/python", sys.executable).replace("8123", port)
        return text.replace("checkpoints/", f"{tmp_path}/").replace("eval_logs/", f"{tmp_path}/logs/")

    script = adapted("set -e\n" + "\n".join(commands)).replace("EXP.ID so_like", f"EXP.ID so_like EXP.DIR {tmp_path}")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    (recipe,) = re.findall(r"```\n(  recipe.*?)```", (ROOT / "docs/your_data.md").read_text(), re.DOTALL)
    for words in ("no problems", "\nloss ", "done: ", "open loop", recipe):
        assert words in done.stdout
    assert "142 of 142 pictures are missing" in done.stderr
    assert list((tmp_path / "logs/so_like").glob("*.png"))

    server = subprocess.Popen(adapted(serve).replace("&", "").split(), cwd=ROOT, env=env)
    try:
        ask(port, server)
        answer = subprocess.run(
            [sys.executable, "-c", adapted(client)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200
        )
        assert answer.returncode == 0, answer.stderr
        assert "(1, 2, 6)" in answer.stdout and "'observation.images.front': [96, 128]" in answer.stdout
    finally:
        server.terminate()
        server.wait(30)


def test_every_recipe_of_the_page_is_one(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/your_data.md").read_text(), re.DOTALL)
    keys = []
    for number, text in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        tree = yaml.safe_load(text)
        keys += [*tree["DATA"], *tree.get("ACTION", {})]
        cfg = load_cfg(path, ["ACTION.DIM", 6])
        assert all(cfg.DATA[key] == value for key, value in tree["DATA"].items())
    assert {"MIX", "MODE", "STATE", "ROTATION"} <= set(keys)


def ask(port, server):
    """Wait until somebody listens there."""
    for _ in range(600):
        assert server.poll() is None
        try:
            socket.create_connection(("127.0.0.1", int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server never listened")
