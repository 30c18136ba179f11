"""tools/eval_env.py and tools/collect_env.py with an environment that lives elsewhere: serve_env.py's box."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from libs.demo_hdf5 import DemoFile, KeyMap
from rv_eval.envs.base import ActionPart, Description, Episode
from rv_eval.envs.remote import RemoteSimulator
from rv_eval.envs.remote_takeover import begin_by_policy
from rv_eval.envs.takeover import ByPolicy
from rv_eval.playing.demonstrations import NoDemo, Pushes
from rv_eval.results.equality import compare_evals
from rv_train.checkpoint import save_model_folder
from rv_train.policies import build_encoder, build_policy
from tests.refusal import refusal
from tests.rv_eval.envs.elsewhere import COMMAND, EXAMPLES, box, gone, misbehaving
from tests.tiny import ACTION_STATS, ROOT, tiny_cfg
from tools.collect_env import main as collect
from tools.dev.processes import processes
from tools.eval_env import main
from tools.summarize_eval import main as summarize

MARK = "REMOTE_TEST"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random policy of four numbers that looks at one camera."""
    cfg = tiny_cfg(ACTION__DIM=4, DATA__VIEWS=["front"], ACTION__HORIZON=2)
    stats = {name: value[:4] if isinstance(value, list) else value for name, value in ACTION_STATS.items()}
    model = build_policy(cfg, build_encoder(cfg, stats)).eval()
    folder = tmp_path_factory.mktemp("run") / "box_run" / "model"
    save_model_folder(folder, model, cfg, stats, {"render": "dark", "resolution": 32})
    return folder


def arguments(model, log, command=COMMAND, episodes=3):
    given = ["--env_command", command, "--model_path", str(model), "--episodes", str(episodes), "--video_every", "1"]
    return [*given, "--num_envs", "2", "--log_dir", str(log)]


