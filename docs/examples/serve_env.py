"""A simulator in a Python environment of its own takes part in this project's evaluations: copy this file there, where
numpy, websockets (15 or later) and msgpack are installed, and write a class like `Box` below in a file beside it that
ends with `serve_env.main(MySimulation)`. docs/examples/serve_metaworld.py is one. Here is nothing to change.

    python my_env.py --port 8020        waits for evaluations, one after the other: tools/eval_env.py --env ws://HOST:8020
    tools/eval_env.py --env_command "THERE/bin/python my_env.py"        starts as many of them as it wants, with --child

A process is one environment and has one client at a time; the simulation runs in its main thread. Nothing of what comes
is trusted: messages are small, nothing is unpickled, what is wrong is refused in words. But whoever reaches the port
can play, so leave it on 127.0.0.1 or in a network of yours.
"""

import argparse
import contextlib
import os
import queue
import sys
import threading
import traceback

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

PROTOCOL = "vla0-env/1"
MAX_BYTES = 2**16  # of a request; an action of a thousand numbers has 8,000
MAX_WAITING = 1000  # requests that are read before they can be done
BUSY = 1013  # websocket's "try again later"
NUMBERS = ("<f4", "<f8")


class Box:
    """What is to be written: a hand in a box has to close at a ball. Every method but `expert` is needed."""

    @staticmethod
    def describe():
        """What is always true. tasks: `name` and `suite` go into file names; `num_init_states` beginnings are numbered
        from 0, and evaluations use no others, demonstrations only others. actions: parts in order; `levels` (low, high)
        of a gripper that opens or closes, None where any number is. versions: results of other ones are not compared.
        reported_render: the render setting of everybody's results, None: there is none. drawn_by: what else is to be
        known of the pictures."""
        task = {"suite": "box", "task_id": 0, "name": "close_at_the_ball", "instruction": "close the hand at the ball"}
        return {
            "name": "box",
            "benchmark": "box",
            "views": ["front"],
            "proprio": {"hand": 3, "gripper": 1},
            "actions": [{"name": "move", "size": 3, "levels": None}, {"name": "gripper", "size": 1, "levels": None}],
            "control_hz": 5.0,
            "num_settle_steps": 0,
            "reported_render": None,
            "versions": {"box": "1.0"},
            "drawn_by": {},
            "tasks": [{**task, "max_steps": 12, "num_init_states": 100}],
        }

    def __init__(self, task, resolution, render):
        """task: an entry of `tasks`. resolution: pixels on each side of a picture. render: how it is drawn; Refused
        for one that is not known."""
        if render not in ("plain", "dark"):
            raise Refused(f"unknown render setting {render!r}: known are plain, dark")
        self.resolution, self.background = resolution, 250 if render == "plain" else 20

    def reset(self, init_state, seed):
        """Begin the episode of this number: the same one whatever was played before. seed: of what that leaves open."""
        self.ball, self.hand = np.random.default_rng(init_state).uniform(0.1, 0.9, (2, 3))
        self.closed = 0.0

    def settle(self, steps):
        """So many steps without a policy."""

    def act(self, action):
        """One action, (A,) float64."""
        self.hand = np.clip(self.hand + 0.1 * np.clip(action[:3], -1, 1), 0, 1)
        self.closed = float(action[3])

    def observe(self, views):
        """({camera: (R, R, 3) uint8, upright} of `views`, {part of the robot's state: (n,) floats} of all)."""
        picture = np.full((self.resolution, self.resolution, 3), self.background, np.uint8)
        for place, colour in ((self.ball, (220, 40, 40)), (self.hand, (40, 40, 220))):
            row, column = (0.9 * self.resolution * place[1:]).astype(int)
            picture[row : row + 3, column : column + 3] = colour
        return dict.fromkeys(views, picture), {"hand": self.hand, "gripper": np.array([self.closed])}

    def success(self):
        """Whether the goal is reached; the first time ends the episode."""
        return np.abs(self.hand - self.ball).max() < 0.15 and self.closed > 0.5

    def facts(self):
        """What else there is to tell of the episode so far: {name: number or text}."""
        return {"distance": float(np.abs(self.hand - self.ball).max())}

    def expert(self):
        """The action (A,) of somebody who knows how, from here; only where demonstrations are to be collected."""
        away = 10 * (self.ball - self.hand)
        return np.append(np.clip(away, -1, 1), np.abs(away).max() < 1.0)

    def close(self):
        """Nothing is asked any more."""


class Refused(ValueError):
    """What was asked for cannot be; the simulation lives on."""


