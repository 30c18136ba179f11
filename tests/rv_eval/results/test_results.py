import fcntl
import json
import multiprocessing
import os
import time

import pytest

from rv_eval.results.records import ResultsFile, record_key, success_table, summarize, wilson_interval


def record(task_id=0, init_state=0, success=True, **changes):
    return {
        "suite": "libero_object",
        "task_id": task_id,
        "task_name": f"task_{task_id}",
        "init_state": init_state,
        "seed": 7,
        "success": success,
        "steps": 100 + init_state,
        "queries": 13,
        "parse_failures": 1,
        "incidents": 0,
        "model_fingerprint": "abc",
        "ensemble_weight": 0.5,
        "versions": {"mujoco": "2.3.7", "torch": "2.13.0"},
    } | changes


def test_append_and_read(tmp_path):
    file = ResultsFile(tmp_path / "new" / "results.jsonl")
    assert file.read() == []
    file.append(record(init_state=0))
    file.append(record(init_state=1))
    assert [r["init_state"] for r in file.read()] == [0, 1]


def test_a_process_forked_meanwhile_does_not_keep_the_lock(tmp_path, monkeypatch):
    file, child = ResultsFile(tmp_path / "results.jsonl"), multiprocessing.get_context("fork").Process(target=sleep)
    monkeypatch.setattr(os, "fsync", lambda _: child.start())
    file.append(record())
    with open(file.path, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody has it
    assert child.is_alive()
    child.kill()
    child.join()


def sleep():
    time.sleep(60)


@pytest.mark.parametrize("torn", ['{"suite": "lib', '{"suite": "libero_object"}', "\x00\x00"])
def test_torn_last_line_is_tolerated_and_repaired(tmp_path, torn):
    file = ResultsFile(tmp_path / "results.jsonl")
    file.append(record(init_state=0))
    with open(file.path, "a") as raw:
        raw.write(torn)
    assert [r["init_state"] for r in file.read()] == [0]
    file.append(record(init_state=1))
    assert [r["init_state"] for r in file.read()] == [0, 1]
    assert all(json.loads(line) for line in file.path.read_text().splitlines())


def test_broken_line_inside_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(record()) + "\nnonsense\n" + json.dumps(record()) + "\n")
    with pytest.raises(ValueError, match=r"results.jsonl line 2"):
        ResultsFile(path).read()


@pytest.mark.parametrize(
    "change",
    [
        {"init_state": 1},
        {"seed": 8},
        {"model_fingerprint": "other"},
        {"ensemble_weight": 0.7},
        {"n_action_steps": 1},
        {"dtype": "bfloat16"},
        {"versions": {"mujoco": "3.0.0"}},
    ],
)
def test_key_tells_measurements_apart(change):
    assert record_key(record()) != record_key(record(**change))


def test_a_record_of_before_there_was_a_choice_of_dtypes_is_one_of_float32():
    assert "dtype" not in record()
    assert record_key(record()) == record_key(record(dtype="float32")) != record_key(record(dtype="bfloat16"))


def test_key_ignores_the_outcome():
    assert record_key(record()) == record_key(record(success=False, steps=1, versions={"mujoco": "2.3.7"}))


@pytest.mark.parametrize(
    "successes, total, low, high",
    [  # known values of the Wilson score interval, 95 %
        (0, 10, 0.0, 0.2775),
        (7, 10, 0.3968, 0.8922),
        (10, 10, 0.7225, 1.0),
        (45, 50, 0.7864, 0.9565),
        (1894, 2000, 0.9363, 0.9560),
    ],
)
def test_wilson_interval(successes, total, low, high):
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=2e-4)


def test_wilson_interval_without_episodes():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_summary_and_table():
    records = [record(0, 0), record(0, 1), record(1, 0, success=False, incidents=2)]
    summary = summarize(records)
    assert (summary.episodes, summary.successes, summary.steps) == (3, 2, 100.5)
    assert (summary.queries, summary.parse_failures, summary.incidents) == (39, 3, 2)
    table = success_table(records).splitlines()
    assert table[2].split()[:6] == ["libero_object", "0", "task_0", "2/2", "100", "%"]
    assert "0/1" in table[3] and "3 of 39" in table[-1] and "2/3" in table[-1]
    assert len({len(line) for line in table}) == 1


def test_table_without_episodes():
    assert "0/0" in success_table([])
