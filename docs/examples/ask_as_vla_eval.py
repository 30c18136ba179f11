"""Two actions from a policy server of this repository, asked for as the harness vla-eval does:

    pip install websockets msgpack numpy
    python docs/examples/ask_as_vla_eval.py ws://127.0.0.1:8000/vla-eval "pick up the milk"

The server keeps the chunk: each observation is answered with the next action of it. Pictures and robot state are made
up here: grey squares, zeros. Prints what the server says about itself, and the actions, as JSON.
"""

import json
import sys
import time

import msgpack
import numpy as np
from websockets.sync.client import connect


def array(values):
    """An array as the harness writes it; its pictures are PNG files, which raw arrays may stand for."""
    return {"__ndarray__": True, "data": values.tobytes(), "dtype": values.dtype.str, "shape": values.shape}


def frame(kind, payload, seq):
    return msgpack.packb({"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}, default=array)


def main():
    url, instruction = sys.argv[1:]
    with connect(url, compression=None, max_size=None, proxy=None) as socket:
        # Hello: the server says which pictures and states it wants, and what its actions mean.
        socket.send(frame("hello", {"harness_version": "0.8.0", "protocol_version": 1}, 1))
        about = msgpack.unpackb(socket.recv())["payload"]
        # An episode begins; this has no answer. Whatever was left of a chunk is forgotten.
        socket.send(frame("episode_start", {"task": {"name": instruction}}, 2))
        grey = np.full((256, 256, 3), 128, np.uint8)  # upright
        observation = {"images": {"agentview": grey}, "task_description": instruction}
        if about["observation_params"]["send_wrist_image"]:
            observation["images"]["wrist"] = grey
        if about["observation_params"]["send_state"]:
            observation["states"] = np.zeros(8, np.float32)  # position, axis-angle, gripper
        actions = []
        for seq in (3, 4):
            socket.send(frame("observation", observation, seq))
            answer = msgpack.unpackb(socket.recv())
            if answer["type"] == "error":
                sys.exit(f"the server refuses the observation: {answer['payload']['error']}")
            actions.append(np.frombuffer(answer["payload"]["actions"]["data"], np.float32).tolist())
        socket.send(frame("episode_end", {"metrics": {"success": False}, "steps": 2, "elapsed_sec": 0.0}, 5))
    print(json.dumps({"about": about, "actions": actions}))


if __name__ == "__main__":
    main()
