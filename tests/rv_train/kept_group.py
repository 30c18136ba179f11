"""A run of one rank that fails while a collective is under way, and is forgotten at once. A program of its own: where
it goes wrong, it waits for ever, and not even a signal ends that.

    python -m tests.rv_train.kept_group
"""

import contextlib
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rv_train.distributed import launch


def fail(rank):
    model = DistributedDataParallel(nn.Linear(4, 4))  # noqa: F841 - it lives as long as the error does
    sys.setswitchinterval(60)  # Python's lock stays here unless it is given away
    dist.all_reduce(torch.ones(50_000_000), async_op=True)  # 40 ms in a thread, which then frees the tensor
    raise ValueError("fails")


if __name__ == "__main__":
    for _ in range(5):  # the first time much is imported, by which the lock is given away
        with contextlib.suppress(ValueError):
            launch(fail, [torch.device("cpu")])
        sys.setswitchinterval(0.005)
    print("forgotten", flush=True)  # with the errors, what DDP has of the models
    os._exit(0)  # a thread still waits
