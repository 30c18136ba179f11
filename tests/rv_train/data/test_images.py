import numpy as np
import pytest

from rv_train.data.images import ImageTransform, jitter


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(2)]


def test_not_tiled_gives_one_picture_per_view(views):
    assert ImageTransform(112, crop=0.875, tile=False)(views).shape == (2, 112, 112, 3)


def test_training_crops_somewhere_inside(views):
    transform = ImageTransform(112, crop=0.875)
    pictures = [transform(views, np.random.default_rng(seed))[0, :, :112] for seed in range(20)]
    found = set()
    for picture in pictures:
        places = [(y, x) for y in range(17) for x in range(17) if (views[0][y : y + 112, x : x + 112] == picture).all()]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 10


def test_the_same_generator_gives_the_same_picture(views):
    transform = ImageTransform(112, 0.875, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
    first, second = (transform(views, np.random.default_rng(5)) for _ in range(2))
    assert (first == second).all()
    assert (first != transform(views)).any()


def test_the_views_of_a_sample_share_the_light_not_the_place(views):
    colours = dict(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
    left, right = np.split(ImageTransform(128, **colours)([views[0]] * 2, np.random.default_rng(5))[0], 2, axis=1)
    assert (left == right).all() and (left != views[0]).any()
    left, right = np.split(ImageTransform(112, 0.875)([views[0]] * 2, np.random.default_rng(5))[0], 2, axis=1)
    assert (left != right).any()


def test_jitter_leaves_alone_what_its_factors_leave_alone(views):
    upside_down = views[0][::-1, ::-1]  # not contiguous
    assert (jitter(upside_down, 1.0, 1.0, 1.0, 0.0) == upside_down).all()
    np.testing.assert_array_equal(
        jitter(upside_down, 1.1, 0.9, 1.1, 0.1), jitter(upside_down.copy(), 1.1, 0.9, 1.1, 0.1)
    )


def test_resizes_down_and_up(views):
    assert ImageTransform(56)(views).shape == (1, 56, 112, 3)
    assert ImageTransform(224)(views).shape == (1, 224, 448, 3)


def test_jitter_by_hand():
    grey = np.full((2, 2, 3), 100, dtype=np.uint8)
    assert (jitter(grey, 1.2, 1.0, 1.0, 0.0) == 120).all()
    assert (jitter(grey, 1.0, 1.5, 0.3, 0.0) == 100).all()  # contrast and saturation leave plain grey alone
    red = np.zeros((1, 1, 3), dtype=np.uint8)
    red[..., 0] = 255
    assert jitter(red, 1.0, 1.0, 1.0, 1 / 3)[0, 0].argmax() == 1  # a third of a turn: red becomes green
    assert jitter(red, 1.0, 1.0, 0.0, 0.0)[0, 0].tolist() == [76, 76, 76]  # no saturation: BT.601 luma


def test_a_view_that_is_no_square_picture_is_refused(views):
    with pytest.raises(ValueError, match="square"):
        ImageTransform(112)([views[0][:100]])
