"""Processes: one per GPU or CPU rank, started by `mp.spawn` here or by torchrun outside."""

import collections
import contextlib
import datetime
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from libs.errors import BadInput

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # what a cluster sends before it takes the machine away
WAIT = datetime.timedelta(minutes=10)  # for each other within a step: longer, and one of them hangs
LONG_WAIT = datetime.timedelta(hours=1)  # for a save: tens of gigabytes, perhaps over a network
# For a job that rank 0 prepares: a frame cache of millions of pictures takes hours. Its end is noticed at once.
PREPARING = datetime.timedelta(days=7)
ENVIRONMENT = "env://"  # torchrun's variables say where the ranks meet
HEAR_S = 1.0  # until a signal to the launching process is passed on, at most
GRACE_S = 3.0  # for the other ranks to notice that one failed, before they are killed


@dataclass(frozen=True)
class Rank:
    """Who this process is. `rank` counts over all nodes; rank 0 alone writes files."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def parse_devices(devices: Sequence[int] | None, nproc: int | None, must_exist: bool = True) -> list[torch.device]:
    """`--devices 0 1` → [cuda:0, cuda:1]; `--nproc 2` → two CPU ranks; neither → every GPU, else one CPU rank.

    Args:
        must_exist: False takes the numbers of GPUs that this machine does not have, too, for a plan.

    Raises:
        BadInput: both given, a device that does not exist or is named twice, or fewer than one process.
    """
    if devices and nproc:
        raise BadInput("give --devices (GPUs) or --nproc (CPU ranks), not both")
    if devices:
        available = torch.cuda.device_count()
        given = f"--devices {' '.join(map(str, devices))}"
        bad = [n for n in devices if n < 0 or (must_exist and n >= available)]
        if bad:
            raise BadInput(f"{given}: no GPU {bad[0]}; this machine has {available}")
        if len(set(devices)) < len(devices):
            raise BadInput(f"{given}: a GPU takes one rank, name each once")
        return [torch.device("cuda", n) for n in devices]
    if nproc is not None:
        if nproc < 1:
            raise BadInput(f"--nproc must be at least 1, got {nproc}")
        return [torch.device("cpu")] * nproc
    gpus = torch.cuda.device_count()
    return [torch.device("cuda", n) for n in range(gpus)] or [torch.device("cpu")]


def under_torchrun() -> bool:
    """Whether this process is one rank of a job that torchrun started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def leader(devices: Sequence[torch.device]) -> tuple[bool, int]:
    """(whether this process prepares the job, number of ranks), before any process group exists.

    Where ranks are spawned that is the parent process; under torchrun it is rank 0, which tells the others. There all
    ranks meet here: one that is missing, or an address that is wrong, shows before the job is prepared.

    BadInput: under torchrun, a rank that sees no GPU with its local number, though there are some.
    """
    if under_torchrun():
        global _met
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        _own_device()
        _met = _meet(ENVIRONMENT, rank, world_size)
        return rank == 0, world_size
    return True, len(devices)


def _own_device():
    """Of a rank that torchrun started."""
    local, number = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if 0 < number <= local:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise BadInput(
            f"LOCAL_RANK is {local}, and this process sees GPUs 0 to {number - 1} (CUDA_VISIBLE_DEVICES is {visible}): "
            "start no more ranks on a node than it has GPUs, and let each of them see all of these"
        )
    return torch.device("cuda", local) if number else torch.device("cpu")


def _meet(address, rank, world_size):
    return next(dist.rendezvous(address, rank, world_size, timeout=LONG_WAIT))[0]


