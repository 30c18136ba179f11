import itertools

import pytest

from rv_train.data.sampler import ResumableBatchSampler


def batches(count, start=0, **change):
    options = dict(num_samples=23, batch_size=4, mode="full", seed=1, rank=0, world_size=2)
    sampler = ResumableBatchSampler(**{**options, **change}, start_batch=start)
    return list(itertools.islice(sampler, count))


def test_resuming_anywhere_gives_the_same_batches():
    whole = batches(20)
    for start in (0, 1, 4, 5, 6, 13):
        assert batches(20 - start, start) == whole[start:]


def test_full_gives_every_rank_the_whole_set_in_its_own_order():
    first, second = batches(5), batches(5, rank=1)
    for epoch in (first, second):
        indices = [index for batch in epoch for _, _, index in batch]
        assert len(set(indices)) == 20
    assert [k[2] for k in first[0]] != [k[2] for k in second[0]]


def test_sharded_ranks_share_one_pass():
    seen = [index for rank in (0, 1) for batch in batches(2, rank=rank, mode="sharded") for _, _, index in batch]
    assert len(seen) == len(set(seen)) == 16


def test_epochs_differ_and_are_named_in_the_key():
    first, second = batches(10)[:5], batches(10)[5:]
    assert {key[0] for batch in first for key in batch} == {0}
    assert {key[0] for batch in second for key in batch} == {1}
    assert [k[2] for k in first[0]] != [k[2] for k in second[0]]


def test_too_few_samples():
    with pytest.raises(ValueError, match="do not fill one batch"):
        batches(1, num_samples=3)
