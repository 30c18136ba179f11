"""What ranks say to each other: the same in the same order, never for longer than they wait, and with the same bits."""

import datetime
import json
import os
import signal
import threading
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from rv_train import distributed
from rv_train.buckets import settle_buckets
from rv_train.distributed import _run, launch, leader, wait_for_main
from rv_train.optim import Precision
from rv_train.policies.encoding import ObservationEncoder
from rv_train.prepare import prepare_run
from tests.demo_files import write_synthetic_demo_file
from tests.rv_train.policies.text.test_text_policy import training_batch
from tests.tiny import tiny_cfg, tiny_model

CPU = torch.device("cpu")
SAID = ("all_reduce", "all_gather_object", "barrier", "broadcast_object_list", "new_group")


def ranks(number, function, *args):
    """function(rank, *args) in `number` forked processes, see tests/ranks.py."""
    mp.start_processes(_rank, (number, distributed.free_port(), function, args), number, start_method="forkserver")


def _rank(number, world_size, port, function, args):
    function(number, world_size, f"tcp://127.0.0.1:{port}", *args)


# ------------------------------------------------------------------------------------------------ order and time


def train_and_record(number, world_size, address, cfg, job, folder):
    """The whole loop with everything noted that this rank asks of the others, what and of which sizes: in the
    thread that saves, over a group of its own, and in the one that trains."""
    from rv_train.train import train

    os.environ["TORCH_DISTRIBUTED_DEBUG"] = "DETAIL"  # PyTorch compares, too: DDP's own are not seen from Python
    said: list[list] = [[], []]

    def noted(name, function):
        def say(*args, **kwargs):
            sizes = [list(x.shape) for x in args if isinstance(x, torch.Tensor)]
            said[threading.current_thread() is threading.main_thread()].append([name, sizes])
            return function(*args, **kwargs)

        return say

    for name in SAID:
        setattr(dist, name, noted(name, getattr(dist, name)))
    assert _run(number, world_size, CPU, address, train, (cfg, job)) == 0
    (folder / f"said_{number}.json").write_text(json.dumps(said))


def test_ranks_ask_the_same_of_each_other_in_the_same_order(tmp_path):
    """Through steps, reports, validations of which one rank has a smaller share, and checkpoints."""
    write_synthetic_demo_file(tmp_path / "demo.hdf5", num_demos=4, num_frames=5, resolution=64, seed=0)
    cfg = tiny_cfg(
        DATA__FILES=[str(tmp_path / "demo.hdf5")],
        EXP__DIR=str(tmp_path),
        DATA__VAL_SHARE=0.25,
        TRAIN__max_steps=2,
        TRAIN__save_every=1,
        TRAIN__grad_accum=2,
        VALID__loss_every=0.1,
        VALID__gen_every=0.1,
        VALID__gen_samples=3,
    )
    ranks(2, train_and_record, cfg, prepare_run(cfg, CPU, 2), tmp_path)
    one, two = (json.loads((tmp_path / f"said_{number}.json").read_text()) for number in range(2))
    assert one == two
    saving, training = ([name for name, _ in said] for said in one)
    assert training.count("all_reduce") == 2 * (1 + 2)  # steps, validations
    assert set(training) == {"new_group", "all_reduce", "all_gather_object", "barrier"}
    assert saving and set(saving) == {"broadcast_object_list"}


def writes_for_long(number, world_size, address):
    distributed.WAIT = datetime.timedelta(seconds=2)

    def work(rank):
        if rank.is_main:
            time.sleep(5.0)
        wait_for_main(rank.is_main)
        told = torch.ones(())
        dist.all_reduce(told)
        if rank.is_main:
            time.sleep(5.0)
            return int(told)
        try:
            dist.barrier()
        except RuntimeError:
            return int(told)
        raise AssertionError("a rank that hangs in a step is waited for no longer than WAIT")

    assert _run(number, world_size, CPU, address, work, ()) == world_size
    os._exit(0)  # without the other: its group is broken, as it should be


def test_rank_0_may_write_for_longer_than_a_step_may_hang():
    ranks(2, writes_for_long)


def prepares(number, world_size, address, port, killed):
    """A rank of torchrun's, of whose run rank 0 prepares the job for longer than a save may take."""
    os.environ.update(RANK=str(number), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.LONG_WAIT = datetime.timedelta(seconds=4)
    first, ranks = leader([CPU])
    assert (first, ranks) == (number == 0, world_size)
    if first:
        time.sleep(6.0)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
    told = []
    try:
        told.append(launch(lambda rank, job: job, [CPU], "job" if first else None))
    except SystemExit as end:
        told.append(str(end))
    assert told == ["rank 1: rank 0 ended before the run began, and says why" if killed else "job"]


@pytest.mark.parametrize("killed", [False, True])
def test_a_job_may_be_prepared_for_long_but_only_as_long_as_rank_0_lives(killed):
    args = 2, distributed.free_port(), prepares, (distributed.free_port(), killed)
    context = mp.start_processes(_rank, args, 2, join=False, start_method="forkserver")
    for process in context.processes:
        process.join(60)
    assert [process.exitcode for process in context.processes] == [-signal.SIGKILL if killed else 0, 0]


# ------------------------------------------------------------------------------------------------ bits


def sum_gradients(number, world_size, address, settled):
    def work(rank):
        cfg = tiny_cfg()
        encoder, model = ObservationEncoder.from_cfg(cfg), tiny_model(cfg).train()
        batch = training_batch(encoder, 2 + number)
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
        if settled:
            settle_buckets(wrapped, training_batch(encoder, 2), Precision("off", CPU), keep=False)
        sums = []
        for _ in range(2):
            wrapped(batch)["loss"].backward()
            sums.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
            wrapped.zero_grad(set_to_none=True)
        assert torch.equal(*sums) == settled

    _run(number, world_size, CPU, address, work, ())


@pytest.mark.parametrize("settled", [True, False])
def test_the_first_step_of_three_ranks_sums_as_the_later_ones_do(settled):
    """Without `settle_buckets` it does not: a run that is resumed would differ from one that went on."""
    ranks(3, sum_gradients, settled)
