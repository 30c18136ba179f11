import resource

import imageio
import numpy as np
import pytest

from rv_eval.video import EpisodeFrames


def noisy_frames(count):
    """They hardly compress."""
    rng, frames = np.random.default_rng(0), EpisodeFrames(every=1)
    for step in range(count):
        frames.add(step, {"agentview": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)})
    return frames


def test_a_video_whose_end_is_not_written_is_none(tmp_path):
    """The encoder's own exit goes unseen; under the limit it writes only a part of what it has encoded."""
    frames, path = noisy_frames(10), tmp_path / "episode.mp4"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"episode\.mp4"):
            frames.write(path, "do it", True, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
    frames.write(path, "do it", True, 10)
    assert len(imageio.mimread(path, memtest=False)) == 10 + 20 and path.stat().st_size > 30_000
