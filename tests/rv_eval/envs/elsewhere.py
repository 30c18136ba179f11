"""Environments in processes of their own, from docs/examples/serve_env.py: its box, and boxes that misbehave."""

import functools
import socket
import subprocess
import sys
import time

from rv_eval.envs.remote import RemoteSimulator
from tests.tiny import ROOT

EXAMPLES = ROOT / "docs/examples"
COMMAND = f"{sys.executable} {EXAMPLES / 'serve_env.py'}"
# A box that does what its environment variables say, once: TROUBLE "die" or "hang", in episode TROUBLE_AT; MARKER is a
# file that is there afterwards.
MISBEHAVING = """
import os, sys, time
sys.path.insert(0, {examples!r})
import serve_env

class Box(serve_env.Box):
    def reset(self, init_state, seed):
        super().reset(init_state, seed)
        self.number = init_state

    def act(self, action):
        super().act(action)
        if self.number == {at} and not os.path.exists({marker!r}):
            open({marker!r}, "w").close()
            {trouble}

serve_env.main(Box)
"""


@functools.cache
def box():
    """One simulator for all tests; its process ends with this one."""
    return RemoteSimulator(command=COMMAND)


def misbehaving(folder, trouble, at=0):
    """The command of a box whose first action in episode `at` is followed by `trouble`, a statement, once."""
    file = folder / "box.py"
    file.write_text(MISBEHAVING.format(examples=str(EXAMPLES), marker=str(folder / "marker"), trouble=trouble, at=at))
    return f"{sys.executable} {file}"


class Standing:
    """An environment that stands at an address; killed and started again it is at the same one."""

    def __init__(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        words = [*COMMAND.split(), "--port", str(self.port)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline().strip() == self.url

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def gone(pid, seconds=10.0):
    """Whether a process ends within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.02)
    return False
