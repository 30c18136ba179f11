"""Drafts on their way: from an episode's last answer into its next observation, to the policy here or served."""

import numpy as np
import pytest
import torch

from rv_eval.agent import AgentSettings
from rv_eval.drafts import numbers_of
from rv_eval.envs.base import Episode
from rv_eval.playing.rollout import Rollout
from rv_eval.policy import Policy
from rv_eval.serving.observation import read_observation
from rv_eval.serving.remote_policy import RemotePolicy
from tests.rv_eval.fakes import FakeEnv, FakePolicy, FakeTask
from tests.rv_eval.servers import VIEWS, PicturePolicy, observation, running
from tests.tiny import make_tiny_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("run"))


def lively(run, **more):
    """A policy whose answers differ."""
    policy = Policy.from_checkpoint(run, batch_rows=2, **more)
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.15)
    return policy


def assert_same(found, wanted):
    assert found.texts == wanted.texts
    np.testing.assert_array_equal(found.chunk, wanted.chunk)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_makes_an_answer_faster_and_no_other(run, temperature):
    policy, without = (lively(run, temperature=temperature, drafts=drafts) for drafts in (True, False))
    assert (policy.describe()["drafts"], without.describe()["drafts"]) == (True, False)
    observations = [observation(seed, side=64, random_key=(seed,)) for seed in range(5)]
    plain = without.predict_detailed(observations)
    right = [[int(word) for word in text.split()] for text in plain.texts]
    assert plain.tokens.tolist() == [len(text) + 1 for text in plain.texts]
    drafted = policy.predict_detailed([one | {"draft": draft} for one, draft in zip(observations, right, strict=True)])
    assert_same(drafted, plain)
    # Two rows: 16 tokens of each in a pass.
    assert drafted.passes.tolist() == [-(-len(text) // 16) for text in plain.texts]
    assert (plain.passes > 4 * drafted.passes).all()
    for draft in ([], [5] * 3, np.arange(99), [2**62] * 14, [0] * 5000):
        drafts = [one | {"draft": draft} for one in observations]
        assert_same(policy.predict_detailed(drafts), plain)
        np.testing.assert_array_equal(without.predict_detailed(drafts).passes, plain.passes)
    assert_same(policy.predict_detailed(observations), plain)
    for wrong in (5, None, "12", [0.5]):
        with pytest.raises(ValueError, match="draft is a sequence of integers >= 0"):
            policy.predict([observations[0] | {"draft": wrong}])


class Counting(FakePolicy):
    """Writes a text with the step in it, and keeps the drafts that it is given."""

    def __init__(self, text):
        super().__init__()
        self.given, self.text = [], text

    def predict_detailed(self, observations):
        prediction = super().predict_detailed(observations)
        self.given += [list(one["draft"]) for one in observations]
        steps = [int(one["proprio"]["robot_states"][0]) for one in observations]
        counts = np.full(len(observations), 60), np.full(len(observations), 9)
        texts = [self.text.format(step) for step in steps]
        numbers = [numbers_of(text) for text in texts]
        return type(prediction)(prediction.chunk, prediction.valid, prediction.repaired, texts, *counts, numbers)


def play(policy, executed):
    rollout = Rollout(policy, lambda task: FakeEnv(task), AgentSettings(executed))
    (result,) = rollout.run([Episode(FakeTask(), 12, 7, 20)])
    return result


@pytest.mark.parametrize("executed", [1, 3, 4])
def test_the_last_answer_without_the_executed_actions_is_the_next_draft(executed):
    policy = Counting("{} " + " ".join(str(number) for number in range(1, 28)))
    result = play(policy, executed)
    assert result.queries == len(policy.given) == -(-12 // executed)
    assert policy.given[0] == []
    assert policy.given[1:] == [list(range(7 * executed, 28))] * (result.queries - 1)
    assert (result.tokens, result.passes) == (60 * result.queries, 9 * result.queries)


@pytest.mark.parametrize(
    "text", ["", "from {}", "1 2 3 4 5 6 7 8 -9", "1 2 3 4 5 6 7 8  9", "1 2 3 4 5 6 7 8 " + "9" * 5000]
)
def test_a_text_of_other_things_is_no_draft(text):
    policy = Counting(text)
    play(policy, 1)
    assert set(map(tuple, policy.given)) == {()}


def test_a_served_policy_is_given_drafts_where_it_takes_them(run):
    taken = read_observation(observation(0, draft=[1, 2]), VIEWS, {})["draft"]
    assert taken == (1, 2) == read_observation(observation(0, draft=np.array([1, 2])), VIEWS, {})["draft"]
    policy = lively(run)
    one = observation(3, side=64)
    plain = policy.predict_detailed([one])
    one["draft"] = [int(word) for word in plain.texts[0].split()]
    with running(policy) as server:
        served = RemotePolicy(server.url).predict_detailed([one])
        assert_same(served, plain)
        assert served.passes[0] == -(-len(plain.texts[0]) // 16) < plain.passes[0]

    class Old(PicturePolicy):
        def chunk(self, observation):
            assert "draft" not in observation
            return super().chunk(observation)

    policy = Old(drafts=False)
    with running(policy) as server:
        remote = RemotePolicy(server.url)
        np.testing.assert_array_equal(
            remote.predict([observation(0, draft=[1])]), policy.predict_detailed([observation(0)]).chunk
        )
        assert remote.predict_detailed([observation(0)]).writing(0) == (0, 0)
