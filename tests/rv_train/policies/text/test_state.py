"""DATA.PROPRIO of a text policy: the robot's state as integers in the user's turn."""

import numpy as np
import pytest

from rv_eval.policy import Policy
from rv_train.backbones import build_prompt
from rv_train.checkpoint import save_model_folder
from rv_train.data.load import load_data
from rv_train.policies import build_encoder
from tests.demo_files import write_synthetic_demo_file
from tests.rv_train.policies.text.test_decoder import lively_model
from tests.tiny import tiny_cfg

PARTS = {"DATA__PROPRIO": ["robot_states", "ee_pos"]}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "demo.hdf5"
    write_synthetic_demo_file(path, num_demos=3, num_frames=12, resolution=64, seed=0)
    return path


@pytest.fixture(scope="module")
def data(demos):
    return load_data(tiny_cfg(DATA__FILES=[str(demos)], **PARTS))


@pytest.fixture(scope="module")
def encoder(data):
    return build_encoder(tiny_cfg(**PARTS), data.action_stats)


@pytest.mark.parametrize("state", ["0 100 7", "10 0 100 55 3"])
def test_the_ids_are_those_of_the_whole_text(state):
    """Spliced in, and tokenized in one piece: the same, even where the instruction holds numbers itself."""
    prompt = build_prompt(tiny_cfg(PROMPT__SYSTEM="0 bins"))
    for instruction in ("pick up 10 cups, 0 plates", "0"):
        text = prompt.chat.prompt(prompt.system, prompt.pictures, f"{instruction}\nState: {state}", False)
        ids = prompt.tokenizer(text)["input_ids"]
        assert prompt.encode(instruction, None, state)["input_ids"].tolist() == ids
        encoded = prompt.encode(instruction, "1 2", state)
        assert encoded["input_ids"][: len(ids)].tolist() == ids and (encoded["labels"][: len(ids)] == -100).all()


def test_numbers_are_spread_over_the_range_of_the_data(data, encoder):
    low, high = (np.array(data.action_stats["proprio"][key]) for key in ("min", "max"))
    assert encoder.state_text(low) == " ".join(["0"] * 12)
    assert encoder.state_text(high) == " ".join(["100"] * 9 + ["0"] * 3)  # the last three never change
    assert encoder.state_text(high + 1) == encoder.state_text(high)  # outside: clipped
    assert encoder.state_text(low + (high - low) * 0.25) == " ".join(["25"] * 9 + ["0"] * 3)


def test_a_stored_frame_and_the_same_as_an_observation_are_one_prompt(data, encoder):
    sample = data.train[17]
    trained = encoder.encode_training(sample, np.random.default_rng(0), augment=False)
    length = encoder.prompt_length(sample)
    views = dict(zip(encoder.views, sample.views, strict=True))
    for proprio in (sample.proprio, {"robot_states": sample.proprio[:9], "ee_pos": sample.proprio[9:], "more": [1]}):
        asked = encoder.encode({"views": views, "instruction": sample.instruction, "proprio": proprio})
        assert asked["input_ids"].tolist() == trained["input_ids"][:length].tolist()
        assert (asked["images"] == trained["images"]).all()
    assert (trained["labels"][:length] == -100).all() and trained["labels"][length] != -100
    read = encoder.prompt.tokenizer.decode(asked["input_ids"])
    assert f"{sample.instruction}\nState: {encoder.state_text(sample.proprio)}<|im_end|>" in read


@pytest.mark.parametrize(
    "proprio, message",
    [
        (None, r"observation has no proprio; the model needs robot_states \(9\), ee_pos \(3\)"),
        ({"ee_pos": [0.0] * 3}, "proprio has no robot_states"),
        (np.zeros(4), r"proprio has shape \(4,\)"),
        (np.array([0, 0, np.nan] + [0] * 9), "proprio holds nan"),
    ],
)
def test_a_state_that_is_missing_or_no_numbers_is_refused(data, encoder, proprio, message):
    sample = data.train[0]
    views = dict(zip(encoder.views, sample.views, strict=True))
    with pytest.raises(ValueError, match=message):
        encoder.encode({"views": views, "instruction": "go", "proprio": proprio})


def test_a_saved_policy_is_given_it_and_answers_by_it(data, encoder, tmp_path):
    cfg, model = tiny_cfg(**PARTS), lively_model()
    model.codec = encoder.codec
    save_model_folder(tmp_path / "model", model, cfg, data.action_stats, {"render": "fast", "resolution": 64})
    policy = Policy.from_checkpoint(tmp_path / "model")
    assert policy.proprio == {"robot_states": 9, "ee_pos": 3}
    sample = data.train[0]
    one = {"views": dict(zip(encoder.views, sample.views, strict=True)), "instruction": "go"}
    answers = [policy.predict([one | {"proprio": state}]) for state in (sample.proprio, data.train[11].proprio)]
    assert not np.array_equal(*answers)


def test_the_plan_counts_it(encoder):
    plain = build_encoder(tiny_cfg()).outline("go")[0]["input_ids"]
    counted = encoder.outline("go")[0]["input_ids"]
    assert len(counted) - len(plain) == len(encoder.prompt.tokenizer("\nState:" + " 50" * 12)["input_ids"])