class Server:
    """Lets one client after the other play with a simulation of the class `kind`."""

    def __init__(self, kind):
        self.kind, self.about = kind, {"protocol": PROTOCOL, **kind.describe(), "expert": hasattr(kind, "expert")}
        self.simulation = None
        self._client, self._busy = None, threading.Lock()
        self._requests = queue.Queue(MAX_WAITING)  # (client, message), None as its last

    def __call__(self, client):
        """One connection, in a thread of its own."""
        if not self._busy.acquire(blocking=False):
            client.close(BUSY, "the environment has a client")
            return
        try:
            self._client = client
            client.send(packed(self.about))
            for message in client:
                self._requests.put((client, message))
        except ConnectionClosed:
            pass
        finally:
            self._client = None
            self._requests.put((client, None))
            self._busy.release()

    def run(self):
        """Do what is asked, in the calling thread: pictures may need to be drawn in the main one."""
        while True:
            client, message = self._requests.get()
            if message is None:
                self._end()
            elif client is self._client:
                answer = self.answer(message)
                with contextlib.suppress(ConnectionClosed):
                    client.send(answer)

    def answer(self, message):
        """Packed: what was asked for, or {"error": what is wrong, "kind": "request", "start" or "failed"}."""
        kind = "request"
        try:
            request = read_request(message)
            kind = "start" if request["do"] == "make" else "failed"
            return packed(self._do(**request))
        except Exception as error:
            if isinstance(error, Refused):
                kind = "request"
            else:  # of the simulator's own: nothing is known of its state any more
                traceback.print_exc()
                self._end()
            text = str(error) if kind == "request" else f"{type(error).__name__}: {error}"
            return packed({"error": text[:500], "kind": kind})

    def _do(self, do, **request):
        if do == "make":
            self._end()
            self.simulation = self._make(**request)
            return {"done": True}
        if self.simulation is None:
            raise Refused("there is no simulation: make one first")
        if do == "expert":
            return {"action": np.asarray(self.simulation.expert(), np.float64)}
        views = request.pop("views")
        unknown = [view for view in views if view not in self.about["views"]]
        if unknown:
            raise Refused(f"there is no view {str(unknown[0])[:40]!r}")
        if do == "begin":
            self.simulation.reset(request["init_state"], request["seed"])
            self.simulation.settle(request["settle"])
        else:
            self.simulation.act(self._action(request["action"]))
        pictures, proprio = self.simulation.observe(tuple(views))
        pictures = {view: np.ascontiguousarray(pictures[view]) for view in views}
        proprio = {part: np.asarray(values, np.float64) for part, values in proprio.items()}
        success = bool(self.simulation.success())
        return {"views": pictures, "proprio": proprio, "success": success, "facts": self.simulation.facts()}

    def _make(self, suite, task_id, resolution, render):
        for task in self.about["tasks"]:
            if (task["suite"], task["task_id"]) == (suite, task_id):
                return self.kind(task, resolution, render)
        raise Refused(f"there is no task {task_id} of suite {suite[:40]!r}")

    def _action(self, action):
        size = sum(part["size"] for part in self.about["actions"])
        if not isinstance(action, np.ndarray) or action.shape != (size,) or not np.isfinite(action).all():
            raise Refused(f"an action is {size} finite numbers")
        return action.astype(np.float64)

    def _end(self):
        simulation, self.simulation = self.simulation, None
        if simulation is not None:
            simulation.close()


# ---- messages: maps whose arrays are {"__ndarray__": true, "data": bytes, "dtype": "<f8", "shape": [7]}

INT = {"init_state": 2**31, "seed": 2**32, "settle": 10_000, "task_id": 2**31, "resolution": 2048}
ENTRIES = {
    "make": {"suite": str, "task_id": int, "resolution": int, "render": str},
    "begin": {"init_state": int, "seed": int, "settle": int, "views": list},
    "act": {"action": np.ndarray, "views": list},
    "expert": {},
}


def read_request(message):
    """The request of a message. Refused: it is none."""
    if not isinstance(message, bytes):
        raise Refused("a request is a binary message")
    limits = {"max_str_len": 1000, "max_bin_len": MAX_BYTES, "max_array_len": 100, "max_map_len": 20, "max_ext_len": 0}
    try:
        request = msgpack.unpackb(message, object_hook=_array, **limits)
    except Refused:
        raise
    except Exception as error:  # msgpack raises many kinds
        raise Refused(f"not a readable message: {type(error).__name__}") from None
    entries = ENTRIES.get(request.get("do")) if isinstance(request, dict) and type(request.get("do")) is str else None
    if entries is None:
        raise Refused(f"a request is a map whose do is one of {', '.join(ENTRIES)}")
    if set(request) != {"do", *entries}:
        raise Refused(f"{request['do']} has the entries {', '.join(entries) or 'do only'}")
    for name, kind in entries.items():
        value = request[name]
        if type(value) is not kind or (kind is int and not 0 <= value < INT[name]):
            raise Refused(f"{name} is not as it must be")
    return request


def _array(found):
    if "__ndarray__" not in found:
        return found
    data, dtype, shape = found.get("data"), found.get("dtype"), found.get("shape")
    size = np.dtype(dtype).itemsize if dtype in NUMBERS else 0
    if not size or not isinstance(data, bytes) or len(data) % size or shape != [len(data) // size]:
        raise Refused(f"an array is a row of {' or '.join(NUMBERS)}")
    return np.frombuffer(data, dtype)


def packed(message):
    return msgpack.packb(message, default=_map)


def _map(value):
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise TypeError(f"a {type(value).__name__} cannot be told")
    data = {"data": value.tobytes(), "dtype": value.dtype.newbyteorder("<").str, "shape": value.shape}
    return {"__ndarray__": True, **data}


def _end_with_parent():
    while sys.stdin.buffer.read1(4096):
        pass
    os._exit(0)


def main(kind):
    """The command line of an environment of the class `kind`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8020, help="0: any")
    parser.add_argument("--child", action="store_true", help="any port, told on stdout; ends when stdin does")
    args = parser.parse_args()
    out = os.dup(1)
    os.dup2(2, 1)  # what simulators print goes to stderr: stdout says the address only
    if args.child:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    server = Server(kind)
    options = {"compression": None, "origins": [None], "ping_interval": None, "max_size": MAX_BYTES, "close_timeout": 1}
    with serve(server, args.host, 0 if args.child else args.port, **options) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        os.write(out, f"ws://{args.host}:{listener.socket.getsockname()[1]}\n".encode())
        os.close(out)
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
    os._exit(0)  # a client's thread may still wait for its next word


if __name__ == "__main__":
    main(Box)