def launch(worker: Callable[..., T], devices: Sequence[torch.device], *args: Any) -> T:
    """Run `worker(rank: Rank, *args)` once per device and wait; returns what rank 0 returned.

    An exception in one rank ends all of them, and so does Ctrl-C here (KeyboardInterrupt comes out). SIGTERM and
    SIGUSR1 are passed on to the ranks, see `stop_requested`.
    Under torchrun nothing is spawned: this process is one rank of the job, on the GPU with its local number where there
    are GPUs, and gets the arguments of rank 0.

    Raises:
        BadInput: of a rank, with its number.
        RuntimeError: a rank failed otherwise, then it holds the traceback of the first that did; or it was killed.
    """
    if under_torchrun():
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        return _run(rank, world_size, _own_device(), ENVIRONMENT, _with_arguments_of_rank_0, (worker, args))
    address = f"tcp://127.0.0.1:{free_port()}"
    if len(devices) == 1:
        return _run(0, 1, devices[0], address, worker, args)
    told = mp.get_context("spawn").SimpleQueue()  # (rank, its result or BadInput)
    context = mp.spawn(_spawned, (devices, address, worker, args, told), nprocs=len(devices), join=False)

    def pass_on(number, _):
        for pid in context.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # warns of every rank that it ends
    with _handling(STOP_SIGNALS, pass_on):
        try:
            # In turns: a signal between Python's last look and the wait itself would be heard when a rank ends. It came
            # there where a scheduler continued a suspended job and ended it at once.
            while not context.join(timeout=HEAR_S, grace_period=GRACE_S):
                pass
        except KeyboardInterrupt:
            for process in context.processes:  # else this process would wait for them at its end, until they are done
                process.kill()
            raise
        except mp.ProcessRaisedException as error:
            rank, traceback = _first_failure(context)
            while not told.empty():
                sender, bad = told.get()
                if sender == rank and isinstance(bad, BadInput):
                    raise BadInput(f"rank {rank}: {bad}") from error
            raise RuntimeError(f"rank {rank} failed:\n{traceback.rstrip()}") from None
        except mp.ProcessExitedException as error:
            raise RuntimeError(f"rank {error.error_index} died: {error}; --resume continues") from error
    return told.get()[1]


def _first_failure(context):
    """(rank, traceback) of the rank that failed first: the others fail when it no longer answers them."""
    files = [(os.stat(path).st_mtime_ns, rank) for rank, path in enumerate(context.error_files) if os.path.exists(path)]
    rank = min(files)[1]
    with open(context.error_files[rank], "rb") as file:
        return rank, pickle.load(file)  # mp.spawn's own file, a text


def _with_arguments_of_rank_0(rank, worker, args):
    told = [args]
    dist.broadcast_object_list(told)
    return worker(rank, *told[0])


def _spawned(rank, devices, address, worker, args, told):
    # Killed when its parent dies: mp.spawn has it sent SIGINT then, which a rank that waits for the others inside NCCL
    # does not hear for minutes. Died before this line, nobody would ever stop this rank.
    mp._prctl_pr_set_pdeathsig(signal.SIGKILL)  # type: ignore[attr-defined]  # nothing public does it
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        raise SystemExit("the parent process died while this rank started")
    # A spawned process spawns its own. Loader processes need none of that: forked they start in milliseconds instead of
    # importing everything again, at every validation too. (They never touch the device; under torchrun they fork, too.)
    multiprocessing.set_start_method("fork", force=True)
    _run_and_tell(rank, devices, address, worker, args, told)


def _run_and_tell(rank, devices, address, worker, args, told):
    """Run one rank; what it returns (of rank 0) or refuses goes into the queue `told`."""
    try:
        result = _run(rank, len(devices), devices[rank], address, worker, args)
    except BadInput as error:
        told.put((rank, BadInput(str(error))))
        raise  # mp.spawn tells the parent that this rank failed
    ignore_signals()  # all is saved: a late one must not turn the exit code into "killed"
    if rank == 0:
        told.put((rank, result))


def _run(rank, world_size, device, address, worker, args):
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # ranks share the cores; more threads each only get in each other's way
    global _store, _met, _waits
    _store, _met, _waits = _met or _meet(address, rank, world_size), None, 0
    try:
        wait_for_main(rank == 0, PREPARING)  # under torchrun it prepares the job before it comes here
    except dist.DistNetworkError:
        if address != ENVIRONMENT:
            raise
        raise SystemExit(f"rank {rank}: rank 0 ended before the run began, and says why") from None
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_store,
        rank=rank,
        world_size=world_size,
        timeout=WAIT,
        device_id=device if device.type == "cuda" else None,
    )
    _groups.append(dist.group.WORLD)
    try:
        with _handling(STOP_SIGNALS, _note_stop):
            return worker(Rank(rank, world_size, device), *args)
    except BadInput as error:
        # torch's loader raises it here with its process's traceback as text: keep what was said at the end of that.
        _, found, message = str(error).rpartition(f"\n{BadInput.__module__}.{BadInput.__qualname__}: ")
        if not found:
            raise
        raise BadInput(message.strip()) from error
    finally:
        # After a failure the process just ends: the others shall see that only once the reason has been written down.
        _kill_loaders()
        if sys.exc_info()[0] is None or world_size == 1:
            dist.destroy_process_group()


