"""Processes: one per GPU or CPU rank, started by `mp.spawn` here or by torchrun outside."""

import builtins
import os
import socket
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

BAD_INPUT = (ValueError, OSError)


@dataclass(frozen=True)
class Rank:
    """Who this process is. `rank` counts over all nodes; rank 0 alone writes files."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self):
        return self.rank == 0


def parse_devices(devices, nproc):
    """`--devices 0,1` → [cuda:0, cuda:1]; `--nproc 2` → two CPU ranks; neither → every GPU, else one CPU rank.

    Raises:
        ValueError: both given, a device that does not exist, or fewer than one process.
    """
    if devices and nproc:
        raise ValueError("give --devices (GPUs) or --nproc (CPU ranks), not both")
    if devices:
        available = torch.cuda.device_count()
        numbers = devices.split(",")
        bad = [n for n in numbers if not n.isdigit() or int(n) >= available]
        if bad:
            raise ValueError(f"--devices {devices}: no GPU {bad[0]}; this machine has {available}")
        return [torch.device("cuda", int(n)) for n in numbers]
    if nproc is not None:
        if nproc < 1:
            raise ValueError(f"--nproc must be at least 1, got {nproc}")
        return [torch.device("cpu")] * nproc
    gpus = torch.cuda.device_count()
    return [torch.device("cuda", n) for n in range(gpus)] or [torch.device("cpu")]


def under_torchrun():
    """Whether this process is one rank of a job that torchrun started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def job(devices):
    """(rank of this process, number of ranks) before any process group exists; rank 0 where ranks are spawned."""
    if under_torchrun():
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, len(devices)


def launch(worker, devices, *args):
    """Run `worker(rank: Rank, *args)` once per device and wait. An exception in one ends all of them.

    Under torchrun nothing is spawned: this process is one rank of the job, on the GPU with its local number where there
    are GPUs.
    """
    rank, world_size = job(devices)
    if under_torchrun():
        local = int(os.environ.get("LOCAL_RANK", 0))
        device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        _run(rank, world_size, device, "env://", worker, args)
    elif len(devices) == 1:
        _run(0, 1, devices[0], f"tcp://127.0.0.1:{_free_port()}", worker, args)
    else:
        try:
            mp.spawn(_spawned, (devices, f"tcp://127.0.0.1:{_free_port()}", worker, args), nprocs=len(devices))
        except mp.ProcessRaisedException as error:
            # Only the text of a rank's exception comes back. Bad input is a ValueError or OSError by convention.
            kind, _, message = str(error).strip().splitlines()[-1].partition(": ")
            if isinstance(getattr(builtins, kind, None), type) and issubclass(getattr(builtins, kind), BAD_INPUT):
                raise ValueError(f"rank {error.error_index}: {message}") from error
            raise


def _spawned(rank, devices, address, worker, args):
    _run(rank, len(devices), devices[rank], address, worker, args)


def _run(rank, world_size, device, address, worker, args):
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # ranks share the cores; more threads each only get in each other's way
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=world_size)
    try:
        worker(Rank(rank, world_size, device), *args)
    finally:
        dist.destroy_process_group()


def mean_over_ranks(tensor):
    """Average of a tensor over all ranks, in place."""
    dist.all_reduce(tensor)
    return tensor.div_(dist.get_world_size())


def gather_objects(value):
    """`value` of every rank, in rank order, on every rank."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
