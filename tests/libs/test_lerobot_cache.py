"""The cache of decoded frames."""

import collections
import pickle
import shutil

import cv2
import numpy as np
import pytest

from libs.errors import BadInput
from libs.jobs import held_folder
from libs.lerobot_data import FrameCache, LeRobotSet, Plan, default_folder
from libs.lerobot_data import cache as caching
from libs.lerobot_data.packed import PackedFrames, write_packed
from libs.manifest.pictures import decode_picture, encode_picture
from tests.lerobot_sets import FOLDER, FRONT, WRIST, copied

PLANS = [Plan(FRONT), Plan(WRIST)]


@pytest.fixture(scope="module")
def data():
    return LeRobotSet(FOLDER / "v30/so_like", ["action"], [FRONT, WRIST])


def built(data, folder, plans=PLANS, workers=1):
    cache = FrameCache(data, plans, folder)
    cache.build(workers, lambda job: None)
    return cache


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.frames")}


def test_a_lossless_cache_holds_every_pixel(data, tmp_path):
    cache = pickle.loads(pickle.dumps(built(data, tmp_path / "cache", workers=2)))
    cache.check_complete()
    for episode in data.episodes:
        for camera in data.cameras:
            for frame, picture in enumerate(data.pictures(episode, camera)):
                found = cache.picture(episode, frame, camera)
                np.testing.assert_array_equal(found, picture)
                assert found.flags.writeable
    built(data, tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "cache")  # however many processes


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (15, 8), (16, 4), (17, 4), (48, 5), (50, 7)])
def test_pictures_of_any_size_come_back(tmp_path, size):
    pictures = np.random.default_rng(0).integers(0, 256, (3, *size, 3)).astype(np.uint8)
    write_packed(tmp_path / "file", iter(pictures), Plan(FRONT))
    packed = PackedFrames(tmp_path / "file")
    assert len(packed) == 3
    for number in (2, 0, 1):
        np.testing.assert_array_equal(packed.read(number), pictures[number])
    with pytest.raises(BadInput, match=r"pictures of \(4, 4\) and of \(4, 5\) pixels in one episode"):
        write_packed(tmp_path / "file", (np.zeros((4, width, 3), np.uint8) for width in (4, 5)), Plan(FRONT))


def test_what_a_plan_keeps(data, tmp_path):
    whole = data.picture(2, 7, FRONT)
    cut = whole[8:88, 16:112]
    cases = {
        Plan(FRONT, box=(8, 16, 80, 96)): cut,
        Plan(FRONT, box=(8, 16, 80, 96), size=(40, 48)): cv2.resize(cut, (48, 40), interpolation=cv2.INTER_AREA),
        Plan(FRONT, size=(120, 160)): cv2.resize(whole, (160, 120), interpolation=cv2.INTER_LINEAR),
        Plan(FRONT, size=(96, 128)): whole,
        Plan(FRONT, jpeg_quality=90): decode_picture(encode_picture(whole, "jpeg", 90)),
    }
    for plan, wanted in cases.items():  # in one folder: they do not touch each other
        np.testing.assert_array_equal(built(data, tmp_path, [plan]).picture(2, 7, FRONT), wanted)
    assert len(list(tmp_path.glob(f"{FRONT}.*"))) == len(cases)
    for plan, wanted in cases.items():
        np.testing.assert_array_equal(FrameCache(data, [plan], tmp_path).picture(2, 7, FRONT), wanted)
    with pytest.raises(BadInput, match=r"no box \(50, 0, 50, 50\) in pictures of \(96, 128\) pixels"):
        built(data, tmp_path, [Plan(FRONT, box=(50, 0, 50, 50))])


def test_a_build_goes_on_where_it_was_cut_off(data, tmp_path, monkeypatch):
    whole = built(data, tmp_path / "whole")
    cache = FrameCache(data, PLANS, tmp_path / "cut")
    done = []

    def stop_after_three(job):
        done.append(job)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.build(1, stop_after_three)
    assert len(cache.missing()) == 7
    with pytest.raises(BadInput, match=rf"lacks 7 of 10 pieces, first episode 1 of {WRIST}: build it"):
        cache.check_complete()
    left = next((tmp_path / "cut").glob(f"{WRIST}.*")) / "000001.part.frames"  # of a kill
    left.write_bytes(b"half")
    cache.build(1, done.append)
    assert len(done) == 10 and not left.exists() and not cache.missing()
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    monkeypatch.setattr(LeRobotSet, "pictures", None)  # nothing is decoded again
    cache.build(1, done.append)
    assert len(done) == 10 and not whole.missing()


