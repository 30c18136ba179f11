"""Cameras of any shape, and of different ones, all the way: files, manifest, training, a server, an evaluation."""

import numpy as np
import pytest
import torch

from rv_eval.picture_sizes import are_sizes, shape_remark
from rv_eval.policy import Policy
from rv_eval.serving.remote_policy import RemotePolicy
from rv_train import train
from rv_train.data.load import load_data
from rv_train.data.training_set import TrainingSet
from rv_train.policies import build_encoder
from tests.demo_files import reshape_pictures, write_synthetic_demo_file
from tests.manifests import build
from tests.rv_eval.servers import running
from tests.rv_train.test_manifest_run import roll_out
from tests.tiny import ROOT, flow_opts, tiny_cfg, tiny_opts
from tools import diagnose

SIZES = {"agentview": (48, 64), "eye_in_hand": (72, 40)}
SHAPE = {"IMAGE__SIZE": [56, 84], "IMAGE__CROP": 0.9}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "a_demo.hdf5"
    write_synthetic_demo_file(path, 4, 6, 64, seed=0)
    return reshape_pictures(path, SIZES)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("tile", [True, False])
def test_what_is_trained_on_is_what_is_seen_later(demos, fit, tile):
    cfg = tiny_cfg(DATA__FILES=[str(demos)], IMAGE__FIT=fit, IMAGE__TILE=tile, **SHAPE)
    data = load_data(cfg)
    encoder = build_encoder(cfg, data.action_stats)
    trained = TrainingSet(data.train, encoder, seed=0, augment=False)[(0, 0, 7)]
    sample = data.train[7]
    assert [view.shape[:2] for view in sample.views] == list(SIZES.values())
    observation = {"views": dict(zip(cfg.DATA.VIEWS, sample.views, strict=True)), "instruction": sample.instruction}
    seen = encoder.encode(observation)
    assert trained["images"].shape == ((1, 56, 168, 3) if tile else (2, 56, 84, 3))
    assert torch.equal(trained["images"], seen["images"])
    assert torch.equal(trained["input_ids"][: len(seen["input_ids"])], seen["input_ids"])


def test_a_manifest_gives_what_its_demonstrations_give(demos, tmp_path):
    manifest = build(tmp_path / "manifest", demos)
    ours = load_data(tiny_cfg(DATA__FILES=[str(manifest)], DATA__SOURCE="manifest"))
    theirs = load_data(tiny_cfg(DATA__FILES=[str(demos)]))
    assert ours.info["cameras"] == theirs.info["cameras"] == {view: list(size) for view, size in SIZES.items()}
    assert ours.info["resolution"] == 64
    for one, other in zip(ours.train[5].views, theirs.train[5].views, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "flow"])
def test_a_policy_is_trained_served_and_played(demos, tmp_path, kind, capsys):
    more = flow_opts() if kind == "flow" else {}
    opts = {"DATA__FILES": [str(demos)], "EXP__DIR": tmp_path, "TRAIN__max_steps": 1, "IMAGE__FIT": "pad", **SHAPE}
    with pytest.raises(SystemExit) as end:
        train.main(["--cfg", str(ROOT / "configs/tiny.yaml"), "--nproc", "1", *map(str, tiny_opts(**opts, **more))])
    assert end.value.code == 0
    policy = Policy.from_checkpoint(tmp_path / "tiny")
    cameras = {view: list(size) for view, size in SIZES.items()}
    assert policy.pictures == {"cameras": cameras, "fit": "pad", "crop": 0.9, "size": [56, 84]}
    assert policy.resolution == 64
    rng = np.random.default_rng(0)
    proprio = {part: np.zeros(size, np.float32) for part, size in policy.proprio.items()}
    asked = {
        "views": {view: rng.integers(0, 256, (96, 128, 3), dtype=np.uint8) for view in policy.views},  # another shape
        "instruction": "go",
        "random_key": (0,),
        **({"proprio": proprio} if proprio else {}),
    }
    with running(policy) as server:
        remote = RemotePolicy(server.url)
        assert remote.pictures == policy.pictures
        np.testing.assert_array_equal(remote.predict([asked]), policy.predict([asked]))
    roll_out(policy, policy.preset, tmp_path / "played")
    out = ["--out", str(tmp_path / "diagnosis"), "--num_demos", "1", "--num_frames", "2"]
    diagnose.main(["--model_path", str(tmp_path / "tiny"), "--data", str(demos), *out])
    assert "open loop" in capsys.readouterr().out


def test_pictures_of_another_shape_are_remarked():
    pictures = {"cameras": {"front": [48, 64], "wrist": [64, 64]}, "fit": "pad"}
    remark = shape_remark(pictures, {"front": (64, 64), "wrist": (32, 32)}, "the environment")
    assert "front 48 x 64, the environment shows front 64 x 64:" in remark and "IMAGE.FIT pad" in remark
    for size in ((48, 64), (480, 640), (27, 36), (37, 49)):  # the last one is rounded
        assert shape_remark(pictures, {"front": size}, "the robot") == "", size
    assert "the robot shows front 64 x 48" in shape_remark(pictures, {"front": (64, 48)}, "the robot")


def test_sizes_that_are_none_are_told():
    assert are_sizes({"a": [3, 4], "b": [1, 1]}, ("a",))
    for wrong in (None, [], {"a": 3}, {"a": [3]}, {"a": [3, 0]}, {"a": [3, 4.0]}, {"b": [3, 4]}, {"a": [True, 4]}):
        assert not are_sizes(wrong, ("a",))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"IMAGE__SIZE": [56]}, r"IMAGE.SIZE is a side or \[height, width\], got \[56\]"),
        ({"IMAGE__SIZE": [56, 84, 56]}, "IMAGE.SIZE is a side or"),
        ({"IMAGE__SIZE": [56, 80]}, "IMAGE.SIZE must be a multiple of 28, got 56 x 160"),
        ({"IMAGE__SIZE": [56, 84.5]}, "IMAGE.SIZE must be a list of int"),
        ({"IMAGE__SIZE": "wide"}, "IMAGE.SIZE must be int"),
        ({"IMAGE__SIZE": [0, 56]}, "IMAGE.SIZE must be a multiple of 28"),
        ({"IMAGE__FIT": "squash"}, "IMAGE.FIT is 'squash'; choose one of crop, pad, stretch"),
    ],
)
def test_a_size_that_makes_no_sense_is_refused(opts, message):
    with pytest.raises(ValueError, match=message):
        tiny_cfg(**opts)
