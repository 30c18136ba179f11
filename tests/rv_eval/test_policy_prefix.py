"""What a chunk is to begin with, on its way to the policy, here or served."""

import numpy as np
import pytest

from rv_eval.policy import Policy
from rv_eval.serving.observation import read_observation
from rv_eval.serving.remote_policy import RemotePolicy
from tests.rv_eval.servers import VIEWS, PicturePolicy, observation, running
from tests.rv_eval.test_policy_drafts import assert_same, lively
from tests.tiny import flow_opts, make_tiny_checkpoint

A, BINS = 7, 100


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("run"))


def begun(seed, count=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, A))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_chunk_begins_with_its_prefix_whoever_stands_beside_it(run, temperature):
    policy = lively(run, temperature=temperature)
    free = [observation(seed, side=64, random_key=(seed,)) for seed in range(5)]
    plain = policy.predict_detailed(free)
    assert_same(policy.predict_detailed([one | {"prefix": np.zeros((0, A))} for one in free]), plain)
    # Two rows a call: with it and without, in every place.
    some = [one | ({"prefix": begun(row)} if row in (0, 3, 4) else {}) for row, one in enumerate(free)]
    found = policy.predict_detailed(some)
    for row, one in enumerate(some):
        alone = policy.predict_detailed([one])
        assert alone.texts[0] == found.texts[row] and alone.passes[0] == found.passes[row]
        np.testing.assert_array_equal(alone.chunk[0], found.chunk[row])
        if "prefix" in one:
            np.testing.assert_allclose(found.chunk[row, 0], one["prefix"][0], atol=1.01 / BINS)
        else:
            np.testing.assert_array_equal(found.chunk[row], plain.chunk[row])
    assert found.valid.all() and not found.repaired.any()
    # The policy's own beginning leads to its own end, in fewer passes; without drafts, too.
    own = [one | {"prefix": plain.chunk[row, :1]} for row, one in enumerate(free)]
    again = policy.predict_detailed(own)
    assert_same(again, plain)
    assert (again.passes < plain.passes).all()
    assert_same(lively(run, temperature=temperature, drafts=False).predict_detailed(own), plain)


def test_what_is_no_prefix_is_refused(run, tmp_path):
    policy, one = lively(run), observation(0, side=64)
    for wrong in (np.zeros((3, A)), np.zeros(A), np.zeros((1, 6)), np.full((1, A), np.nan)):
        with pytest.raises(ValueError, match=r"prefix is \(d, 7\) finite numbers, d at most 2, got"):
            policy.predict([one | {"prefix": wrong}])
    for wrong in ("twelve", [[1], [2, 3]]):
        with pytest.raises(ValueError, match="prefix is an array of floats"):
            policy.predict([one | {"prefix": wrong}])
    flow = Policy.from_checkpoint(make_tiny_checkpoint(tmp_path, **flow_opts(DATA__PROPRIO=[])), batch_rows=1)
    assert not flow.takes_prefix
    assert flow.predict([one | {"prefix": []}]).shape == (1, 2, A)
    with pytest.raises(ValueError, match="writes no text, so its chunk cannot begin with a given prefix"):
        flow.predict([one | {"prefix": begun(0)}])


def test_a_served_policy_is_told_where_it_takes_one(run):
    for wrong in ([1.0], np.zeros((1, 7), np.int64), np.zeros(7), np.full((1, 7), np.inf), np.zeros((200, 7))):
        with pytest.raises(ValueError, match=r"prefix: an array \(d, A\) of at most 1024 finite floats"):
            read_observation(observation(0, prefix=wrong), VIEWS, {})
    policy, one = lively(run), observation(3, side=64) | {"prefix": begun(1)}
    here = policy.predict_detailed([one])
    with running(policy) as server:
        remote = RemotePolicy(server.url)
        assert remote.takes_prefix
        assert_same(remote.predict_detailed([one]), here)
        with pytest.raises(ValueError, match=r"refuses an observation: prefix is .* d at most 2, got"):
            remote.predict([one | {"prefix": begun(1, 3)}])
        remote.close()
    with running(PicturePolicy()) as server:
        remote = RemotePolicy(server.url)
        assert not remote.takes_prefix
        with pytest.raises(ValueError, match="takes no prefix"):
            remote.predict([observation(0, prefix=begun(0))])
        remote.close()
