"""tools/collect_demos.py: numbered attempts that survive kills, and one real demonstration."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from libs.demo_hdf5 import Demo, DemoFile, DemoWriter
from libs.errors import BadInput
from libs.libero_sim import LiberoEnv, get_task
from libs.libero_sim.collection import Settings, TaskJob
from libs.libero_sim.suites import LiberoTask
from libs.robosuite_sim import RemoteObject
from libs.robosuite_sim.pool import run_jobs
from tools.collect_demos import main

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings("libero_object", 5, 4, "fast", 0, 0.0, 0.0, 0.0)
TASK = LiberoTask("libero_object", 5, "pick_up_the_tomato_sauce_and_place_it_in_the_basket", "", "", 280, 50)
LIBERO = pytest.mark.libero
COMMAND = ["--task_suite", "libero_object", "--resolution", "64", "--render", "fast"]


class FakeWorker:
    """Attempts without a simulator: number 1, 4, 7, ... fail; it notes what it attempts."""

    def __init__(self, settings, log, seconds=0.0, crash_at=None, fail=False, error=None, starts=None):
        """starts: how many of them can be made, counted in the file `log`.starts."""
        started = Path(f"{log}.starts")
        started.write_text(f"{started.read_text() if started.exists() else ''}.")
        if starts is not None and len(started.read_text()) > starts:
            raise RuntimeError("Cannot create an EGL context.")
        self.log, self.seconds, self.crash_at, self.fail = Path(log), seconds, crash_at, fail
        self.error = error

    def attempt(self, number, path):
        with self.log.open("a") as log:
            log.write(f"{number}\n")
        if number == self.crash_at and self.log.read_text().split().count(str(number)) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        if self.error:
            raise {"bug": KeyError, "bad": BadInput}[self.error]("it is missing")
        if self.fail or number % 3 == 1:
            return False
        length = 2 + number
        obs = {"agentview": np.full((length, 4, 4, 3), number, np.uint8)}
        actions, states = np.full((length, 7), number / 10), np.zeros((length, 3))
        flags = np.zeros(length, np.uint8)
        demo = Demo(actions, states, np.zeros((length, 9)), flags, flags, obs, {"attempt": number})
        with DemoWriter(path, {"collection": self.attrs}) as writer:
            writer.add(demo)
        return True

    attrs = (
        '{"task_suite": "libero_object", "task_id": 5, "resolution": 4, "render": "fast", "seed": 0, '
        '"start_noise": 0.0, "start_near": 0.0, "start_late": 0.0}'
    )

    def close(self):
        pass


def fake_workers(log, **options):
    def make(job):
        kwargs = {"settings": job.settings, "log": str(log), **options}
        return RemoteObject("tests.tools.test_collect_demos:FakeWorker", kwargs, timeout_s=20)

    return make


def run(out, log, num_demos=5, num_workers=2, settings=SETTINGS, **options):
    job = TaskJob(TASK, settings, num_demos, out)
    counts = []
    run_jobs([job], num_workers, lambda job: counts.append(job.num_done), fake_workers(log, **options))
    return job, counts


@pytest.mark.slow
def test_the_first_successes_by_number_whatever_the_number_of_workers(tmp_path):
    first, counts = run(tmp_path / "a", tmp_path / "log", num_workers=1)
    second, _ = run(tmp_path / "b", tmp_path / "log2", num_workers=3)
    assert first.path.read_bytes() == second.path.read_bytes()
    demos = DemoFile(first.path)
    assert [int(demos.demo_attrs(demo)["attempt"]) for demo in demos.demos] == [0, 2, 3, 5, 6]
    assert counts[-1] == 5 and sorted(counts) == counts
    assert list(first.path.parent.iterdir()) == [first.path]  # no parts left


@pytest.mark.slow
def test_two_processes_do_not_make_one_file(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.tools.test_collect_demos import run; "
        "run(Path(sys.argv[1]), Path(sys.argv[2]), seconds=600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "log")], cwd=ROOT)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "log").exists() and time.monotonic() < end:
            time.sleep(0.02)
        with pytest.raises(BadInput, match=r"_demo\.hdf5 is in use: another process makes it"):
            run(tmp_path / "a", tmp_path / "log2")
    finally:
        child.kill()
        child.wait()
    run(tmp_path / "a", tmp_path / "log2")


@pytest.mark.slow
def test_a_killed_run_continues_without_loss_or_duplicates(tmp_path):
    whole, _ = run(tmp_path / "whole", tmp_path / "log0")
    code = (
        "import sys; from pathlib import Path; from tests.tools.test_collect_demos import run; "
        "run(Path(sys.argv[1]), Path(sys.argv[2]), seconds=0.3)"
    )
    out, log = tmp_path / "killed", tmp_path / "log1"
    child = subprocess.Popen([sys.executable, "-c", code, str(out), str(log)], cwd=ROOT)
    parts = out / ".parts" / whole.task.name
    end = time.monotonic() + 60
    while len(list(parts.glob("0*"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    child.kill()
    child.wait()
    done = {int(part.stem) for part in parts.glob("0*") if part.suffix in (".hdf5", ".failed")}
    assert done and not (out / whole.path.name).exists()
    resumed, counts = run(out, tmp_path / "log2")
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    repeated = {int(number) for number in (tmp_path / "log2").read_text().split()}
    assert not repeated & done and repeated | done == set(range(7))
    assert counts[0] >= len([number for number in done if number % 3 != 1])


@pytest.mark.slow
def test_a_crashing_simulator_is_replaced(tmp_path):
    job, _ = run(tmp_path, tmp_path / "log", crash_at=2)
    assert len(DemoFile(job.path).demos) == 5
    assert (tmp_path / "log").read_text().split().count("2") == 2


@pytest.mark.slow
def test_a_simulator_that_cannot_be_started_is_no_incident(tmp_path):
    """It is said at once; not once others have shown that simulators can be started here."""
    with pytest.raises(BadInput, match="cannot be started: RuntimeError: Cannot create an EGL context"):
        run(tmp_path / "a", tmp_path / "log", num_workers=1, starts=0)
    assert (tmp_path / "log.starts").read_text() == "."
    with pytest.raises(RuntimeError, match="attempt 2: the simulator failed 3 times, last: RuntimeError: Cannot"):
        run(tmp_path / "b", tmp_path / "log2", num_workers=1, starts=1, crash_at=2)


@pytest.mark.slow
def test_what_a_worker_raises_arrives_here(tmp_path):
    with pytest.raises(BadInput, match=r"^it is missing$"):
        run(tmp_path / "bad", tmp_path / "log", error="bad")
    with pytest.raises(RuntimeError, match=r"attempt 0: the simulator failed 3 times, last: KeyError") as raised:
        run(tmp_path / "bug", tmp_path / "log", num_workers=1, error="bug")
    assert not isinstance(raised.value, BadInput)
    (note,) = raised.value.__cause__.__notes__
    assert "in attempt\n" in note and note.endswith("KeyError: 'it is missing'"), "its traceback"


def test_an_expert_that_always_fails_is_reported(tmp_path):
    with pytest.raises(ValueError, match=r"tomato_sauce.*succeeded only 0 times in 10 attempts"):
        run(tmp_path, tmp_path / "log", num_demos=2, fail=True)


def test_other_settings_are_refused(tmp_path):
    run(tmp_path, tmp_path / "log", num_demos=1)
    other = Settings("libero_object", 5, 4, "fast", 1, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="seed 0, not 1"):
        run(tmp_path, tmp_path / "log", num_demos=1, settings=other)
    with pytest.raises(ValueError, match="exists with 1 demos, not 2"):
        run(tmp_path, tmp_path / "log", num_demos=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["--task_suite", "libero_objects", "--task_ids", "0"], "did you mean libero_object?", marks=LIBERO
        ),
        pytest.param(["--task_suite", "libero_object", "--task_ids", "0", "10"], "unknown task id 10", marks=LIBERO),
        (["--task_suite", "libero_object", "--task_ids", "x"], "--task_ids x: whole numbers such as 0 3, or all"),
        pytest.param(["--task_suite", "libero_90", "--task_ids", "25"], "no scripted expert", marks=LIBERO),
        (["--task_suite", "libero_object", "--task_ids", "0", "--start_near", "2"], "--start_near"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--num_demos", "1", "--out", str(out)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not out.exists()


@pytest.mark.sim
@pytest.mark.libero
def test_a_collected_demo_replays_to_success(tmp_path, capsys):
    arguments = ["--task_ids", "5", "--num_demos", "1", "--start_late", "1", "--out", str(tmp_path)]
    main([*COMMAND, *arguments])
    task = get_task("libero_object", 5)
    demos = DemoFile(tmp_path / f"{task.name}_demo.hdf5")
    assert str(demos.path) in capsys.readouterr().out
    assert (demos.instruction, demos.render, int(demos.attrs["resolution"])) == (task.instruction, "fast", 64)
    assert demos.attrs["tag"] == "libero-v1"  # LIBERO's check_dataset_integrity.py reads it
    actions, states = demos.actions("demo_0"), demos.states("demo_0")
    env = LiberoEnv(task, resolution=64, render="fast")
    try:
        env.reset(int(demos.demo_attrs("demo_0")["seed"]))
        env.set_sim_state(states[0], demos.demo_attrs("demo_0")["start_gripper"])
        for view, picture in env.render().items():
            assert np.array_equal(picture, demos.frame("demo_0", 0, view))
        np.testing.assert_array_equal(env.proprio_dict()["robot_states"], demos.robot_states("demo_0")[0])
        for state, action in zip(states, actions, strict=True):
            assert np.array_equal(env.sim_state(), state)
            _, success = env.step(action)
        assert success
    finally:
        env.close()