def records(log):
    return [json.loads(line) for line in (log / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The log folder of an undisturbed evaluation of six episodes."""
    log = tmp_path_factory.mktemp("whole")
    main(arguments(model, log, episodes=6))
    return log


def test_from_the_command_to_the_report(model, whole, capsys):
    assert sorted(record["init_state"] for record in records(whole)) == list(range(6))
    for record in records(whole):
        assert record["suite"] == "box" and record["environment"]["benchmark"] == "box"
        assert record["simulator_packages"] == ["box"] and record["versions"]["box"] == "1.0"
        assert 0 <= record["facts"]["distance"] <= 1 and (whole / record["video"]).stat().st_size > 0
    main([*arguments(model, whole, episodes=6), "--skip_evaluated"])
    assert "6 of 6 episodes are in" in capsys.readouterr().out
    summarize([str(whole)])
    assert "close the hand at the ball" in capsys.readouterr().out + (whole / "report.html").read_text()


def test_shards_and_an_environment_that_dies_once_give_the_same_results(model, whole, tmp_path):
    command = misbehaving(tmp_path, "os._exit(1)", at=2)
    for shard in ("0", "1"):
        shared = arguments(model, tmp_path / "log", command, episodes=6)
        main([*shared, "--num_shards", "2", "--shard_id", shard])
    assert compare_evals(whole, tmp_path / "log") == []
    found = [json.loads(line) for path in (tmp_path / "log").glob("results*") for line in path.open()]
    assert sorted(record["incidents"] for record in found) == [0] * 5 + [1]


@pytest.mark.slow
def test_a_killed_evaluation_leaves_no_environment_and_goes_on_to_the_same_results(model, whole, tmp_path):
    slow = misbehaving(tmp_path, "time.sleep(600)", at=4)  # so that there is something to kill
    words = [sys.executable, str(ROOT / "tools/eval_env.py"), *arguments(model, tmp_path / "log", slow, episodes=6)]
    mark = f"{tmp_path}"
    child = subprocess.Popen(words, cwd=ROOT, env={**os.environ, MARK: mark, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "marker").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    environments = [pid for pid in processes(f"{MARK}={mark}") if pid != child.pid]
    assert environments
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert all(map(gone, environments))
    main([*arguments(model, tmp_path / "log", slow, episodes=6), "--skip_evaluated"])
    assert compare_evals(whole, tmp_path / "log") == []


def test_bad_input_is_a_line(model, tmp_path, capsys):
    given = arguments(model, tmp_path / "log")[2:]
    for where, told in (
        (["--env_command", "no_such_program"], "no_such_program cannot be started"),
        (["--env_command", f"{sys.executable} -c 'import no_such_simulator'"], "No module named 'no_such_simulator'"),
        (["--env", "ws://127.0.0.1:1", "stack"], "--env stack: addresses are ws://host:port"),
        (["--env", "stack", "libero"], "--env takes one of libero, stack"),
    ):
        assert told in refusal(main, capsys, *where, *given)
    assert not (tmp_path / "log").exists()
    assert "looks at front" not in refusal(main, capsys, *arguments(model, tmp_path), "--render", "plain")
    with pytest.raises(SystemExit):
        main([*arguments(model, tmp_path), "--help"])
    assert "of box (default: all)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--env", "stack", "--env_command", COMMAND])
    assert "not allowed with" in capsys.readouterr().err


# ---- demonstrations


def collected(out, num_demos, *more):
    words = ["--env_command", COMMAND, "--num_demos", str(num_demos), "--out", str(out), "--render", "plain"]
    collect([*words, "--resolution", "24", "--pushed", "0.5", "--push_by", "move=0.5", *more])
    return [DemoFile(path, KeyMap.load(path.parent / "key_map.json")) for path in sorted(out.glob("*/episode_*.hdf5"))]


def test_demonstrations_are_the_same_however_they_are_collected(tmp_path, capsys):
    first = collected(tmp_path / "a", 3)
    collected(tmp_path / "b", 1)
    again = collected(tmp_path / "b", 3)
    assert len(first) == len(again) == 3
    with RemoteSimulator(command=COMMAND) as simulator:
        (task,) = simulator.tasks
    for one, other in zip(first, again, strict=True):
        assert one.instruction_of("demo_0") == task.instruction
        np.testing.assert_array_equal(one.actions("demo_0"), other.actions("demo_0"))
        np.testing.assert_array_equal(one.frame("demo_0", 0, "front"), other.frame("demo_0", 0, "front"))
        assert one.frame("demo_0", 0, "front").shape == (24, 24, 3) and one.render == "plain"
    assert len({demo.actions("demo_0").tobytes() for demo in first}) == 3
    told = refusal(
        collect, capsys, "--env_command", COMMAND, "--num_demos", "3", "--out", tmp_path / "a", "--render", "dark"
    )
    assert "choose another --out" in told


def test_a_policy_begins_and_the_expert_takes_over(model, tmp_path, capsys):
    words = ["--env_command", COMMAND, "--render", "dark", "--resolution", "32"]
    words += ["--takeover", "1", "--model_path", str(model)]
    for out, num_demos in (("a", 3), ("b", 1), ("b", 3)):
        collect([*words, "--num_demos", str(num_demos), "--out", str(tmp_path / out)])
    paths = {out: sorted((tmp_path / out).glob("*/episode_*.hdf5")) for out in "ab"}
    key_map = KeyMap.load(paths["a"][0].parent / "key_map.json")
    demos = {out: [DemoFile(path, key_map) for path in found] for out, found in paths.items()}
    settings = json.loads(demos["a"][0].attrs["collection"])
    assert settings["takeover"] == 1.0 and len(settings["weights_sha256"]) == 64 and len(demos["a"]) == 3
    for one, other in zip(*demos.values(), strict=True):
        np.testing.assert_array_equal(one.actions("demo_0"), other.actions("demo_0"))
        np.testing.assert_array_equal(one.frame("demo_0", 0, "front"), other.frame("demo_0", 0, "front"))
    collect([*words[:6], "--num_demos", "1", "--out", str(tmp_path / "plain")])
    (path,) = (tmp_path / "plain").glob("*/episode_*.hdf5")
    plain = DemoFile(path, key_map)
    assert plain.attrs["attempt"] == demos["a"][0].attrs["attempt"], "they begin alike"
    hands = [demo.proprio("demo_0", ("hand",))[0] for demo in (plain, demos["a"][0])]
    assert np.abs(hands[0] - hands[1]).max() > 1e-3, "the policy had moved the hand"
    told = refusal(collect, capsys, *words[:6], "--num_demos", "3", "--out", tmp_path / "a")
    assert "choose another --out" in told, "what a policy began is not what an expert did"
    assert "give both, or none" in refusal(collect, capsys, *words[:-2], "--num_demos", "3", "--out", tmp_path / "c")


def test_a_policy_that_solves_the_task_leaves_nothing_to_show(model):
    with RemoteSimulator(command=COMMAND) as simulator:
        (task,) = simulator.tasks
        env = simulator.make(task, 32, "dark")
        env.begin(Episode(task, 0, 0, task.max_steps), env.description.views)
        reply = env.wait(60)
        acted, wait = [], env.wait
        env.wait = lambda timeout_s: acted.append(1) or replace(wait(timeout_s), success=len(acted) == 2)
        with pytest.raises(NoDemo):
            begin_by_policy(
                env,
                ByPolicy.find(env.description, "dark", 32, 1.0, str(model)).load(),
                reply,
                np.random.default_rng(0),
                60,
            )
        assert len(acted) == 2
        env.close()


def test_the_policy_is_the_one_that_was_looked_at(model, tmp_path, capsys):
    run = tmp_path / "run"
    for step in (1, 2):
        shutil.copytree(model, run / f"step_{step}/model")
    weights = run / "step_2/model/model.safetensors"
    save_file({name: 2 * value for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    (run / "last").symlink_to("step_1")
    ByPolicy.find(box().description, "dark", 64, 1.0, str(run))
    told = "warning: --resolution is 64, and the policy is trained and evaluated with 32\n"
    assert capsys.readouterr().err == told
    about = ByPolicy.find(box().description, "dark", 32, 1.0, str(run))
    assert not capsys.readouterr().err and about.load().folder == run / "step_1/model"
    (run / "last").unlink()
    (run / "last").symlink_to("step_2")
    with pytest.raises(ValueError, match=r"holds other weights than when this began, .*: name a step of it"):
        about.load()


def test_two_collectors_do_not_write_into_one_folder(tmp_path, capsys):
    command = ["--env_command", COMMAND, "--render", "dark", "--resolution", "16", "--out", str(tmp_path)]
    other = subprocess.Popen([sys.executable, "tools/collect_env.py", *command, "--num_demos", "100000"], cwd=ROOT)
    try:
        while not list(tmp_path.glob("*/episode_*.hdf5")):
            time.sleep(0.05)
        told = refusal(collect, capsys, *command, "--num_demos", "1")
        assert told == f"error: {tmp_path / 'close_at_the_ball'} is in use: another process collects there"
        assert other.poll() is None, "and the first one goes on"
    finally:
        other.kill()
        other.wait()


SETTLING = """
import sys
sys.path.insert(0, {examples!r})
import serve_env

class Settling(serve_env.Box):
    describe = staticmethod(lambda: {{**serve_env.Box.describe(), "num_settle_steps": 3}})

    def settle(self, steps):
        self.hand = self.hand * 0 + steps / 10

serve_env.main(Settling)
"""


def test_demonstrations_begin_settled_as_evaluations_do(tmp_path):
    (tmp_path / "settling.py").write_text(SETTLING.format(examples=str(EXAMPLES)))
    command = f"{sys.executable} {tmp_path / 'settling.py'}"
    collect(["--env_command", command, "--render", "dark", "--num_demos", "1", "--out", str(tmp_path / "out")])
    (path,) = (tmp_path / "out").glob("*/episode_*.hdf5")
    demos = DemoFile(path, KeyMap.load(path.parent / "key_map.json"))
    np.testing.assert_allclose(demos.proprio("demo_0", ("hand",))[0], 0.3)


TWO_SUITES = """
import sys
sys.path.insert(0, {examples!r})
import serve_env

class Box(serve_env.Box):
    @staticmethod
    def describe():
        about = serve_env.Box.describe()
        (task,) = about["tasks"]
        return about | {{"tasks": [task | {{"suite": suite}} for suite in ("train", "test")]}}

serve_env.main(Box)
"""


def test_tasks_of_the_same_name_are_not_mixed(tmp_path, capsys):
    file = tmp_path / "box.py"
    file.write_text(TWO_SUITES.format(examples=str(EXAMPLES)))
    given = ["--env_command", f"{sys.executable} {file}", "--num_demos", "1", "--render", "plain", "--resolution", "24"]
    given += ["--out", str(tmp_path / "out")]
    assert "two tasks of train and test are called close_at_the_ball" in refusal(collect, capsys, *given)
    collect([*given, "--task_suite", "train"])
    collect([*given, "--task_suite", "train"])
    told = refusal(collect, capsys, *given, "--task_suite", "test")
    assert "was collected of suite train, not test: choose another --out" in told


def test_pushes_come_in_bursts_and_move_only_what_is_named():
    parts = (ActionPart("move", 3), ActionPart("gripper", 1))
    about = Description("box", "box", ("front",), {}, parts, control_hz=5)
    pushes = Pushes(about, {"move": 0.5}, np.random.default_rng(0))
    added = np.stack([pushes.next() for _ in range(2000)])  # (T, 4)
    pushed = np.abs(added).max(1) > 0
    assert 0.1 < pushed.mean() < 0.4 and np.abs(added).max() <= 0.5 and not added[:, 3].any()
    bursts = np.flatnonzero(pushed[1:] & ~pushed[:-1])
    assert len(bursts) > 30, "one after the other"
    ends = np.flatnonzero(~pushed[1:] & pushed[:-1])
    lengths = ends[ends > bursts[0]][: len(bursts) - 1] - bursts[:-1]
    assert (lengths.min(), lengths.max()) == (2, 10), "steps of a burst, as docs/remote_environments.md says"
    assert all((added[start + 1] == added[start + 2]).all() for start in bursts), "the same push for a while"


def test_what_cannot_be_collected_is_a_line(tmp_path, capsys, monkeypatch):
    given = ["--env_command", COMMAND, "--num_demos", "1", "--out", tmp_path / "a", "--render", "plain"]
    assert "--push_by arm=1: PART=MOST" in refusal(collect, capsys, *given, "--push_by", "arm=1")
    assert "--push_by move=far" in refusal(collect, capsys, *given, "--push_by", "move=far")
    for alone in (("--pushed", "0.5"), ("--push_by", "move=0.5")):  # one without the other would push nothing
        assert "--push_by which parts of an action" in refusal(collect, capsys, *given, *alone)
    assert "unknown render setting 'bright'" in refusal(collect, capsys, *given[:-1], "bright")
    monkeypatch.setattr(RemoteSimulator, "has_expert", False)
    assert "has no expert" in refusal(collect, capsys, *given)
