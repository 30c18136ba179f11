import json
import re
from dataclasses import dataclass

import h5py
import imageio
import numpy as np
import pytest

from rv_eval.agent import AgentSettings
from rv_eval.playing.evaluate import EvalOptions, closing_report, evaluate, plan_episodes, shard_episodes
from rv_eval.playing.trace import EpisodeTrace
from rv_eval.results.records import ResultsFile, record_key, shard_files
from tests.full_disk import small_files
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
    assert len(plan_episodes(tasks, None, 7)) == 60, "all there are"


@pytest.mark.parametrize("arguments", [(0, 7), (31, 7), (1, 7, 0)])
def test_impossible_plans_are_refused(arguments):
    with pytest.raises(ValueError, match=r"episodes|steps"):
        plan_episodes([Task()], *arguments)
    with pytest.raises(ValueError, match="has 0 init states"):
        plan_episodes([Task(num_init_states=0)], None, 7)
    endless = Task(num_init_states=2**31 - 1)  # as an environment may say that takes any seed
    with pytest.raises(ValueError, match="give --episodes N"):
        plan_episodes([endless], None, 7)
    assert len(plan_episodes([endless], 2, 7)) == 2


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
        stem = f"videos/fake_0_fake_task_init{record['init_state']:03d}_{outcome}"
        assert re.fullmatch(stem + r"_[0-9a-f]{8}\.mp4", record["video"])
        assert record["data"] is None and (record["shard_id"], record["num_shards"]) == (0, 1)
    frames = imageio.mimread(tmp_path / bad["video"], memtest=False)
    assert len(frames) == 6 + 5  # steps 0, 4 ... 20, then a second of the last one at 5 frames per second
    assert frames[0].shape[1] == 512 and np.ptp(frames[0][256:]) > 100  # two views side by side; text below
    assert len(lines) == 2 and lines[1].startswith("[2/2] fake 0 init ")
    report = closing_report(records, options)
    assert "1/2" in report and str(tmp_path / "videos") in report and "not a LIBERO" not in report


def test_videos_of_failures_and_data_of_all(tmp_path):
    episodes = plan_episodes([Task()], 25, seed=7)[3::18]
    records, _, _ = run(tmp_path, episodes, save_video="failures", save_all_data=True)
    good, bad = records
    assert good["video"] is None and "init021_failure_" in bad["video"]
    for record in records:
        with h5py.File(tmp_path / record["data"]) as file:
            assert json.loads(file.attrs["record"])["init_state"] == record["init_state"]
            assert len(file["actions"]) == record["steps"] and len(file["chunks"]) == record["queries"]
    assert [path.suffix for path in sorted((tmp_path / "videos").iterdir())] == [".jpg", ".mp4"]
    assert len(list((tmp_path / "episodes").iterdir())) == 2


def test_a_file_that_cannot_be_written_does_not_cost_the_result(tmp_path):
    (tmp_path / "videos").write_text("in the way")
    records, lines, _ = run(tmp_path, plan_episodes([Task()], 2, seed=7)[1:])
    assert records[0]["video"] is None and records[0]["success"]
    assert "could not be written" in lines[0] and len((tmp_path / "results.jsonl").read_text().splitlines()) == 1


