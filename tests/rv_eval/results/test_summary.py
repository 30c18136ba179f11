import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from libs.errors import BadInput
from rv_eval.agent import AgentSettings
from rv_eval.playing.evaluate import EvalOptions, evaluate, plan_episodes
from rv_eval.results.comparison import compare, differing_settings, verdict
from rv_eval.results.summary import dependencies, gather, list_episodes, ranges, stats
from rv_eval.results.summary_text import as_json, notices, run_text, short_names
from tests.rv_eval.fakes import FakeEnv, FakePolicy, FakeTask
from tests.rv_eval.records import plan, record, write, write_quickly

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def outcomes(run):
    return {line.episode[1:3]: line.values["success"] for line in run.episodes}


def warnings(run):
    return [notice.text for notice in notices(run)]


# ---- gathering -------------------------------------------------------------------------------------------------


def test_shards_merge_into_what_one_run_gives(tmp_path):
    records = [record(task, init, success=init != 2) for task in range(3) for init in range(5)]
    plans = [plan(task, range(5)) for task in range(3)]
    one = write(tmp_path / "one" / "results.jsonl", records)
    write(one / "planned.jsonl", plans)
    for shard in range(4):
        part = [r | {"shard_id": shard, "num_shards": 4} for r in records[shard::4]]
        write(tmp_path / "four" / f"results_{shard:03d}_of_004.jsonl", part)
        write(tmp_path / "four" / f"planned_{shard:03d}_of_004.jsonl", plans)
    run, merged = gather([one]), gather([tmp_path / "four"])
    assert [line.episode for line in merged.episodes] == [line.episode for line in run.episodes]
    assert as_json(merged)["total"] == as_json(run)["total"]
    assert merged.is_sound and merged.planned == 15 and not merged.repeats and not warnings(merged)
    comparison = compare(run, merged)
    assert comparison.identical == 15 and not differing_settings(run, merged)
    assert "same outcome in all 15 episodes, all of them with the same number of steps" in verdict(comparison)


def test_missing_episodes_are_listed_per_task(tmp_path):
    there = [0, 1, 2, 3, 4, 5, 6, 8]
    write(tmp_path / "results_000_of_003.jsonl", [record(3, init, shard_id=0, num_shards=3) for init in there])
    write(tmp_path / "results_002_of_003.jsonl", [record(4, 0, shard_id=2, num_shards=3)])
    # Only one shard got as far as writing its plan; it names the episodes of all of them.
    write(tmp_path / "planned_000_of_003.jsonl", [plan(3, range(13)), plan(4, range(2))])
    run = gather([tmp_path])
    assert list_episodes(run.missing) == ["libero_goal 3: init 7, 9-12", "libero_goal 4: init 1"]
    assert run.planned == 15 and not run.is_sound
    assert warnings(run) == ["MISSING: 6 of 15 planned episodes have no result; no result from shard 1 of 3"]
    assert "  libero_goal 3: init 7, 9-12" in run_text(run).splitlines()


def test_what_an_evaluation_writes_can_be_read(tmp_path):
    """Shards of a real evaluation, of which one never ran."""
    episodes = plan_episodes([Task(task_id=task_id) for task_id in range(2)], 3, seed=7)
    provenance = {**FakePolicy().describe(), "versions": {"mujoco": "2.3.7"}}

    def evaluate_shard(shard_id, num_shards, log_dir):
        settings = {"shard_id": shard_id, "num_shards": num_shards, "save_video": "none"}
        options = EvalOptions(log_dir, AgentSettings(), **settings)
        evaluate(FakePolicy(), FakeEnv, episodes, options, provenance, [].append)

    for shard_id in (0, 2):
        evaluate_shard(shard_id, 3, tmp_path / "shards")
    run = gather([tmp_path / "shards"])
    assert run.planned == 6 and list_episodes(run.missing) == ["fake 0: init 2", "fake 1: init 0"]
    assert run.silent_shards == ["1 of 3"]
    evaluate_shard(1, 3, tmp_path / "shards")
    evaluate_shard(0, 1, tmp_path / "one")
    merged, one = gather([tmp_path / "shards"]), gather([tmp_path / "one"])
    assert merged.is_sound and one.is_sound and compare(merged, one).identical == 6


@dataclass(frozen=True)
class Task(FakeTask):
    num_init_states: int = 3


def test_a_plan_alone_misses_everything(tmp_path):
    write(tmp_path / "planned.jsonl", [plan(0, range(4))])
    run = gather([tmp_path])
    assert len(run.missing) == 4 and "0/0" in run_text(run) and "libero_goal 0: init 0-3" in run_text(run)


