"""Frames of videos by their time."""

from fractions import Fraction

import av
import numpy as np
import pytest

from libs.errors import BadInput
from libs.lerobot_data.video import TOLERANCE_S, Video, tolerance_at
from tests.lerobot_sets import cut_off, stripes

CODECS = {
    "libx264": {"g": "12", "bf": "3"},  # frames that are stored in another order than shown
    "libx265": {"x265-params": "keyint=12:bframes=3:log-level=none:pools=1"},
    "libsvtav1": {"g": "12", "preset": "12", "svtav1-params": "lp=1"},
    "libvpx-vp9": {"g": "12", "deadline": "realtime"},
    "mpeg4": {"g": "12"},
    "ffv1": {},
}
LENGTH, RATE = 30, 20


def write_video(path, codec="libx264", first=0, step=1):
    """LENGTH frames at `first`, first + step, ... of 1/RATE s; returns how they are decoded from the begin on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=CODECS[codec])
        stream.pix_fmt, stream.height, stream.width = "yuv420p", 64, 96
        for number, picture in enumerate(stripes(1, (64, 96), LENGTH)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = first + step * number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_rgb().to_ndarray()) for frame in container.decode(video=0)]


@pytest.mark.parametrize("codec", CODECS)
def test_any_frame_of_any_codec(tmp_path, codec, capfd):
    path = tmp_path / "video.mkv"
    frames = write_video(path, codec)
    video = Video(path)
    assert len(frames) == LENGTH
    np.testing.assert_allclose(video.frame_times(), [time for time, _ in frames], atol=1e-9)
    for number in [0, 29, 13, 14, 15, 11, 12, 29, 28, 5, 5, 0]:
        np.testing.assert_array_equal(video.frame(number / RATE), frames[number][1])
    wanted = [3, 4, 9, 9, 20]
    for number, picture in zip(wanted, video.frames(number / RATE for number in wanted), strict=True):
        np.testing.assert_array_equal(picture, frames[number][1])


def test_a_frame_must_be_as_near_as_lerobot_wants_it(tmp_path):
    frames = write_video(tmp_path / "video.mp4", step=2)
    video = Video(tmp_path / "video.mp4")
    for off in (-0.9 * TOLERANCE_S, 0, 0.9 * TOLERANCE_S):
        np.testing.assert_array_equal(video.frame(1.0 + off), frames[10][1])
    for off in (-2 * TOLERANCE_S, 2 * TOLERANCE_S, 0.05):
        with pytest.raises(
            BadInput, match=r"video.mp4 has no frame at [01]\.[09]\d+ s; the next one is at 1\.[01]000 s"
        ):
            Video(tmp_path / "video.mp4").frame(1.0 + off)
    with pytest.raises(BadInput, match=r"video.mp4 ends before 3\.0000 s"):
        video.frame(3.0)
    np.testing.assert_array_equal(video.frame(0.2), frames[2][1])  # the end that was met is no end


def test_beyond_1024_seconds_float32_is_coarser_than_the_tolerance(tmp_path):
    first = 4200 * RATE + 7
    frames = write_video(tmp_path / "video.mkv", first=first)
    video = Video(tmp_path / "video.mkv")
    times = np.float32((first + np.arange(LENGTH)) / RATE).astype(float)  # as LeRobot compares
    assert np.abs(times - (first + np.arange(LENGTH)) / RATE).max() > 1.9 * TOLERANCE_S
    for time, (_, picture) in zip(times, frames, strict=True):
        np.testing.assert_array_equal(video.frame(time), picture)
    with pytest.raises(BadInput, match="has no frame"):
        video.frame(times[3] + 2 * tolerance_at(times[3]))


def test_what_cannot_be_decoded(tmp_path):
    path = tmp_path / "video.mp4"
    with pytest.raises(BadInput, match=r"video.mp4 does not exist"):
        Video(path).frame(0)
    write_video(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"avc1", b"zzzz"))
    for read in (lambda: Video(path).frame(0), lambda: Video(path).frame_times()):
        with pytest.raises(BadInput, match=r"video.mp4 has a codec that cannot be decoded here"):
            read()
    for share in (0.0, 0.5, 0.9):
        path.write_bytes(whole)
        cut_off(path, share)
        with pytest.raises(BadInput, match=r"^video \S*video.mp4 (is truncated or damaged|ends before).*get it again"):
            list(Video(path).frames(number / RATE for number in range(LENGTH)))
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(BadInput, match=r"video.mp4 holds no video"):
        Video(path).frame(0)
