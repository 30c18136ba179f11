import hashlib
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch

from rv_eval import policy as policy_module
from rv_eval.agent import AgentSettings
from rv_eval.policy import Policy, model_fingerprint
from tests.tiny import ACTION_STATS, flow_opts, make_tiny_checkpoint


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


# ------------------------------------------------------------------------------------------------ what is refused


def test_missing_view_is_refused(policy):
    blind = observation(0)
    del blind["views"]["eye_in_hand"]
    with pytest.raises(ValueError, match="eye_in_hand"):
        policy.predict([blind])


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((64, 64, 3), np.float32),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((3, 64, 64), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
        "no picture",
    ],
)
def test_a_view_that_is_no_picture_is_refused(policy, picture):
    wrong = observation(0)
    wrong["views"]["agentview"] = picture
    with pytest.raises(ValueError, match=r"a view must be a \(H, W, 3\) uint8 picture, got"):
        policy.predict([wrong])


@pytest.mark.parametrize("wrong", [{"instruction": None}, {"instruction": b"go"}, {"views": []}, {"views": None}])
def test_an_observation_without_its_parts_is_refused(policy, wrong):
    with pytest.raises(ValueError, match="an observation holds views, a dict of pictures, and an instruction, a text"):
        policy.predict([observation(0) | wrong])


def test_an_observation_without_a_camera_is_refused(policy):
    wrong = observation(0)
    del wrong["views"]["eye_in_hand"]
    with pytest.raises(ValueError, match="no view eye_in_hand, only agentview; the model needs agentview, eye_in_hand"):
        policy.predict([wrong])


def test_pictures_of_another_resolution_are_resized(policy):
    """The crop is a share of the picture, so only what shrinking rounds is left of the difference."""
    smooth = np.linspace(0, 255, 64)[:, None, None] * np.linspace(0, 1, 64)[None, :, None] * np.ones(3)
    small = {"views": dict.fromkeys(policy.views, smooth.astype(np.uint8)), "instruction": "stack it"}
    large = {"views": {}, "instruction": "stack it"}
    for view in policy.views:
        large["views"][view] = small["views"][view].repeat(3, axis=0).repeat(3, axis=1)
    pictures = [policy.encoder.encode(one)["images"].float() for one in (small, large)]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] - pictures[1]).abs().max() <= 8
    assert policy.predict([large]).shape == (1, 2, 7)


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


def test_the_checkpoint_says_how_to_look_and_to_answer(tmp_path, monkeypatch):
    """Image size, crop, cameras, horizon, bins and statistics come from the folder, nothing from the caller."""
    more = {"IMAGE__SIZE": 112, "IMAGE__CROP": 0.5, "ACTION__HORIZON": 3, "ACTION__NUM_BINS": 50}
    run = make_tiny_checkpoint(tmp_path, render="standard", resolution=96, DATA__VIEWS=["front"], **more)
    stats = ACTION_STATS | {"min": [2.0] * 7, "max": [4.0] * 7}
    (run / "last" / "model" / "action_stats.json").write_text(json.dumps(stats))
    policy = Policy.from_checkpoint(run)
    assert (policy.views, policy.horizon, policy.render, policy.resolution) == (("front",), 3, "standard", 96)
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[24:72, 24:72] = 255  # the centre, all that a crop of one half leaves
    one = {"views": {"front": picture}, "instruction": "stack it"}
    batches, predict = [], policy.model.predict
    monkeypatch.setattr(policy.model, "predict", lambda batch, *rest: (batches.append(batch), predict(batch, *rest))[1])
    answer = policy.predict_detailed([one])
    assert batches[0]["images"].shape[1:] == (1, 112, 112, 3) and batches[0]["images"].min() == 255
    assert answer.chunk.shape == (1, 3, 7) and (answer.chunk >= 2).all() and (answer.chunk <= 4).all()
    numbers = " ".join(["0"] * 7 + ["25"] * 7 + ["50"] * 7)
    np.testing.assert_allclose(policy.model.codec.decode([numbers], 3)[0][0, :, 0], [2, 3, 4])
    policy.check_environment(("front", "agentview"), 7, "standard")


def test_description(run, monkeypatch):
    hashed, fingerprint = [], model_fingerprint
    monkeypatch.setattr(policy_module, "model_fingerprint", lambda f: (hashed.append(f), fingerprint(f))[1])
    policy = Policy.from_checkpoint(run, batch_rows=3, temperature=0.5)
    assert not hashed, "gigabytes are not read before somebody asks"
    described = policy.describe()
    assert policy.describe() == json.loads(json.dumps(described)) == described and len(hashed) == 1
    versions = described.pop("policy_versions")
    assert set(versions) == {"python", "torch", "transformers", "numpy"} and versions["torch"] == torch.__version__
    assert described == {
        "model_folder": str((run / "last" / "model").resolve()),
        **fingerprint(policy.folder),
        "horizon": 2,
        "action_dim": 7,
        "views": ["agentview", "eye_in_hand"],
        "proprio": {},
        "render": "fast",
        "resolution": 64,
        "pictures": {
            "cameras": {"agentview": [64, 64], "eye_in_hand": [64, 64]},
            "fit": "crop",
            "crop": 0.97,
            "size": [56, 56],
        },
        "preset": asdict(AgentSettings()),
        "temperature": 0.5,
        "batch_rows": 3,
        "device": "cpu",
        "dtype": "float32",
        "torch_compile": False,
        "drafts": True,
    }


@pytest.mark.parametrize("opts", [{}, flow_opts(DATA__PROPRIO=[])])
def test_answers_in_bfloat16_say_so(opts, tmp_path):
    run = make_tiny_checkpoint(tmp_path, **opts)
    policy = Policy.from_checkpoint(run, batch_rows=1, dtype="bfloat16")
    assert {parameter.dtype for parameter in policy.model.parameters()} == {torch.bfloat16}
    assert policy.describe()["dtype"] == "bfloat16"
    chunk = policy.predict([{**observation(0), "random_key": (1,)}])
    assert chunk.dtype == np.float32 and np.isfinite(chunk).all()
    with pytest.raises(ValueError, match="dtype is one of float32, bfloat16, not 'float16'"):
        Policy.from_checkpoint(run, dtype="float16")


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
