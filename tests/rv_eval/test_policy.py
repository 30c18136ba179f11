import hashlib
import json
import shutil

import numpy as np
import pytest

from rv_eval.policy import Policy, model_fingerprint
from tests.tiny import make_tiny_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def policy(run):
    return Policy.from_checkpoint(run)


def observation(seed, side=64, instruction="pick up the milk and place it in the basket"):
    rng = np.random.default_rng(seed)
    views = {name: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for name in ("agentview", "eye_in_hand")}
    return {"views": views, "instruction": instruction, "proprio": np.zeros(9, np.float32)}


def test_checkpoint_says_everything(policy, run):
    assert (policy.horizon, policy.action_dim) == (2, 7)
    assert policy.views == ("agentview", "eye_in_hand")
    assert (policy.render, policy.resolution) == ("fast", 64)
    assert policy.folder == (run / "last" / "model").resolve()


def test_model_folder_and_run_folder_are_the_same_policy(policy, run):
    other = Policy.from_checkpoint(run / "last" / "model")
    np.testing.assert_array_equal(other.predict([observation(0)]), policy.predict([observation(0)]))


def test_predictions(policy):
    observations = [
        observation(0),
        observation(1, instruction="a much longer instruction " * 3),
        observation(2),
    ]
    detailed = policy.predict_detailed(observations)
    chunks = detailed.chunk
    assert chunks.shape == (3, 2, 7) and chunks.dtype == np.float32
    assert np.isfinite(chunks).all() and (np.abs(chunks) <= 1).all()
    assert detailed.valid.shape == detailed.repaired.shape == (3,) and len(detailed.texts) == 3
    assert all(set(text) <= set("0123456789 ") for text in detailed.texts)
    alone = [policy.predict([one])[0] for one in observations]
    np.testing.assert_array_equal(np.stack(alone), chunks)


def test_missing_view_is_refused(policy):
    blind = observation(0)
    del blind["views"]["eye_in_hand"]
    with pytest.raises(ValueError, match="eye_in_hand"):
        policy.predict([blind])


@pytest.mark.parametrize(
    "views, action_dim, render, message",
    [
        (("agentview",), 7, "fast", "no view eye_in_hand"),
        (("agentview", "eye_in_hand"), 8, "fast", "actions of 7 numbers, the environment takes 8"),
        (
            ("agentview", "eye_in_hand"),
            7,
            "standard",
            "render setting 'fast', the environment renders 'standard'",
        ),
    ],
)
def test_environment_that_does_not_fit_is_refused(policy, views, action_dim, render, message):
    with pytest.raises(ValueError, match=message) as caught:
        policy.check_environment(views, action_dim, render)
    assert "\n" not in str(caught.value)


def test_matching_environment_passes(policy):
    policy.check_environment(("front", "eye_in_hand", "agentview"), 7, "fast")


def test_bad_paths_and_devices_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Policy.from_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no model"):
        Policy.from_checkpoint(tmp_path)
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "last" / "model" / "action_stats.json").unlink()
    with pytest.raises(ValueError, match=r"action_stats\.json"):
        Policy.from_checkpoint(copy)
    with pytest.raises(ValueError, match="device 'nonsense'"):
        Policy.from_checkpoint(run, device="nonsense")


def test_fingerprint_tells_models_apart(run, tmp_path):
    folder = shutil.copytree(run / "last" / "model", tmp_path / "model")
    before = model_fingerprint(folder)
    weights = (folder / "model.safetensors").read_bytes()
    assert before["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert before == model_fingerprint(run / "last" / "model"), "the place does not matter"
    stats = json.loads((folder / "action_stats.json").read_text())
    (folder / "action_stats.json").write_text(json.dumps(stats | {"max": [2.0] * 7}))
    after = model_fingerprint(folder)
    assert after["weights_sha256"] == before["weights_sha256"]
    assert after["model_fingerprint"] != before["model_fingerprint"]