# Of the last runs in this process. What DDP has of a model may be freed after its group (an exception keeps it), and
# takes the group along if that lives nowhere else. Then PyTorch waits for the group's threads without letting go of
# Python's lock, and one of them may just be waiting for that lock, to free a tensor: for ever.
_groups: "collections.deque[dist.ProcessGroup | None]" = collections.deque(maxlen=8)


def _kill_loaders():
    """At its end a process sends its loader processes SIGTERM and waits, for ever: they ignore it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise for each of them
    for child in multiprocessing.active_children():
        child.kill()


_store: "dist.Store"  # where ranks leave each other notes, from their start on
_met: "dist.Store | None" = None  # it, between `leader` and `launch`
_waits = 0  # how often they waited for rank 0


def wait_for_main(is_main: bool, longest: datetime.timedelta = LONG_WAIT) -> None:
    """Every rank calls this: the others wait until rank 0 (is_main) does. By a note in the store, because a collective
    that waits longer than WAIT ends the run."""
    global _waits
    _waits += 1
    note = f"rank 0 came to wait {_waits}"
    if is_main:
        _store.set(note, "")
    else:
        _store.wait([note], longest)
    if dist.is_initialized():
        dist.barrier()  # the store is rank 0's: it must not go on, and perhaps end, before all have read the note


_stop_requested = False


def stop_requested() -> bool:
    """Whether somebody asked this process to save and stop, with SIGTERM or SIGUSR1."""
    return _stop_requested


def _note_stop(number, frame):
    global _stop_requested
    _stop_requested = True


@contextlib.contextmanager
def _handling(signals, handler):
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def ignore_signals(_: object = None) -> None:
    """For loader processes: a signal to the whole group must not end them before the last checkpoint is written."""
    for number in (*STOP_SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def agree(loss: torch.Tensor, grad_norm: torch.Tensor) -> "Told":
    """What all ranks know after a step, as a `Told`: one small reduction, and nobody waits for it.

    Args:
        loss: this rank's loss, a scalar tensor; grad_norm: of the reduced gradients, a scalar tensor.
    """
    finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
    stop = torch.full_like(loss, stop_requested())
    told = torch.stack([torch.where(finite, loss, 0.0), finite.to(loss.dtype), stop]).float()
    dist.all_reduce(told)
    return Told(told, grad_norm, dist.get_world_size())


class Told:
    """bad: scalar float32 tensor on the device, 1 where any rank's loss or norm is not finite, else 0."""

    def __init__(self, told: torch.Tensor, grad_norm: torch.Tensor, world_size: int) -> None:
        self.world_size, self.bad = world_size, (told[1] < world_size).float()
        # To memory that the device writes while the host goes on; the event says when it has.
        self._numbers = torch.cat([told, grad_norm.float()[None]]).to("cpu", non_blocking=True)
        self._written = torch.cuda.Event() if told.is_cuda else None
        if self._written:
            self._written.record()

    def read(self) -> tuple[float, float, bool, bool]:
        """Waits until the device has come so far.

        Returns:
            (mean loss over the ranks where it is finite, gradient norm, whether the step was bad, whether any rank was
            asked to stop).
        """
        if self._written:
            self._written.synchronize()
        total, num_finite, num_stop, norm = self._numbers.tolist()
        return total / max(1.0, num_finite), norm, num_finite < self.world_size, num_stop > 0


def gather_objects(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """`value` of every rank, in rank order, on every rank. group: of processes, for who asks beside the training."""
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group)
    return values


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
