"""tools/slurm: the scripts as SLURM would run them, with stand-ins for srun and scontrol that start two CPU ranks."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from rv_train.checkpoint import checkpoints
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ROOT, tiny_opts
from tools.dev.processes import kill, processes

# One process per task, each with SLURM's variables; the largest exit code is the step's.
SRUN = """#!/bin/bash
[[ $SRUN_CPUS_PER_TASK == 5 ]] || { echo "a task gets one core"; exit 9; }
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do
    wait "$task"
    result=$?
    ((result > code)) && code=$result
done
exit $code
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then echo 127.0.0.1; echo other-node; else echo "$@" >> "$SCONTROL_LOG"; fi
"""


class Cluster:
    def __init__(self, folder):
        self.mark, self.requeues = f"SLURM_TEST={uuid.uuid4()}", folder / "scontrol.log"
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        name, _, value = self.mark.partition("=")
        self.environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "SCONTROL_LOG": str(self.requeues),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "127.0.0.1,other-node",
            "SLURM_NNODES": "1",
            "SLURM_GPUS_ON_NODE": "2",
            "SLURM_CPUS_PER_TASK": "5",
            name: value,
        }

    def start(self, script, num_tasks, *arguments):
        command = ["bash", str(ROOT / "tools/slurm" / script), *map(str, arguments)]
        environment = {**self.environment, "SLURM_NTASKS": str(num_tasks)}
        streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.Popen(command, cwd=ROOT, env=environment, **streams)

    def signal_step(self):
        """USR1 to every process of the step but not to the batch script, as --signal=USR1 does."""
        for pid, (_, command) in processes(self.mark).items():
            if (
                b"rv_train.train" in command
                and not command.startswith(b"/bin/bash")
                and not command.startswith(b"bash")
            ):
                os.kill(pid, signal.SIGUSR1)


@pytest.mark.slow
def test_a_job_saves_is_queued_again_and_continues(tmp_path):
    write_synthetic_demo_file(tmp_path / "synthetic_demo.hdf5", 2, 12, resolution=64, seed=0)
    cluster, run = Cluster(tmp_path), tmp_path / "tiny"
    opts = {
        "EXP__DIR": str(tmp_path),
        "DATA__FILES": [str(tmp_path / "synthetic_demo.hdf5")],
        "TRAIN__schedule": "none",
    }
    recipe = ROOT / "configs/tiny.yaml"

    job = cluster.start("train.sbatch", 2, recipe, *tiny_opts(**opts, TRAIN__save_every=1, TRAIN__max_steps=5000))
    deadline = time.monotonic() + 200
    while not checkpoints(run) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    cluster.signal_step()
    said, _ = job.communicate(timeout=200)
    assert job.returncode == 75, said
    assert cluster.requeues.read_text() == f"requeue {os.getpid()}\n"
    reached = int(checkpoints(run)[-1].name.removeprefix("step_"))

    # The other script takes over where this one stopped.
    job = cluster.start("torchrun.sbatch", 1, recipe, *tiny_opts(**opts, TRAIN__max_steps=reached + 2))
    said, _ = job.communicate(timeout=200)
    assert job.returncode == 0, said
    assert checkpoints(run)[-1].name == f"step_{reached + 2:08d}"
    assert cluster.requeues.read_text().count("requeue") == 1


def test_both_scripts_decide_alike_whether_to_resume():
    first, second = ((ROOT / "tools/slurm" / name).read_text() for name in ("train.sbatch", "torchrun.sbatch"))
    deciding = first[first.index("PYTHON=$") : first.index("fi\n", first.index("resume=()"))]
    assert "resume=(--resume)" in deciding and deciding in second


@pytest.mark.slow
def test_a_mistake_ends_the_job_before_anything_starts(tmp_path):
    cluster = Cluster(tmp_path)
    for script in ("train.sbatch", "torchrun.sbatch"):
        for arguments, message in (
            ((), "usage: sbatch"),
            ((ROOT / "configs/tiny.yaml", "TRAIN.learning_rate", "1"), "error: command line: unknown config key"),
        ):
            job = cluster.start(script, 2, *arguments)
            said, _ = job.communicate(timeout=200)
            assert job.returncode == 2 and message in said and said.count("\n") == 1, said


# Stands in for Python: writes down what it is called with, and ends like shard 1 with $CODE.
RECORDER = """#!/bin/bash
echo "${CUDA_VISIBLE_DEVICES-none} $*" >> "$RECORD"
if [[ $* == *eval_libero* ]]; then
    sleep "$SECONDS_OF_A_SHARD"
    [[ $SLURM_PROCID == 1 ]] && exit "$CODE"
fi
exit 0
"""


@pytest.fixture
def evaluation(tmp_path):
    """A Cluster whose Python only writes down its calls in `calls`."""
    cluster = Cluster(tmp_path)
    recorder = tmp_path / "python"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    cluster.calls = tmp_path / "calls"
    cluster.environment |= {
        "PYTHON": str(recorder),
        "RECORD": str(cluster.calls),
        "SECONDS_OF_A_SHARD": "0",
        "CODE": "0",
    }
    return cluster


@pytest.mark.parametrize(
    "visible, chosen",
    [
        ("4,6", ["4", "6", "4"]),
        ("MIG-1a", ["MIG-1a"] * 3),
        ("", [""] * 3),
    ],
)
def test_shards_take_the_gpus_in_turns(evaluation, visible, chosen):
    evaluation.environment["CUDA_VISIBLE_DEVICES"] = visible
    job = evaluation.start("eval.sbatch", 3, "run", "logs", "--task_suite", "all", "--num_envs", "2")
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 0, said
    *shards, summary = evaluation.calls.read_text().splitlines()
    assert summary.endswith("tools/summarize_eval.py logs")
    given = "tools/eval_libero.py --model_path run --log_dir logs --task_suite all --num_envs 2"
    assert sorted(shards) == sorted(
        f"{gpu} {given} --shard_id {i} --num_shards 3 --skip_evaluated" for i, gpu in enumerate(chosen)
    )


def test_a_shard_that_fails_fails_the_job_at_its_end(evaluation):
    evaluation.environment["CODE"] = "1"
    job = evaluation.start("eval.sbatch", 2, "run", "logs", "--task_suite", "all")
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 1, said
    assert "summarize_eval" in evaluation.calls.read_text()


def test_an_evaluation_out_of_time_is_queued_again(evaluation):
    evaluation.environment["SECONDS_OF_A_SHARD"] = "30"
    job = evaluation.start("eval.sbatch", 1, "run", "logs", "--task_suite", "all")
    deadline = time.monotonic() + 60
    while not evaluation.calls.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGUSR1)  # to the batch script alone, as --signal=B:USR1 does
    assert job.wait(timeout=20) == 75
    assert evaluation.requeues.read_text() == f"requeue {os.getpid()}\n"
    assert "summarize_eval" not in evaluation.calls.read_text()
    kill(processes(evaluation.mark))  # SLURM ends the step with the job


def test_an_evaluation_needs_a_policy_a_folder_and_suites(evaluation):
    job = evaluation.start("eval.sbatch", 1, "run", "logs")
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 2 and said.startswith("usage: sbatch") and not evaluation.calls.exists()
