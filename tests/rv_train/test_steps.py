"""What steps told: read late, in order, and nothing of it lost."""

import math

import pytest
import torch

from rv_train import train
from rv_train.bad_steps import BadSteps
from rv_train.distributed import Told, launch
from rv_train.prepare import prepare_run
from rv_train.steps import Steps
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import tiny_cfg


def told(loss, norm=1.0, finite=2, stop=0, world_size=2):
    """Of two ranks whose losses are alike."""
    return Told(torch.tensor([loss * finite, finite, stop], dtype=torch.float32), torch.tensor(norm), world_size)


class Nothing(BadSteps):
    """Hears of bad steps without a model."""

    def __init__(self):
        super().__init__(100, None)
        self.batches = []

    def note_bad(self, model, precision, batches):
        self.skipped += 1
        self.batches.append(batches)


def test_what_ranks_told():
    assert told(3.0, 7.0).read() == (3.0, 7.0, False, False) and told(3.0).bad == 0
    assert told(3.0, finite=1, stop=1).read() == (3.0, 1.0, True, True) and told(3.0, finite=1).bad == 1
    mean, norm, bad, _ = told(0.0, math.nan, finite=0).read()
    assert mean == 0 and math.isnan(norm) and bad


def test_a_window_holds_the_good_steps_that_were_read():
    steps = Steps(Nothing(), None, None)
    steps.read()
    assert math.isnan(steps.mean_loss())
    for loss in (1.0, 2.0, 6.0):
        steps.add(told(loss, norm=loss), ["batch"])
        steps.read(behind=1)
    assert (steps.mean_loss(), steps.grad_norm) == (1.5, 2.0)  # the last one is still on its way
    steps.add(told(0.0, finite=1), ["bad batch"])
    steps.read()
    assert (steps.mean_loss(), steps.bad_steps.skipped, steps.bad_steps.batches) == (3.0, 1, [["bad batch"]])
    steps.restart()
    assert math.isnan(steps.mean_loss())
    steps.add(told(4.0), [])
    steps.read()
    assert steps.mean_loss() == 4.0


def test_a_wish_to_stop_is_seen_one_step_late_and_then_everything_is_read():
    steps = Steps(Nothing(), None, None)
    steps.add(told(1.0, stop=1), [])
    steps.read(behind=1)
    assert not steps.stop
    steps.add(told(5.0), [])
    steps.read(behind=1)
    assert steps.stop and steps.mean_loss() == 3.0


@pytest.mark.parametrize("log_every", [1, 3])
def test_the_loop_reads_a_step_when_the_next_is_on_its_way(tmp_path, monkeypatch, log_every):
    demos = tmp_path / "synthetic_demo.hdf5"
    write_synthetic_demo_file(demos, num_demos=2, num_frames=8, resolution=64, seed=0)
    made, reads = [], []

    def agree(loss, norm):
        told = monkeypatched(loss, norm)
        number = len(made)
        made.append(told)
        read = told.read
        told.read = lambda: reads.append((number, len(made) - 1)) or read()
        return told

    monkeypatched = train.agree
    monkeypatch.setattr(train, "agree", agree)
    options = {"EXP__DIR": str(tmp_path / "runs"), "DATA__FILES": [str(demos)], "TRAIN__max_steps": 7}
    cfg = tiny_cfg(**options, TRAIN__log_every=log_every, TRAIN__save_every=5)
    device = torch.device("cpu")
    assert launch(train.train, [device], cfg, prepare_run(cfg, device, 1)) == 0
    # (step that was read, step on its way then): at once where a report (steps 2, 5, 6) or a checkpoint (4) needs it
    late = [(0, 1), (1, 2), (2, 2), (3, 4), (4, 4), (5, 5), (6, 6)]
    assert reads == (late if log_every == 3 else [(step, step) for step in range(7)])
