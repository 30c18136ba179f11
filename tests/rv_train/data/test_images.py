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


def test_a_view_that_is_no_picture_is_refused(views):
    for view in (views[0][..., 0], views[0][..., :2], views[0].astype(np.float32), views[0][:0]):
        with pytest.raises(ValueError, match=r"a view must be a \(H, W, 3\) uint8 picture"):
            ImageTransform(112)([view])
    with pytest.raises(ValueError, match="crop, pad, stretch, not 'squash'"):
        ImageTransform(112, fit="squash")


# ------------------------------------------------------------------------------------------------ frames of any shape


def marked(height, width):
    """A grey frame whose columns and rows can be told apart: red is the column, green the row, in 255ths."""
    frame = np.full((height, width, 3), 60, np.uint8)
    frame[..., 0] = np.linspace(0, 255, width).round()
    frame[..., 1] = np.linspace(0, 255, height).round()[:, None]
    return frame


def ends(picture):
    """((first, last) red, (first, last) green) of a picture that shows a frame of `marked`."""
    return (picture[0, 0, 0], picture[0, -1, 0]), (picture[0, 0, 1], picture[-1, 0, 1])


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("frame", "size"), [((64, 64), 56), ((96, 128), (84, 112)), ((48, 96), (56, 112))])
def test_a_frame_of_the_pictures_shape_is_left_alone_by_every_fit(fit, frame, size):
    view = np.random.default_rng(0).integers(0, 256, (*frame, 3), dtype=np.uint8)
    for rng in (None, 5):
        pictures = [
            ImageTransform(size, 0.875, fit=one)([view], rng and np.random.default_rng(rng)) for one in (fit, "stretch")
        ]
        np.testing.assert_array_equal(*pictures)


def test_crop_takes_the_largest_middle_part_of_the_shape():
    for frame, size, columns, rows in (
        ((60, 120), 60, slice(30, 90), slice(0, 60)),
        ((120, 60), 60, slice(0, 60), slice(30, 90)),
        ((96, 128), (48, 128), slice(0, 128), slice(24, 72)),
    ):
        view = marked(*frame)
        (picture,) = ImageTransform(size)([view])
        np.testing.assert_array_equal(picture, view[rows, columns])


def test_crop_never_shows_what_lies_beside_in_training_either():
    view = marked(60, 120)
    for seed in range(20):
        (picture,) = ImageTransform(54, 0.9)([view], np.random.default_rng(seed))
        (left, right), _ = ends(picture)
        assert view[0, 30, 0] <= left < right <= view[0, 89, 0]


def test_pad_shows_all_of_it_undistorted_between_bars():
    (picture,) = ImageTransform(56, fit="pad")([marked(64, 128)])
    assert (picture[:14] == 0).all() and (picture[-14:] == 0).all()
    seen = picture[14:-14]
    assert seen.shape == (28, 56, 3) and (seen[..., 2] == 60).all()
    (left, right), (top, bottom) = ends(seen)
    assert left < 8 and right > 247 and top < 10 and bottom > 245
    (picture,) = ImageTransform((56, 112), fit="pad")([marked(64, 64)])
    assert (picture[:, :28] == 0).all() and (picture[:, -28:] == 0).all() and picture[:, 28:-28].shape == (56, 56, 3)


def test_bars_stay_black_whatever_the_light():
    transform = ImageTransform(56, 0.9, True, 0.2, 0.9, 0.2, 0.05, "pad")
    for seed in range(5):
        (picture,) = transform([marked(32, 64)], np.random.default_rng(seed))
        assert (picture[:14] == 0).all() and (picture[-14:] == 0).all() and picture[14:-14].any(axis=2).all()


def test_stretch_shows_all_of_it_without_bars():
    (picture,) = ImageTransform(56, fit="stretch")([marked(32, 128)])
    (left, right), (top, bottom) = ends(picture)
    assert picture.shape == (56, 56, 3) and (picture[..., 2] == 60).all()
    assert left < 6 and right > 249 and top < 10 and bottom > 245


def test_cameras_of_different_shapes_become_pictures_of_one():
    views = [marked(96, 128), marked(64, 64)]
    for fit in ("crop", "pad", "stretch"):
        assert ImageTransform((56, 84), 0.9, fit=fit)(views, np.random.default_rng(0)).shape == (1, 56, 168, 3)
        assert ImageTransform((56, 84), 0.9, tile=False, fit=fit)(views).shape == (2, 56, 84, 3)
