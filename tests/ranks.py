"""Ranks without their start: forked from one process that has imported everything, instead of spawned.

A spawned rank imports torch and transformers again, 5 s of a core, of which a test of what ranks compute learns
nothing. How ranks are spawned, end and fail is tested in tests/rv_train/test_distributed.py, test_failures.py,
test_train.py and tests/tools/dev/test_torture_resume.py.
"""

import multiprocessing

import torch.multiprocessing as mp

from rv_train import distributed

IMPORTED = ["rv_train.train", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "tests.ranks", "matplotlib.pyplot"]


class Forking:
    """Stands for `torch.multiprocessing` in `rv_train.distributed`: a fixture puts it there, see tests/conftest.py."""

    def __getattr__(self, name):
        return getattr(mp, name)

    def get_context(self, kind):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        return context

    def spawn(self, _, args, nprocs, join):
        return mp.start_processes(_forked, args, nprocs, join, start_method="forkserver")


def _forked(*args):
    """As `distributed._spawned`, but for what it says of a parent process: that one is the server here."""
    multiprocessing.set_start_method("fork", force=True)
    distributed._run_and_tell(*args)
