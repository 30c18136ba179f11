import itertools

import numpy as np
import pytest

from libs.temporal_ensemble import TemporalEnsembler


def constant(value, horizon=4):
    return np.full((horizon, 2), float(value), dtype=np.float32)


def test_published_example():
    """Chunks [A, B, C], oldest first, version 1: 0.25 A + 0.25 B + 0.5 C where all three overlap."""
    ensembler = TemporalEnsembler(horizon=4, n_action_steps=1, size=3)
    ensembler.add(constant(4))
    ensembler.add(constant(8))
    out = ensembler.add(constant(100))
    assert out.shape == (4, 2) and out.dtype == np.float32
    np.testing.assert_allclose(out[0], 0.25 * 4 + 0.25 * 8 + 0.5 * 100)
    np.testing.assert_allclose(out[1], 53)
    np.testing.assert_allclose(out[2], (0.5 * 8 + 100) / 1.5)  # A ends here
    np.testing.assert_allclose(out[3], 100)  # only the newest reaches this far


def test_version_2_by_hand():
    ensembler = TemporalEnsembler(horizon=4, n_action_steps=1, size=3, version=2, weight=0.5)
    ensembler.add(constant(4))
    ensembler.add(constant(8))
    out = ensembler.add(constant(100))
    np.testing.assert_allclose(out[0], (0.25 * 4 + 0.5 * 8 + 100) / 1.75)
    np.testing.assert_allclose(out[2], (0.5 * 8 + 100) / 1.5)


def test_weight_one_is_the_plain_mean():
    ensembler = TemporalEnsembler(horizon=3, n_action_steps=1, size=3, weight=1.0)
    ensembler.add(constant(1, 3))
    ensembler.add(constant(2, 3))
    np.testing.assert_allclose(ensembler.add(constant(6, 3))[:, 0], [3, 4, 6])


def test_size_one_and_reset():
    ensembler = TemporalEnsembler(horizon=4, n_action_steps=4, size=1)
    ensembler.add(constant(1))
    np.testing.assert_array_equal(ensembler.add(constant(2)), constant(2))
    ensembler = TemporalEnsembler(horizon=4, n_action_steps=1, size=2)
    ensembler.add(constant(1))
    ensembler.reset()
    np.testing.assert_array_equal(ensembler.add(constant(2)), constant(2))


def test_the_caller_may_change_its_chunk_afterwards():
    ensembler = TemporalEnsembler(horizon=4, n_action_steps=1, size=2)
    chunk = constant(1)
    ensembler.add(chunk)[:] = 50
    chunk[:] = 100
    np.testing.assert_allclose(ensembler.add(constant(4))[0], (0.5 * 1 + 4) / 1.5)


def brute_force(chunks, n_action_steps, size, version, weight):
    """Time step by time step on one absolute clock, for the newest of `chunks`."""
    newest = len(chunks) - 1
    out = []
    for step in range(len(chunks[0])):
        now = newest * n_action_steps + step
        pairs = []
        for i in range(max(0, newest - size + 1), newest + 1):
            index = now - i * n_action_steps
            if index < len(chunks[i]):
                power = newest - i
                old = weight if version == 1 else weight**power
                pairs.append((1.0 if i == newest else old, chunks[i][index]))
        out.append(sum(w * c for w, c in pairs) / sum(w for w, _ in pairs))
    return np.array(out)


def test_against_brute_force():
    rng = np.random.default_rng(0)
    for horizon, n, size, version in itertools.product((3, 8), (1, 2, 3), (1, 2, 5, 8), (1, 2)):
        ensembler = TemporalEnsembler(horizon, n, size, version, weight=0.7, allow_no_overlap=True)
        chunks = []
        for _ in range(2 * size):
            chunks.append(rng.normal(size=(horizon, 7)))
            expected = brute_force(chunks, n, size, version, 0.7)
            np.testing.assert_allclose(ensembler.add(chunks[-1]), expected)


@pytest.mark.parametrize("n_action_steps", [8, 9])
def test_no_overlap_is_an_error_that_says_so(n_action_steps):
    with pytest.raises(ValueError, match="no overlap"):
        TemporalEnsembler(8, n_action_steps, size=8)


def test_no_overlap_can_be_allowed():
    ensembler = TemporalEnsembler(4, 4, size=4, allow_no_overlap=True)
    ensembler.add(constant(1))
    np.testing.assert_array_equal(ensembler.add(constant(2)), constant(2))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"horizon": 0, "n_action_steps": 1, "size": 1}, "horizon"),
        ({"horizon": 8, "n_action_steps": 0, "size": 1}, "n_action_steps"),
        ({"horizon": 8, "n_action_steps": 9, "size": 1}, "n_action_steps"),
        ({"horizon": 8, "n_action_steps": 1, "size": 0}, "size"),
        ({"horizon": 8, "n_action_steps": 1, "size": 2, "version": 3}, "version"),
        ({"horizon": 8, "n_action_steps": 1, "size": 2, "weight": -1.0}, "weight"),
        ({"horizon": 8, "n_action_steps": 1, "size": 2, "weight": float("nan")}, "weight"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TemporalEnsembler(**arguments)


def test_bad_chunks_are_refused():
    ensembler = TemporalEnsembler(4, 1, size=2)
    with pytest.raises(ValueError, match=r"\(4, A\)"):
        ensembler.add(constant(1, horizon=3))
    ensembler.add(constant(1))
    with pytest.raises(ValueError, match="before"):
        ensembler.add(np.zeros((4, 7)))
