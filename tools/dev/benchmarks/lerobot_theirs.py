"""LeRobot's own loader in a process of its own, of a Python that has the package `lerobot` (it cannot stand beside this
project): started and asked by tools/dev/benchmarks/lerobot_sets.py, on standard input and output.

Arguments, as JSON: {"root", "backend", "action", "cameras", "horizon", "batch", "order", "look"}. First a line with its
version; then for each line that comes the seconds of processor time that reading `order` took, and at the end of input
the samples `look`, of `order`, in the npz file named by "out".
"""

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    rate = json.loads(Path(asked["root"], "meta/info.json").read_text())["fps"]
    # By name: it is no dependency of this project.
    lerobot = importlib.import_module("lerobot")
    dataset = importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset(
        "local/set",
        root=asked["root"],
        video_backend=asked["backend"],
        delta_timestamps={asked["action"]: [step / rate for step in range(asked["horizon"])]},
    )
    print(json.dumps(getattr(lerobot, "__version__", "unknown")), flush=True)
    for _ in sys.stdin:
        loader = torch.utils.data.DataLoader(dataset, batch_size=asked["batch"], sampler=asked["order"])
        start = time.process_time()
        for _ in loader:
            pass
        print(json.dumps(time.process_time() - start), flush=True)
    found = {}
    for index in asked["look"]:
        item = dataset[index]
        found[f"{index}/action"], found[f"{index}/task"] = item[asked["action"]].numpy(), item["task"]
        for camera in asked["cameras"]:
            found[f"{index}/{camera}"] = (item[camera].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    np.savez(asked["out"], **found)


main()
