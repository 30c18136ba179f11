"""Two ranks of which one ends in some way while the other waits: for tests, and as a program.

python -m tests.rv_train.waiting_ranks {listens,waits}
"""

import os
import signal
import sys
import time

import torch

from libs.errors import BadInput
from rv_train.distributed import launch, stop_requested

CPUS = [torch.device("cpu")] * 2


def worker(rank, what):
    """Rank 1 stands for one that waits inside NCCL: Python's signal handlers do not run there."""
    if rank.rank == 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        print("waits", flush=True)
    torch.distributed.barrier()  # not before it was printed: the first rank to fail ends the others
    if rank.rank == 1:
        time.sleep(600)
    elif what == "refuses":
        raise BadInput("bad input,\nin two lines")
    elif what == "loads":
        next(iter(torch.utils.data.DataLoader(BadData(), num_workers=1)))
    elif what == "fails":
        raise ValueError("a bug, libs.errors.BadInput: or not")
    elif what == "dies":
        signal.raise_signal(signal.SIGKILL)
    time.sleep(600)


class BadData(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise BadInput("a picture,\nin two lines")


def listen(rank):
    os.write(1, b"waits\n")  # at once: the other rank writes, too
    while not stop_requested():
        time.sleep(0.02)
    return 75


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    try:
        sys.exit(launch(listen, CPUS) if sys.argv[1] == "listens" else launch(worker, CPUS, "waits"))
    except KeyboardInterrupt:
        sys.exit(130)