def test_a_full_disk_costs_the_data_of_an_episode_and_no_result(tmp_path, monkeypatch):
    """HDF5 itself does not survive it: no OSError, and the process crashes when it ends."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    add = EpisodeTrace.add_query
    monkeypatch.setattr(
        EpisodeTrace, "add_query", lambda trace, step, _, *more: add(trace, step, {"views": {"a": noise}}, *more)
    )
    with small_files(30_000):
        records, lines, _ = run(tmp_path, plan_episodes([Task()], 25, 7)[20:22], save_video="none", save_all_data=True)
    assert [record["data"] for record in records] == [None] * 2
    assert sum("could not be written" in line for line in lines) == 2
    assert len(ResultsFile(tmp_path / "results.jsonl").read()) == 2 and not list((tmp_path / "episodes").iterdir())


def test_a_result_that_cannot_be_written_ends_the_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(ResultsFile, "append", disk_full_after(lines=1 + 2))  # the plan, then two episodes
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, plan_episodes([Task()], 30, seed=7), save_video="none")
    assert [record["success"] for record in ResultsFile(tmp_path / "results.jsonl").read()] == [False, True]


@pytest.mark.parametrize("record", [{"versions": None}, {"suite": ["fake"]}, {"seed": {}}])
def test_foreign_lines_are_refused_by_name(tmp_path, record):
    (tmp_path / "results.jsonl").write_text('{"suite": "old"}\n' + json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=r"results\.jsonl line 2 is not a result"):
        run(tmp_path, plan_episodes([Task()], 1, seed=7))
    assert len(list(tmp_path.iterdir())) == 1


def disk_full_after(lines):
    append, written = ResultsFile.append, []

    def limited(self, record):
        if len(written) == lines:
            raise OSError("No space left on device")
        written.append(record)
        append(self, record)

    return limited


def test_shards_are_disjoint_complete_and_balanced_by_steps():
    tasks = [Task(suite="short", task_id=i, max_steps=100) for i in range(6)]
    tasks += [Task(suite="long", task_id=i, max_steps=300) for i in range(2)]
    episodes = plan_episodes(tasks, 10, seed=7)
    for num_shards in (1, 2, 3, 5, 8, 80, 200):
        parts = [shard_episodes(episodes, i, num_shards) for i in range(num_shards)]
        assert [episode for part in parts for episode in part] == episodes
        steps = [sum(episode.max_steps for episode in part) for part in parts]
        assert max(steps) - min(steps) <= 2 * 300
    assert [len(shard_episodes(episodes[:16], i, 8)) for i in range(8)] == [2] * 8
    assert shard_episodes([], 1, 2) == []


@pytest.mark.parametrize("shard_id, num_shards", [(2, 2), (-1, 2), (0, 0)])
def test_impossible_shards_are_refused(shard_id, num_shards):
    with pytest.raises(ValueError, match="shards are numbered"):
        shard_episodes([], shard_id, num_shards)


@pytest.mark.slow
def test_eight_shards_are_one_run(tmp_path):
    """Run by other numbers of environments, one of them killed and continued as another division: the same results."""
    episodes = plan_episodes([Task(task_id=0), Task(task_id=1)], 8, seed=7)
    whole, _, _ = run(tmp_path / "whole", episodes, save_video="none")
    shards = tmp_path / "shards"
    for shard_id in range(7):
        options = dict(shard_id=shard_id, num_shards=8, num_envs=1 + shard_id % 3, save_video="none")
        records, _, _ = run(shards, episodes, **options)
        assert len(records) == 2
    run(shards, episodes, save_video="none", skip_evaluated=True)  # the eighth, with what is missing of all
    assert len((shards / "results.jsonl").read_text().splitlines()) == 2
    merged = [record for path in shard_files(shards, "results") for record in ResultsFile(path).read()]
    assert len(merged) == 16
    by_key = {record_key(record): without_times(record) for record in merged}
    assert by_key == {record_key(record): without_times(record) for record in whole}
    # Every shard says what all of them are to run.
    planned = [ResultsFile(path).read() for path in shard_files(shards, "planned")]
    assert len(planned) == 8 and all(plan == planned[0] for plan in planned)
    assert [(plan["task_id"], plan["init_states"]) for plan in planned[0]] == [(0, [*range(8)]), (1, [*range(8)])]
    assert planned[0][0]["versions"]["mujoco"] == "2.3.7" and planned[0][0]["n_action_steps"] == 4


def without_times(record):
    times = ("policy_s", "sim_s", "wall_s", "finished", "shard_id", "num_shards")
    return {key: value for key, value in record.items() if key not in times}


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


def test_results_of_another_dtype_are_not_taken_for_these(tmp_path):
    episodes = plan_episodes([Task()], 2, seed=7)
    options = EvalOptions(tmp_path, AgentSettings(), save_video="none", skip_evaluated=True)
    for dtype in ("float32", "bfloat16", "float32"):
        records = evaluate(FakePolicy(), FakeEnv, episodes, options, PROVENANCE | {"dtype": dtype}, lambda line: None)
        assert [record["dtype"] for record in records] == [dtype, dtype]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 4


def test_other_settings_are_other_episodes_and_other_videos(tmp_path):
    episodes = plan_episodes([Task()], 2, seed=7)[1:]
    (first,), _, _ = run(tmp_path, episodes)
    (second,), _, _ = run(tmp_path, episodes, settings=AgentSettings(n_action_steps=1))
    assert first["n_action_steps"] == 4 and second["n_action_steps"] == 1
    assert first["video"] != second["video"]
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == len(list((tmp_path / "videos").glob("*.jpg"))) == 2


def test_an_interrupted_run_keeps_what_is_finished(tmp_path):
    """Killed between two episodes, with a torn line: continuing gives what an undisturbed run gives."""
    episodes = plan_episodes([Task()], 4, seed=7)
    whole, _, _ = run(tmp_path / "whole", episodes, save_video="none")
    run(tmp_path / "cut", episodes[:2], save_video="none")
    with open(tmp_path / "cut" / "results.jsonl", "a") as file:
        file.write('{"suite": "fake", "task_')
    continued, _, _ = run(tmp_path / "cut", episodes, save_video="none", skip_evaluated=True)
    assert list(map(without_times, continued)) == list(map(without_times, whole))


def test_report_says_what_is_not_a_libero_result(tmp_path):
    records, _, options = run(tmp_path, plan_episodes([Task()], 1, seed=7, num_steps=3), save_video="none")
    fast = records[0] | {"render": "fast"}
    assert "not a fake result: a step limit other than the suite's" in closing_report([fast], options)
    assert "LIBERO" not in closing_report([fast], options), "another suite is measured by nobody else"
    report = closing_report([fast | {"suite": "libero_goal_swap"}], options)
    assert "not a LIBERO result: a step limit other than the suite's" in report
    assert "not a LIBERO result: pictures of render setting fast" in report
