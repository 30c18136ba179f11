"""tools/dev/benchmark.py: agreement, bookkeeping and JSON; never how fast anything is."""

import json
import types
from importlib.metadata import version

import pytest

from tests.tiny import ROOT
from tools.dev import benchmark
from tools.dev.benchmarks import clock
from tools.dev.benchmarks.rollout import PHASES, disagreements


@pytest.mark.sim
@pytest.mark.libero
def test_rollout_beside_the_plain_loop(tmp_path, capsys):
    out = tmp_path / "new/rollout.json"
    arguments = ["rollout", "--model_path", str(ROOT / "checkpoints/quickstart"), "--episodes", "2", "--block", "1"]
    arguments += ["--num_envs", "1", "--num_steps", "12", "--hard_episodes", "1", "--out", str(out)]
    benchmark.main(arguments)
    result = json.loads(out.read_text())
    assert result["problems"] == [] and result["settings"]["own_pictures"]
    assert result["versions"]["mujoco"] == version("mujoco") and result["machine"]["cores"] >= 1
    assert result["command"].startswith("python tools/dev/benchmark.py rollout --model_path")
    # The plain loop and this code take turns in being first.
    assert [block["loop"] for block in result["blocks"]] == ["plain", "plain_hard", "ours", "ours", "plain"]
    for block in result["blocks"]:
        (episode,) = block["episodes"]
        assert (episode["init_state"], episode["steps"], episode["queries"]) == (block["first"], 12, 2)
    # Both cameras in each of 10 + 12 steps, against those of two queries; a reset takes a few more.
    summary = result["summary"]
    pictures = {name: numbers["pictures_per_episode"] for name, numbers in summary.items()}
    assert 44 <= pictures["plain"] <= 48 and 4 <= pictures["ours"] <= 8
    assert summary["plain"]["queries_per_call"] == summary["ours"]["queries_per_call"] == 1
    for numbers in summary.values():
        parts = numbers["cpu_s_per_episode"]
        assert set(parts) == {*PHASES, "other"} and all(parts[name] > 0 for name in PHASES)
        assert sum(parts.values()) == pytest.approx(numbers["cores_used"] * numbers["total_s"] / numbers["episodes"])
    assert summary["plain_hard"]["cpu_s_per_episode"]["reset"] > summary["plain"]["cpu_s_per_episode"]["reset"]
    printed = capsys.readouterr().out
    assert "seconds per episode" in printed and f"written: {out}" in printed


def episode(init_state=0, success=True, steps=90, incidents=0):
    return {"init_state": init_state, "success": success, "steps": steps, "incidents": incidents}


def test_loops_must_agree_and_nothing_may_crash():
    same = [{"loop": loop, "episodes": [episode(0), episode(1)]} for loop in ("plain", "ours")]
    assert disagreements(same) == []
    other = [*same, {"loop": "ours", "episodes": [episode(1, False, 280), episode(0, incidents=1)]}]
    assert disagreements(other) == [
        "init state 0: 1 incidents",
        "init state 1: success after 90 steps (ours, plain); failure after 280 steps (ours)",
    ]


def fake_benchmark(problems):
    def measure(args, report):
        report("measuring")
        return {"problems": problems}

    return types.SimpleNamespace(__doc__="A fake.", add_arguments=vars, measure=measure, table=str)


def test_a_disagreement_is_written_down_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(benchmark.BENCHMARKS, "rollout", fake_benchmark(["init state 3: ..."]))
    with pytest.raises(SystemExit, match="1"):
        benchmark.main(["rollout", "--out", str(tmp_path / "out.json")])
    assert "NOT the same:\ninit state 3" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text())["problems"] == ["init state 3: ..."]
    monkeypatch.setitem(benchmark.BENCHMARKS, "rollout", fake_benchmark([]))
    benchmark.main(["rollout"])


@pytest.mark.libero
def test_bad_numbers_are_one_line(capsys):
    for arguments, message in (
        (["--block", "0"], "--block"),
        (["--episodes", "51"], "50 init states"),
        (["--hard_episodes", "-1"], "--hard_episodes"),
        (["--num_envs", "0"], "--num_envs"),
    ):
        with pytest.raises(SystemExit, match="2"):
            benchmark.main(["rollout", *arguments])
        assert message in capsys.readouterr().err


def test_a_phase_inside_another_counts_once(monkeypatch):
    now = [0.0]
    fake_time = types.SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0] / 2)
    monkeypatch.setattr(clock, "time", fake_time)

    def render():
        now[0] += 2

    def step():
        now[0] += 1
        env.render()
        now[0] += 4

    env = types.SimpleNamespace(render=render, step=step)
    phases = clock.PhaseClock()
    phases.watch(env, "render", "rendering")
    phases.watch(env, "step", "physics")
    env.step()
    now[0] += 100  # between two calls nothing is counted
    env.step()
    taken = phases.take()
    assert taken["physics"] == {"wall_s": 10.0, "cpu_s": 5.0, "count": 2}
    assert taken["rendering"] == {"wall_s": 4.0, "cpu_s": 2.0, "count": 2}
    assert phases.take() == {}
    assert clock.add_phases([taken, taken])["physics"] == {"wall_s": 20.0, "cpu_s": 10.0, "count": 4}
