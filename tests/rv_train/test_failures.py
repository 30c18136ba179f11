"""What goes wrong around a run is said once: bad input in one line (exit code 2), a full disk or a killed rank with its
traceback (1). The last good checkpoint goes on as if nothing was."""

import functools
import os
import resource
import shutil
import subprocess
import sys
import threading
import time

import h5py
import pytest

from rv_train.checkpoint import checkpoints, find_damage
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.train import main
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ROOT, tiny_opts

pytestmark = pytest.mark.slow

NUM_DEMOS, NUM_FRAMES = 3, 8


class Run:
    """One run of two ranks with loader processes, started again and again."""

    def __init__(self, folder):
        self.folder, self.demos = folder / "tiny", folder / "synthetic_demo.hdf5"
        write_synthetic_demo_file(self.demos, NUM_DEMOS, NUM_FRAMES, resolution=64, seed=0)

    def arguments(self, *flags, **opts):
        opts = {"EXP__DIR": str(self.folder.parent), "DATA__FILES": [str(self.demos)], "DATA__NUM_WORKERS": 1, **opts}
        command = ["--cfg", str(ROOT / "configs/tiny.yaml"), *flags, "--nproc", "2"]
        return [*command, *map(str, tiny_opts(TRAIN__save_every=1, TRAIN__schedule="none", **opts))]

    def code(self, *flags, **opts):
        """With which the command ends, in this process."""
        with pytest.raises(SystemExit) as end:
            main(self.arguments(*flags, **opts))
        return end.value.code

    def breaks(self, *flags, file_limit, **opts):
        """As a program that must fail: the last line of the one error it shows, though there are two ranks.

        file_limit: no file may grow beyond that many bytes.
        """
        command = [sys.executable, "-m", "rv_train.train", *self.arguments(*flags, **opts)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        pipes = dict(capture_output=True, text=True, timeout=300)
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (file_limit, file_limit))
        done = subprocess.run(command, cwd=ROOT, env=environment, preexec_fn=limit, **pipes)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.count("RuntimeError: rank ") == 1, done.stderr
        return done.stderr.splitlines()[-1]

    def last_step(self):
        """Of the newest checkpoint, which must be whole and the one that `last` points at."""
        newest = checkpoints(self.folder)[-1]
        assert find_damage(newest) is None and (self.folder / "last").resolve() == newest.resolve()
        assert not list(self.folder.glob("*.tmp"))
        return int(newest.name.removeprefix("step_"))


def damage(path, demo, frame):
    """Overwrite the middle of one packed picture."""
    with h5py.File(path, "r") as file:
        chunk = file[f"data/{demo}/obs/agentview_rgb"].id.get_chunk_info(frame)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size // 2)
        raw.write(b"\xff" * 40)


def a_late_frame(seed=0, batch_size=2):
    """(step, demo, frame) of a picture that no rank asks for before its fourth step, nor first of its demo."""
    steps = {}
    for rank in range(2):
        sampler = ResumableBatchSampler(NUM_DEMOS * NUM_FRAMES, batch_size, "full", seed, rank, 2)
        for step, batch in zip(range(sampler.batches_per_epoch), sampler, strict=False):
            for _, _, index in batch:
                steps[index] = min(step, steps.get(index, step))
    index = next(index for index, step in steps.items() if step >= 3 and index % NUM_FRAMES)
    return steps[index], f"demo_{index // NUM_FRAMES}", index % NUM_FRAMES


def test_each_failure_is_said_once_and_the_run_goes_on(tmp_path, capsys, forked_ranks):
    run = Run(tmp_path)
    good = tmp_path / "good.hdf5"
    shutil.copy(run.demos, good)

    def refused():
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        return error

    # A picture that cannot be unpacked, in the middle of an epoch.
    step, demo, frame = a_late_frame()
    damage(run.demos, demo, frame)
    assert run.code(TRAIN__max_steps=500) == 2
    assert f"{run.demos}, {demo}: obs/agentview_rgb at frame {frame} is damaged" in refused()
    assert run.last_step() == step

    # A full disk: the file with the weights does not fit.
    shutil.copy(good, run.demos)
    line = run.breaks("--resume", file_limit=300_000, TRAIN__max_steps=500)
    assert (
        line.startswith("OSError: ")
        and f"checkpoint of step {step + 1} cannot be written" in line
        and "File too large" in line
    )
    assert run.last_step() == step

    # A demo file that is replaced while it is in use.
    def replace():
        deadline = time.monotonic() + 200
        while run.folder.joinpath("last").resolve().name == f"step_{step:08d}" and time.monotonic() < deadline:
            time.sleep(0.05)
        write_synthetic_demo_file(run.demos, NUM_DEMOS, NUM_FRAMES, resolution=64, seed=1)

    replacing = threading.Thread(target=replace)
    replacing.start()
    assert run.code("--resume", TRAIN__max_steps=5000) == 2
    replacing.join()
    assert f"{run.demos} changed while it was in use" in refused()
    reached = run.last_step()
    assert reached > step

    # With the former file in its place the run is finished.
    shutil.copy(good, run.demos)
    assert run.code("--resume", TRAIN__max_steps=reached + 1) == 0
    assert run.last_step() == reached + 1
