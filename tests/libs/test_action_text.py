import numpy as np
import pytest

from libs.action_text import ActionTextCodec, is_constant

LOW, HIGH = [-1.0, 0.0, -0.5], [1.0, 2.0, 0.5]


@pytest.fixture
def codec():
    return ActionTextCodec(LOW, HIGH, num_bins=1000)


def test_encode_by_hand(codec):
    actions = [[[-1.0, 0.0, -0.5], [1.0, 2.0, 0.5]], [[0.0, 0.5, 0.25], [-0.5, 1.0, 0.0]]]
    assert codec.encode(actions) == ["0 0 0 1000 1000 1000", "500 250 750 250 500 500"]


def test_round_trip_within_half_a_bin(codec):
    rng = np.random.default_rng(0)
    actions = rng.uniform(LOW, HIGH, (5, 4, 3))
    decoded, valid = codec.decode(codec.encode(actions), horizon=4)
    assert decoded.dtype == np.float32 and decoded.shape == (5, 4, 3)
    assert valid.dtype == bool and valid.all()
    assert (np.abs(decoded - actions) <= (np.array(HIGH) - LOW) / 2000 + 1e-6).all()


def test_every_integer_survives_decode_and_encode():
    codec = ActionTextCodec([-0.9375], [0.9375])
    text = " ".join(str(i) for i in range(1001))
    decoded, _ = codec.decode([text], horizon=1001)
    assert codec.encode(decoded) == [text]


def test_values_outside_the_range_are_clipped_and_counted(codec):
    actions = np.array([[[-3.0, 1.0, 0.0], [0.0, 2.5, 0.0]]])
    assert codec.encode(actions) == ["0 500 500 500 1000 500"]
    assert codec.count_clipped(actions) == 2
    # A float32 copy of a float64 limit is not a clipped value.
    odd = ActionTextCodec([-0.1], [0.1])
    assert odd.count_clipped(np.array([[[-0.1], [0.1]]], dtype=np.float32)) == 0


@pytest.mark.parametrize(
    "text, valid, repaired, actions",
    [
        ("  0 0 0 1000 1000 1000 ", True, False, [LOW, HIGH]),
        ("0 0 0", True, True, [LOW, LOW]),  # short: padded with its last action
        ("0 0 0 1000 1000", True, True, [LOW, LOW]),  # incomplete last action dropped, then padded
        ("0 0 0 1000 1000 1000 7 7 7", True, True, [LOW, HIGH]),  # long: cut
        ("0 0 0 1000 1000 1000 7", True, True, [LOW, HIGH]),  # complete, and an incomplete one too many
        ("000 0 0 1000 01000 1000", True, False, [LOW, HIGH]),  # leading zeros are still integers
        ("0 0", False, False, None),
        ("", False, False, None),
        ("   ", False, False, None),
        ("0 0 x", False, False, None),
        ("0 0 1.5 0 0 0", False, False, None),
        ("0 -1 0 0 0 0", False, False, None),
        ("0 1001 0 0 0 0", False, False, None),
        ("0 1_0 0 0 0 0", False, False, None),
        ("0 ٣ 0 0 0 0", False, False, None),
        ("0 0 " + "9" * 10000, False, False, None),
        ("0 0 0 ?", False, False, None),
    ],
)
def test_decode_repairs_and_refuses(codec, text, valid, repaired, actions):
    decoded = codec.decode_detailed([text], horizon=2)
    assert decoded.valid.tolist() == [valid] and decoded.repaired.tolist() == [repaired]
    expected = [[0.0, 1.0, 0.0]] * 2 if actions is None else actions
    np.testing.assert_allclose(decoded.actions[0], expected)


def test_rows_do_not_disturb_each_other(codec):
    actions, valid = codec.decode(["0 0 0", "bad", "1000 1000 1000"], horizon=1)
    assert valid.tolist() == [True, False, True]
    np.testing.assert_allclose(actions[:, 0], [LOW, [0, 1, 0], HIGH])


def test_a_dimension_without_range_keeps_its_value():
    codec = ActionTextCodec([0.0, 0.3], [1.0, 0.3])
    with np.errstate(all="raise"):
        assert codec.encode([[[0.5, 0.3], [0.5, 9.0]]]) == ["500 0 500 0"]
    actions, _ = codec.decode(["500 0 500 1000"], horizon=2)
    np.testing.assert_allclose(actions[0], [[0.5, 0.3], [0.5, 0.3]])
    assert codec.count_clipped([[[0.5, 0.3], [0.5, 9.0]]]) == 1


@pytest.mark.parametrize(("value", "noise"), [(1.57, 1e-7), (-300.0, 1e-3), (0.0, 4e-8), (1.57, 0.0)])
def test_noise_around_one_value_gets_no_bins(value, noise):
    codec = ActionTextCodec([0.0, value - noise], [1.0, value + noise])
    actions = np.array([[[0.5, value - noise], [0.5, value], [0.5, value + noise]]])
    assert codec.encode(actions) == ["500 0 500 0 500 0"] and codec.count_clipped(actions.astype(np.float32)) == 0
    decoded, _ = codec.decode(["500 0 500 731 500 1000"], horizon=3)
    np.testing.assert_allclose(decoded[0, :, 1], value, rtol=1e-7)
    assert codec.count_clipped(actions + np.array([0, 0.1])) == 3


def test_what_is_motion_keeps_its_bins():
    """Small numbers, and small steps beside a large offset."""
    low, high = [-1e-6, 1000.0, 0.3], [1e-6, 1000.02, 0.3]
    assert is_constant(low, high).tolist() == [False, False, True]
    assert ActionTextCodec(low, high).encode([[[1e-6, 1000.01, 0.3]]]) == ["1000 500 0"]


def test_golden_text_form():
    """The published example: 56 integers, one space between, in the order of time steps."""
    text = "474 479 460 669 391 674 0 471 479 460 669 391 674 0"
    codec = ActionTextCodec([-0.9375] * 7, [0.9375] * 7)
    actions, _ = codec.decode([text], horizon=2)
    assert codec.encode(actions) == [text]


@pytest.mark.parametrize(
    "low, high, num_bins, message",
    [
        ([0, 0], [1], 10, "shape"),
        ([[0]], [[1]], 10, "shape"),
        ([], [], 10, "shape"),
        ([0, np.nan], [1, 1], 10, "finite"),
        ([0, 2], [1, 1], 10, "dimension 1"),
        ([0], [1], 0, "num_bins"),
        ([0], [1], 2.5, "num_bins"),
    ],
)
def test_bad_ranges_are_refused(low, high, num_bins, message):
    with pytest.raises(ValueError, match=message):
        ActionTextCodec(low, high, num_bins)


def test_bad_actions_are_refused(codec):
    with pytest.raises(ValueError, match=r"nan at index \[0, 1, 2\]"):
        codec.encode([[[0, 0, 0], [0, 0, np.nan]]])
    with pytest.raises(ValueError, match="3 dimensions"):
        codec.encode(np.zeros((1, 2, 4)))
    with pytest.raises(ValueError, match="shape"):
        codec.encode(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="list of strings"):
        codec.decode("0 0 0", horizon=1)
    with pytest.raises(ValueError, match="horizon"):
        codec.decode(["0 0 0"], horizon=0)
