import json
from dataclasses import dataclass

import imageio
import numpy as np
import pytest

from rv_eval.agent import AgentSettings
from rv_eval.evaluate import EvalOptions, closing_report, evaluate, plan_episodes
from tests.rv_eval.fakes import FakeEnv, FakePolicy, FakeTask


@dataclass(frozen=True)
class Task(FakeTask):
    num_init_states: int = 30


PROVENANCE = {
    "model_path": "checkpoints/fake",
    "model_fingerprint": "abc",
    "render": "standard",
    "resolution": 8,
    "versions": {"mujoco": "2.3.7"},
}


def run(log_dir, episodes, make_env=FakeEnv, settings=None, **options):
    lines = []
    options = EvalOptions(log_dir, settings or AgentSettings(), **options)
    return evaluate(FakePolicy(), make_env, episodes, options, PROVENANCE, lines.append), lines, options


def test_plan_takes_the_first_init_states_of_every_task():
    tasks = [Task(task_id=0), Task(task_id=3)]
    episodes = plan_episodes(tasks, 2, seed=7)
    assert [(e.task.task_id, e.init_state, e.seed, e.max_steps) for e in episodes] == [
        (0, 0, 7, 20),
        (0, 1, 7, 20),
        (3, 0, 7, 20),
        (3, 1, 7, 20),
    ]
    assert plan_episodes(tasks, 1, 7, num_steps=5)[0].max_steps == 5


@pytest.mark.parametrize("arguments", [(0, 7), (31, 7), (1, 7, 0)])
def test_impossible_plans_are_refused(arguments):
    with pytest.raises(ValueError, match=r"episodes|steps"):
        plan_episodes([Task()], *arguments)


def test_records_videos_and_report(tmp_path):
    episodes = plan_episodes([Task()], 25, seed=7)[3::18]  # init states 3 and 21: one success, one failure
    records, lines, options = run(tmp_path, episodes, num_envs=2)
    stored = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert sorted(stored, key=lambda r: r["init_state"]) == records
    good, bad = records
    assert (good["success"], good["steps"], good["init_state"]) == (True, 3, 3)
    assert (bad["success"], bad["steps"], bad["init_state"], bad["max_steps"]) == (False, 20, 21, 20)
    assert bad["queries"] == 5 and bad["parse_failures"] == 1 and bad["n_action_steps"] == 4
    assert good["instruction"] == "do it" and good["versions"] == {"mujoco": "2.3.7"}
    for record, outcome in ((good, "success"), (bad, "failure")):
        assert record["video"].endswith(f"fake_0_fake_task_init{record['init_state']:03d}_{outcome}.mp4")
    frames = imageio.mimread(bad["video"], memtest=False)
    assert len(frames) == 6 + 5  # steps 0, 4 ... 20, then a second of the last one at 5 frames per second
    assert frames[0].shape[1] == 512 and np.ptp(frames[0][256:]) > 100  # two views side by side; text below
    assert len(lines) == 2 and lines[1].startswith("[2/2] fake 0 init ")
    report = closing_report(records, options)
    assert "1/2" in report and str(tmp_path / "videos") in report and "not a LIBERO" not in report


def test_existing_results_are_refused_or_continued(tmp_path):
    run(tmp_path, plan_episodes([Task()], 2, seed=7), save_video="none")
    before = (tmp_path / "results.jsonl").read_bytes()
    episodes = plan_episodes([Task()], 4, seed=7)
    with pytest.raises(ValueError, match=r"holds 2 of these 4 episodes already: continue with --skip_evaluated"):
        run(tmp_path, episodes)
    assert (tmp_path / "results.jsonl").read_bytes() == before
    records, lines, _ = run(tmp_path, episodes, skip_evaluated=True, save_video="none")
    assert [r["init_state"] for r in records] == [0, 1, 2, 3]
    assert (tmp_path / "results.jsonl").read_bytes().startswith(before)
    assert lines[0].startswith("2 of 4 episodes") and len(lines) == 3
    # All done: nothing is started any more.
    again, _, _ = run(tmp_path, episodes, make_env=None, skip_evaluated=True)
    assert again == records


def test_other_settings_are_other_episodes_and_other_videos(tmp_path):
    episodes = plan_episodes([Task()], 2, seed=7)[1:]
    (first,), _, _ = run(tmp_path, episodes)
    (second,), _, _ = run(tmp_path, episodes, settings=AgentSettings(n_action_steps=1))
    assert first["n_action_steps"] == 4 and second["n_action_steps"] == 1
    assert first["video"] != second["video"]
    assert len(list((tmp_path / "videos").iterdir())) == 2


def test_an_interrupted_run_keeps_what_is_finished(tmp_path):
    """Killed between two episodes, with a torn line: continuing gives what an undisturbed run gives."""
    episodes = plan_episodes([Task()], 4, seed=7)
    whole, _, _ = run(tmp_path / "whole", episodes, save_video="none")
    run(tmp_path / "cut", episodes[:2], save_video="none")
    with open(tmp_path / "cut" / "results.jsonl", "a") as file:
        file.write('{"suite": "fake", "task_')
    continued, _, _ = run(tmp_path / "cut", episodes, save_video="none", skip_evaluated=True)
    times = ("policy_s", "sim_s", "wall_s", "finished")
    assert [{k: v for k, v in r.items() if k not in times} for r in continued] == [
        {k: v for k, v in r.items() if k not in times} for r in whole
    ]


def test_report_says_what_is_not_a_libero_result(tmp_path):
    records, _, options = run(tmp_path, plan_episodes([Task()], 1, seed=7, num_steps=3), save_video="none")
    assert "step limit other than the suite's" in closing_report(records, options)
    assert "render setting fast" in closing_report([records[0] | {"render": "fast"}], options)