def test_another_recording_gets_another_cache(data, tmp_path):
    root = copied("v30/so_like", tmp_path)
    changed = LeRobotSet(root, ["action"], [FRONT])
    built(changed, tmp_path / "cache", PLANS[:1])
    assert not FrameCache(LeRobotSet(FOLDER / "v30/so_like", [], [FRONT]), PLANS[:1], tmp_path / "cache").missing()
    shutil.copy(FOLDER / f"v30/so_like_h264/videos/{FRONT}/chunk-000/file-000.mp4", root / f"videos/{FRONT}/chunk-000")
    assert len(FrameCache(LeRobotSet(root, [], [FRONT]), PLANS[:1], tmp_path / "cache").missing()) == 5


def test_the_disk_is_looked_at_first(data, tmp_path, monkeypatch):
    cache = FrameCache(data, PLANS, tmp_path / "new/cache")
    estimate = cache.check_disk()
    assert (estimate.frames, estimate.missing_frames, estimate.missing_bytes) == (176, 176, estimate.bytes)
    assert not (tmp_path / "new").exists()
    cache.build(1, lambda job: None)
    size = sum(map(len, files_of(tmp_path).values()))
    assert 0.8 * size < estimate.bytes < 1.25 * size
    assert (cache.estimate().missing_frames, cache.estimate().missing_bytes) == (0, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: collections.namedtuple("U", "free")(estimate.bytes))
    other = FrameCache(data, PLANS, tmp_path / "other")
    with pytest.raises(BadInput, match=r"other needs 0\.0 GB, and 0\.0 GB are free: another folder, smaller pictures"):
        other.check_disk()
    cache.check_disk()  # needs nothing more


def test_what_is_wrong_in_a_cache_is_said(data, tmp_path):
    cache = built(data, tmp_path, PLANS[:1])
    path = next(tmp_path.glob(f"{FRONT}.*")) / "000002.frames"
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"\0" * 200 + whole[200:]):
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match=r"000002.frames is damaged: delete it, and build the frame cache again"):
            pickle.loads(pickle.dumps(cache)).picture(2, 0, FRONT)
    path.unlink()
    with pytest.raises(BadInput, match=r"000002.frames does not exist"):
        cache.picture(2, 0, FRONT)
    in_use = r"is in use: another process builds a frame cache there"
    other = FrameCache(data, PLANS[:1], tmp_path)
    assert other.missing() and caching.held_folder is held_folder
    with pytest.MonkeyPatch.context() as patch:  # locks are between processes: see tests/libs/test_jobs.py
        patch.setattr("fcntl.lockf", lambda *args: (_ for _ in ()).throw(BlockingIOError()))
        with pytest.raises(BadInput, match=in_use):
            other.build(1, lambda job: None)


def test_it_lies_beside_the_data():
    assert default_folder("data/sets/arm") == default_folder("data/sets/arm/").parent / "arm.frames"


def test_some_episodes_are_made_and_the_others_read_through_alike(data, tmp_path):
    plans = [Plan(FRONT, box=(0, 16, 96, 96), size=(48, 48)), Plan(WRIST, jpeg_quality=70)]
    some, whole = FrameCache(data, plans, tmp_path / "some"), built(data, tmp_path / "whole", plans)
    assert some.check_disk([1, 3]).missing_frames == 2 * (data.num_frames(1) + data.num_frames(3))
    some.build(1, lambda job: None, [1, 3])
    assert some.missing([3, 1]) == [] and {job.episode for job in some.missing()} == {0, 2, 4}
    for episode in (1, 2):
        for camera in (FRONT, WRIST):
            picture = some.picture_or_made(episode, 5, camera)
            np.testing.assert_array_equal(picture, whole.picture(episode, 5, camera))
    with pytest.raises(BadInput, match=r"000002.frames does not exist"):
        some.picture(2, 5, FRONT)
