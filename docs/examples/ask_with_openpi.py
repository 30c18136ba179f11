"""One question to a policy server of this repository, with openpi's own client:

    pip install openpi-client
    python docs/examples/ask_with_openpi.py 127.0.0.1 8000 "stack the red cube on the blue cube"

An API key, if the server wants one, comes from the environment variable VLA0_API_KEY. Pictures and robot state are made
up here: grey squares, zeros. The keys of the observation are those that the metadata names, so any policy is served.
Prints the answer as JSON.
"""

import json
import os
import sys

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def observe(metadata: dict, instruction: str) -> dict:
    """An observation in openpi's form, with the keys that this server's policy understands."""
    keys = metadata["observation_keys"]
    side = metadata["resolution"]
    observation = {key: np.full((side, side, 3), 128, np.uint8) for key in keys["views"].values()}  # upright
    observation[keys["instruction"]] = instruction
    if "proprio" in keys:  # the parts of the robot's state one after another, in the metadata's order
        parts = [np.zeros(size, np.float32) for size in metadata["proprio"].values()]
        observation[keys["proprio"]] = np.concatenate(parts)
    return observation


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    host, port, instruction = sys.argv[1:]
    try:
        client = WebsocketClientPolicy(host, int(port), api_key=os.environ.get("VLA0_API_KEY"))
    except ConnectionRefusedError:
        sys.exit(f"error: nothing listens at {host}, port {port}: is the server started, and its port open yet?")
    answer = client.infer(observe(client.get_server_metadata(), instruction))
    print(json.dumps({**answer, "actions": answer["actions"].tolist()}))


if __name__ == "__main__":
    main()