def test_the_same_episode_twice_counts_once(tmp_path):
    write(tmp_path / "a" / "results.jsonl", [record(0, 0), record(0, 1, success=False)])
    write(tmp_path / "b" / "results.jsonl", [record(0, 1, success=False, sim_s=9.0), record(0, 2)])
    run = gather([tmp_path / "a", tmp_path / "b", tmp_path / "a" / ".." / "b"])
    assert outcomes(run) == {(0, 0): True, (0, 1): False, (0, 2): True}
    assert len(run.duplicates) == 1 and not run.contradictions and run.is_sound
    text = next(text for text in warnings(run) if "more than once" in text)
    assert text.startswith("1 episode recorded") and "a/results.jsonl" in text and "b/results.jsonl" in text


@pytest.mark.parametrize("again", [{"success": False, "steps": 300}, {"steps": 101}])
def test_an_episode_that_comes_out_differently_is_a_contradiction(tmp_path, again):
    write(tmp_path / "results_000_of_002.jsonl", [record(0, 0)])
    write(tmp_path / "results_001_of_002.jsonl", [record(0, 1), record(0, 0, **again)])
    run = gather([tmp_path])
    assert outcomes(run)[0, 0] is True and len(run.contradictions) == 1 and not run.is_sound
    text = run_text(run)
    assert "CONTRADICTION: 1 episode ended differently when run again" in text
    assert "libero_goal 0 init 0 seed 7: success after 100 steps" in text
    assert "results_001_of_002.jsonl line 2" in " ".join(text.split())  # long paths are broken over two lines


def test_episodes_of_several_devices_are_noticed(tmp_path):
    lines = [record(0, i, device=device, num_envs=i) for i, device in enumerate(("cuda:0", "cuda:1", "cpu"))]
    several = gather([write(tmp_path / "a" / "results.jsonl", lines)])
    told = "not all episodes were run alike: device cuda:0 (1 episode), cuda:1 (1 episode), cpu (1 episode)"
    assert told in warnings(several)
    alike = gather([write(tmp_path / "b" / "results.jsonl", lines[:2])])
    assert not any("alike" in text for text in warnings(alike)), "which GPU it was makes no difference"


def without_dtype(line):
    return {name: value for name, value in line.items() if name != "dtype"}


def test_results_of_several_dtypes_are_several_measurements(tmp_path):
    lines = [without_dtype(record(0, 0)), record(0, 1), record(0, 0, success=False, dtype="bfloat16")]
    folder = write(tmp_path / "results.jsonl", lines)
    with pytest.raises(BadInput, match=r"--only dtype=float32 \(2 episodes\) \| --only dtype=bfloat16 \(1 ep"):
        gather([folder])
    assert outcomes(gather([folder], ["dtype=float32"])) == {(0, 0): True, (0, 1): True}
    assert outcomes(gather([folder], ["dtype=bfloat16"])) == {(0, 0): False}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plans_of_before_dtype_was_a_setting_belong_to_their_results(tmp_path, dtype):
    write(tmp_path / "planned.jsonl", [without_dtype(plan(0, range(3)))])
    folder = write(tmp_path / "results.jsonl", [record(0, 0, dtype=dtype), record(0, 1, dtype=dtype)])
    run = gather([folder])
    assert run.planned == 3 and len(run.missing) == 1 and run.other_plans == 0
    write(tmp_path / "planned.jsonl", [plan(0, range(3), dtype=dtype)])  # continued now
    assert gather([folder]).missing == run.missing and not gather([folder]).other_plans


def test_a_torn_last_line_is_left_out(tmp_path):
    folder = write(tmp_path / "results.jsonl", [record(0, 0)])
    with open(folder / "results.jsonl", "a") as file:
        file.write(json.dumps(record(0, 1))[:-3])
    assert outcomes(gather([folder])) == {(0, 0): True}


def test_a_single_file_can_be_given():
    run = gather([BENCHMARKS / "quickstart_eval_50.jsonl"])
    found = stats(run.episodes)
    assert (found.successes, found.episodes, found.steps) == (39, 50, pytest.approx(95, abs=1))
    assert warnings(run)[0] == "not a LIBERO result: pictures of render setting fast"
    assert "not known" in warnings(run)[1]


