"""Who waits beside an observation changes nothing of its answer, drawn or not; and what a random key decides."""

import numpy as np
import pytest
import torch

from rv_eval.policy import DEFAULT_ROWS, Policy
from rv_train.backbones.qwen2_5_vl.pictures import image_patches
from tests.rv_eval.test_policy import observation
from tests.tiny import make_tiny_checkpoint

INSTRUCTIONS = (
    "stack it",
    "pick up the milk",
    "put both the alphabet soup and the tomato sauce in the basket, close it, and go back to where it began",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def lively(run):
    """rows, temperature -> a policy whose answers differ: random weights so large that roundings show."""

    def load(rows, temperature=0.0):
        policy = Policy.from_checkpoint(run, batch_rows=rows, temperature=temperature)
        noise = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.15)
        return policy

    return load


def many(count):
    return [observation(seed, instruction=INSTRUCTIONS[seed % 3]) | {"random_key": [7, seed]} for seed in range(count)]


def watch_calls(policy, monkeypatch):
    """Every call of the model: its batch and the hidden states of prompt and steps."""
    calls, model = [], policy.model
    predict, prefill, step = model.predict, model.decoder.prefill, model.decoder.step

    def watched_predict(batch, *arguments):
        calls.append((batch, []))
        return predict(batch, *arguments)

    def watched_prefill(*arguments):
        hidden, cache = prefill(*arguments)
        calls[-1][1].append(hidden)
        return hidden, cache

    def watched_step(*arguments):
        hidden = step(*arguments)
        calls[-1][1].append(hidden.unflatten(0, (policy.batch_rows, -1)))
        return hidden

    monkeypatch.setattr(model, "predict", watched_predict)
    monkeypatch.setattr(model.decoder, "prefill", watched_prefill)
    monkeypatch.setattr(model.decoder, "step", watched_step)
    return calls


def states_of(calls, policy, one):
    """The hidden states that an observation got, found by its pictures among the rows that count."""
    pictures = policy.encoder.encode(one)["images"]
    [found] = [
        [state[row] for state in states]
        for batch, states in calls
        for row in range(len(batch["images"]))
        if batch["real"][row] and torch.equal(batch["images"][row], pictures)
    ]
    return found


@pytest.mark.parametrize("rows, temperature", [(1, 0.0), (2, 0.0), (4, 0.0), (4, 1.0)])
def test_an_answer_does_not_depend_on_its_neighbours(lively, monkeypatch, rows, temperature):
    """Alone, in every place, with neighbours of other lengths, in any order: the same numbers, bit by bit."""
    policy = lively(rows, temperature)
    calls, observations = watch_calls(policy, monkeypatch), many(9)
    alone = []
    for one in observations:
        calls.clear()
        answer = policy.predict_detailed([one])
        alone.append((answer.texts[0], answer.chunk[0], answer.valid[0], answer.repaired[0]))
        alone[-1] += (states_of(calls, policy, one),)
    assert len({answer[0] for answer in alone}) > 5
    orders = [range(9), [4, 1, 7], [3, 0, 5], [8, 6, 3, 5, 2, 0]]
    for order in orders:
        calls.clear()
        together = policy.predict_detailed([observations[place] for place in order])
        for row, place in enumerate(order):
            text, chunk, valid, repaired, states = alone[place]
            assert (together.texts[row], together.valid[row], together.repaired[row]) == (text, valid, repaired)
            np.testing.assert_array_equal(together.chunk[row], chunk)
            for expected, found in zip(states, states_of(calls, policy, observations[place]), strict=False):
                assert torch.equal(expected, found)


def test_every_call_has_the_same_rows_and_a_length_of_its_own_prompts(lively, monkeypatch):
    policy = lively(4)
    calls, observations = watch_calls(policy, monkeypatch), many(8)
    policy.predict(observations)
    lengths = [len(policy.encoder.encode(one)["input_ids"]) for one in observations]
    assert max(lengths[:2]) <= 64 < lengths[2] <= 128
    shapes = [(tuple(batch["input_ids"].shape), batch["real"].tolist()) for batch, _ in calls]
    full, half = [True] * 4, [True, True, False, False]
    assert shapes == [((4, 64), full), ((4, 64), half), ((4, 128), half)]
    assert all(len(batch["images"]) == 4 for batch, _ in calls)


def test_rows_are_filled_with_pixels_of_the_reference_preprocessing_too(lively):
    """The library's processor gives patches in place of pictures; its package for pictures is not needed here."""

    class Reference:
        def __init__(self, prompt):
            self.prompt = prompt

        def encode(self, pictures, instruction, *_):
            pixels, _ = image_patches(torch.from_numpy(pictures))
            return {**self.prompt.encode(instruction), "pixel_values": pixels}

    policy = lively(4)
    expected = policy.predict_detailed(many(5))
    policy.encoder.reference = Reference(policy.encoder.prompt)
    assert "pixel_values" in policy.encoder.encode(observation(0))
    assert policy.predict_detailed(many(5)).texts == expected.texts


def test_default_rows_and_senseless_numbers(run):
    policy = Policy.from_checkpoint(run)
    assert policy.batch_rows == DEFAULT_ROWS["cpu"] and policy.temperature == 0
    for wrong in ({"batch_rows": 0}, {"temperature": -0.5}, {"temperature": np.nan}, {"temperature": np.inf}):
        with pytest.raises(ValueError, match=str(*wrong.values())):
            Policy.from_checkpoint(run, **wrong)


# ------------------------------------------------------------------------------------------------ temperature


def test_drawn_answers_are_repeated_by_their_key_alone(lively):
    policy, [one] = lively(2, temperature=1.0), many(1)
    texts = [policy.predict_detailed([one | {"random_key": key}]).texts[0] for key in ([1, 2], (1, 2), [2, 1], [1, 2])]
    assert texts[0] == texts[1] == texts[3] != texts[2]
    assert policy.predict_detailed([one | {"random_key": np.array([1, 2])}]).texts == texts[:1]
    del one["random_key"]
    assert policy.predict_detailed([one]).texts != policy.predict_detailed([one]).texts
    for wrong in ([-1], [0.5], "seven", ["7"], 3):
        with pytest.raises(ValueError, match="random_key is a sequence of integers >= 0"):
            policy.predict([one | {"random_key": wrong}])


def test_a_temperature_close_to_zero_is_greedy(lively):
    greedy, close, warm = (lively(4, temperature).predict_detailed(many(6)).texts for temperature in (0.0, 1e-5, 1.0))
    assert greedy == close
    assert not set(greedy) & set(warm)
