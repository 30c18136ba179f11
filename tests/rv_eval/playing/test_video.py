import imageio.v2 as imageio
import numpy as np
import pytest

from rv_eval.playing.video import POSTER_WIDTH, EpisodeFrames, make_poster, poster_path
from tests.full_disk import small_files


def noisy_frames(count):
    """They hardly compress."""
    rng, frames = np.random.default_rng(0), EpisodeFrames(every=1, control_hz=20)
    for step in range(count):
        frames.add(step, {"agentview": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)})
    return frames


def test_a_video_whose_end_is_not_written_is_none(tmp_path):
    """The encoder's own exit goes unseen; under the limit it writes only a part of what it has encoded."""
    frames, path = noisy_frames(10), tmp_path / "episode.mp4"
    with small_files(30_000), pytest.raises(OSError, match=r"episode\.mp4"):
        frames.write(path, "do it", True, 10)
    assert not list(tmp_path.iterdir())
    frames.write(path, "do it", True, 10)
    assert len(imageio.mimread(path, memtest=False)) == 10 + 20 and path.stat().st_size > 30_000


def test_the_poster_is_the_last_picture(tmp_path):
    frames, path = EpisodeFrames(every=1, control_hz=20), tmp_path / "episode.mp4"
    for colour in ((200, 30, 30), (30, 30, 200)):
        frames.add(0, {"agentview": np.full((64, 64, 3), colour, np.uint8)})
    frames.write(path, "do it", True, 10)
    written = imageio.imread(poster_path(path))
    poster_path(path).unlink()
    assert make_poster(path)  # of the video alone
    again = imageio.imread(poster_path(path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["episode.jpg", "episode.mp4"]
    for picture in (written, again):
        assert picture.shape[1] == POSTER_WIDTH and poster_path(path).stat().st_size < 20_000
        red, green, blue = picture[:200].reshape(-1, 3).mean(0)
        assert blue > 180 and max(red, green) < 60  # in RGB
        board = picture[-22:].astype(int)
        assert (board[..., 1] - board[..., 0]).max() > 50, "the outcome stands there, in green"
    assert np.abs(written.astype(int) - again).mean() < 4


def test_what_is_no_video_has_no_poster(tmp_path):
    (tmp_path / "episode.mp4").write_bytes(bytes(1000))
    assert not make_poster(tmp_path / "episode.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["episode.mp4"]