def test_suites_stand_in_the_order_of_the_papers(tmp_path):
    suites = ["libero_10", "libero_goal_swap", "libero_goal", "libero_90", "libero_spatial"]
    run = gather([write(tmp_path / "results.jsonl", [record(suite=suite) for suite in suites])])
    assert list(run.suites) == ["libero_spatial", "libero_goal", "libero_10", "libero_90", "libero_goal_swap"]
    assert len({line.measurement for line in run.episodes}) == 1, "a suite's own limit is no setting"


def test_a_plan_that_was_given_up_is_noticed_and_does_not_stop_the_summary(tmp_path):
    """Started with another horizon, interrupted before the first episode, started again."""
    write(tmp_path / "planned.jsonl", [plan(n_action_steps=4), plan()])
    write(tmp_path / "results.jsonl", [record()])
    run = gather([tmp_path])
    assert run.is_sound and run.planned == 1 and [line.values["n_action_steps"] for line in run.episodes] == [8]
    assert "1 measurement with other settings planned here, too, and without any result" in warnings(run)


# ---- several runs ----------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    other = {"n_action_steps": 1, "model_fingerprint": "abcd" * 16, "versions": {"mujoco": "3.3.0"}}
    records = [record(0, 0), record(0, 1), record(0, 0, success=False, **other)]
    return write(tmp_path / "results.jsonl", records)


def test_several_runs_are_refused_with_what_tells_them_apart(mixed):
    with pytest.raises(ValueError, match="2 measurements") as refusal:
        gather([mixed])
    text = str(refusal.value)
    assert "--only model_fingerprint=1cd81cd81cd8 n_action_steps=8" in text and "(2 episodes)" in text
    assert "n_action_steps=1" in text and "versions.mujoco=3.3.0" in text and "(1 episodes)" in text
    assert "ensemble_size" not in text, "the same in both"
    for choice in text.split(": ", 1)[1].split(" | "):  # what the message offers works
        arguments = choice.removeprefix("--only ").partition(" (")[0].split()
        assert len(gather([mixed], arguments).episodes) in (1, 2)


@pytest.mark.parametrize(
    "choice, count",
    [
        ("n_action_steps=8", 2),
        ("n_action_steps=1", 1),
        ("model_fingerprint=abcdabcd", 1),
        ("versions.mujoco=2.3.7", 2),
        ("versions.robosuite=null", 1),
    ],
)
def test_choosing_one(mixed, choice, count):
    assert len(gather([mixed], [choice]).episodes) == count


@pytest.mark.parametrize(
    "choice, message",
    [
        ("n_action_steps=2", "no result has n_action_steps=2; there is 8, 1"),
        ("n_action_steps=true", "no result has"),
        ("success=true", "cannot choose results by success"),
        ("n_action_steps", "KEY=VALUE"),
        ("model_fingerprint=abcd", "no result has"),  # too short to be meant
    ],
)
def test_choices_that_do_not_work(mixed, choice, message):
    with pytest.raises(ValueError, match=message):
        gather([mixed], [choice])


def test_own_step_limits_are_runs_of_their_own(tmp_path):
    mine = {"own_limit": True, "max_steps": 50}
    folder = write(tmp_path / "results.jsonl", [record(), record(**mine), record(own_limit=True, max_steps=60)])
    with pytest.raises(ValueError, match="3 measurements"):
        gather([folder])
    run = gather([folder], ["own_limit=true", "max_steps=50"])
    assert warnings(run)[0] == "not a LIBERO result: a step limit other than the suite's"


def test_plans_are_chosen_with_the_records(mixed):
    write(mixed / "planned.jsonl", [plan(0, range(3)), plan(0, range(9), n_action_steps=1, suite="libero_10")])
    assert gather([mixed], ["n_action_steps=8"]).missing == [("libero_goal", 0, 2, 7, None)]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"success": 1}, "success is 1"),
        ({"steps": None}, "steps is null"),
        ({"suite": ["libero_goal"]}, "suite is"),
        ({"task_id": True}, "task_id is true"),
        ({"policy_s": "fast"}, 'policy_s is "fast"'),
        ({"n_action_steps": [8]}, "n_action_steps is"),
        ({"video": 3}, "video is 3"),
        ({"num_shards": "8"}, 'num_shards is "8"'),
        ({"simulator_packages": "mujoco"}, 'simulator_packages is "mujoco"'),
        ({"environment": None}, "environment is null"),
        ({"environment": {"benchmark": "toy"}}, "environment is {"),
    ],
)
def test_damaged_lines_are_named(tmp_path, change, message):
    folder = write(tmp_path / "results.jsonl", [record(), record() | change])
    with pytest.raises(ValueError, match=f"results.jsonl line 2 is not a result: {message}".replace("[", r"\[")):
        gather([folder])


def test_damaged_plans_are_named(tmp_path):
    folder = write(tmp_path / "planned.jsonl", [plan(0, [0]) | {"init_states": 50}])
    with pytest.raises(ValueError, match=r"planned.jsonl line 1 is not a plan: init_states is 50"):
        gather([folder])


def test_places_without_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a folder"):
        gather([tmp_path / "no"])
    with pytest.raises(ValueError, match="holds no results"):
        gather([tmp_path])
    (tmp_path / "results.jsonl").write_text('{"suite": ')
    with pytest.raises(ValueError, match="no result yet"):
        gather([tmp_path])


# ---- numbers and texts -----------------------------------------------------------------------------------------


def test_stats(tmp_path):
    records = [record(0, init, parse_failures=1, repaired=2, policy_s=init) for init in (0, 1, 5)]
    records.append(record(0, 9, success=False, incidents=1, sim_s=8.0))
    found = stats(gather([write(tmp_path / "results.jsonl", records)]).episodes)
    assert (found.episodes, found.successes, found.steps, found.median_steps) == (4, 3, 102, 101)
    assert (found.parse_failures, found.repaired, found.incidents) == (3, 6, 1)
    assert (found.policy_s, found.sim_s) == (2.0, 5.0)
    assert found.interval == pytest.approx((0.3006, 0.9544), abs=1e-4)


def test_dependencies_show_every_value(tmp_path):
    records = [record(0, init, device="cuda" if init else "cpu", shard_id=init) for init in range(3)]
    found = dependencies(gather([write(tmp_path / "results.jsonl", records)]))
    assert found["device"] == [("cuda", 2), ("cpu", 1)]
    assert found["shard_id"] == [(0, 1), (1, 1), (2, 1)]
    assert found["versions.mujoco"] == [("2.3.7", 3)] and found["n_action_steps"] == [(8, 3)]
    assert not {"versions", "suite", "success", "steps", "video", "finished", "instruction"} & set(found)


def test_the_table_of_a_full_evaluation_fits_the_terminal(tmp_path):
    names = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    long = "put the {} with the extraordinarily long name into the basket beside it"
    records = [
        record(task, init, suite=suite, instruction=long.format(names[task]), parse_failures=13, policy_s=123.4)
        for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10")
        for task in range(10)
        for init in range(50)
    ]
    text = run_text(gather([write_quickly(tmp_path / "results.jsonl", records)]))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    assert len([line for line in lines if " 50/50 " in line]) == 40
    assert all(len([line for line in lines if f"… {name} …" in line]) == 4 for name in names)
    assert next(line for line in lines if line.startswith("total")).split()[1:4] == ["2000/2000", "100.0", "99.8-100.0"]


def test_short_names():
    long = ["pick up the black bowl on the stove and place it", "pick up the black bowl next to the plate and place it"]
    assert short_names(long) == ["… on the stove …", "… next to the plate …"]
    assert short_names(["a b", "a c"]) == ["a b", "a c"] and short_names(long[:1]) == long[:1]
    assert short_names(long[:1] * 2) == long[:1] * 2


def test_ranges():
    assert ranges([7, 9, 10, 11, 12, 9]) == "7, 9-12" and ranges([]) == "" and ranges([1, 0]) == "0-1"


def test_seeds_are_named_where_they_differ():
    episodes = [("s", 0, 1, 7, None), ("s", 0, 2, 8, None)]
    assert list_episodes(episodes) == ["s 0 seed 7: init 1", "s 0 seed 8: init 2"]


def test_what_is_asked_tells_episodes_apart(tmp_path):
    records = [record(0, init, asked=asked, instructions="x") for asked in ("go", "stop") for init in (0, 1)]
    write(tmp_path / "results.jsonl", records)
    plans = [plan(0, (0, 1), asked="go", instructions="x"), plan(0, (0, 1, 2), asked="stop", instructions="x")]
    write(tmp_path / "planned.jsonl", plans)
    run = gather([tmp_path])
    assert (len(run.episodes), run.planned, len(run.repeats)) == (4, 5, 0)
    assert list_episodes(run.missing) == ["libero_goal 0 'stop': init 2"]
    assert not set(dependencies(run)) & {"asked", "axes", "facts"} and "instructions" in dependencies(run)
    write(tmp_path / "results.jsonl", [record(0, 0)])
    with pytest.raises(ValueError, match=r"2 measurements.*instructions=x \(4 ep.*instructions=null \(1 ep"):
        gather([tmp_path])
    assert len(gather([tmp_path], ["instructions=null"]).episodes) == 1
