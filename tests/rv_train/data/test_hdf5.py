import pickle

import h5py
import numpy as np
import pytest
import torch

from libs.demo_hdf5 import DemoFile
from rv_eval.policy import Policy
from rv_train.data import hdf5
from rv_train.data.hdf5 import DemoDataset, find_demo_files
from rv_train.data.stats import compute_action_stats, read_stats, write_stats
from rv_train.data.training_set import TrainingSet
from rv_train.policies import build_encoder
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import make_tiny_checkpoint, tiny_cfg

VIEWS = ("agentview", "eye_in_hand")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    write_synthetic_demo_file(folder / "a_demo.hdf5", 12, 5, 64, seed=0)
    write_synthetic_demo_file(folder / "sub/b_demo.hdf5", 1, 7, 64, seed=50, instruction="another")
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return DemoDataset(find_demo_files([folder]), VIEWS, horizon=3)


def test_every_frame_once_in_numeric_order(dataset):
    assert len(dataset) == 12 * 5 + 7 and dataset.num_demos == 13
    names = [dataset[index].demo for index in range(0, 60, 5)]
    assert names == [f"demo_{n}" for n in range(12)]
    assert dataset[59].frame == 4 and dataset[60].instruction == "another"


def test_a_chunk_repeats_the_last_action_at_the_end(dataset, folder):
    actions = DemoFile(folder / "a_demo.hdf5").actions("demo_0").astype(np.float32)
    np.testing.assert_array_equal(dataset[1].actions, actions[1:4])
    np.testing.assert_array_equal(dataset[3].actions, actions[[3, 4, 4]])


def test_stored_frame_and_observation_give_identical_ids_and_pixels(dataset, folder, tmp_path):
    """From the file through the training path; as an observation through a loaded checkpoint's path."""
    recipe = dict(IMAGE__CROP=0.875)
    encoder = build_encoder(tiny_cfg(**recipe), compute_action_stats(dataset))
    features = TrainingSet(dataset, encoder, seed=0, augment=False)[(0, 0, 7)]
    trained = encoder.collate([features])

    policy = Policy.from_checkpoint(make_tiny_checkpoint(tmp_path, **recipe))
    file = DemoFile(folder / "a_demo.hdf5")
    views = {view: file.frame("demo_1", 2, view) for view in VIEWS}
    seen = policy.encoder.collate([policy.encoder.encode({"views": views, "instruction": file.instruction})])

    prompt = seen["input_ids"].shape[1]
    assert torch.equal(trained["images"], seen["images"])
    assert torch.equal(trained["input_ids"][:, :prompt], seen["input_ids"])
    assert (features["labels"][:prompt] == -100).all() and (features["labels"][prompt:] != -100).all()


def test_augmentation_depends_on_epoch_rank_and_index_only(dataset):
    encoder = build_encoder(tiny_cfg(IMAGE__CROP=0.8), compute_action_stats(dataset))
    training = TrainingSet(dataset, encoder, seed=0)
    copy = pickle.loads(pickle.dumps(training))  # as in a loader process
    for key in ((0, 0, 3), (1, 0, 3), (0, 1, 3)):
        assert torch.equal(training[key]["images"], copy[key]["images"])
        assert torch.equal(training[key]["input_ids"], copy[key]["input_ids"])
    assert not torch.equal(training[(0, 0, 3)]["images"], training[(1, 0, 3)]["images"])
    assert not torch.equal(training[(0, 0, 3)]["images"], training[(0, 1, 3)]["images"])


def test_statistics_survive_a_round_trip(dataset, tmp_path):
    stats = compute_action_stats(dataset)
    actions = dataset.all_actions()
    np.testing.assert_allclose(stats["min"], actions.min(0))
    np.testing.assert_allclose(stats["std"], actions.astype(np.float64).std(0))
    assert stats["count"] == len(dataset) == len(actions)
    write_stats(stats, tmp_path)
    assert read_stats(tmp_path) == stats


def test_a_model_without_statistics_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no action_stats\.json"):
        read_stats(tmp_path)
    (tmp_path / "action_stats.json").write_text("{}")
    with pytest.raises(ValueError, match="no list 'min'"):
        read_stats(tmp_path)


def test_files_that_do_not_fit_together_are_refused(folder, tmp_path):
    write_synthetic_demo_file(tmp_path / "other.hdf5", 1, 4, 64, seed=0, render="standard")
    with pytest.raises(ValueError, match="different settings"):
        DemoDataset([folder / "a_demo.hdf5", tmp_path / "other.hdf5"], VIEWS, 3)
    with pytest.raises(ValueError, match="no camera wrist"):
        DemoDataset([folder / "a_demo.hdf5"], ["wrist"], 3)
    refused = (([], "DATA.FILES is empty"), (["nowhere"], "does not exist"), ([tmp_path / "x"], "does not"))
    for entries, message in refused:
        with pytest.raises(ValueError, match=message):
            find_demo_files(entries)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no \*\.hdf5"):
        find_demo_files([tmp_path / "empty"])


def test_files_as_libero_published_them_are_remarked(tmp_path):
    paths = [tmp_path / f"{name}.hdf5" for name in ("published", "ours", "larger", "bare")]
    for path in paths:
        write_synthetic_demo_file(path, 1, 2, 256 if path.stem == "larger" else 128, seed=0)
        with h5py.File(path, "r+") as file:
            attrs = file["data"].attrs
            if path.stem != "ours":
                del attrs["render"]
            if path.stem == "bare":  # as OpenVLA's re-rendered ones
                del attrs["bddl_file_name"], attrs["macros_image_convention"]
        remarks = DemoDataset([path], VIEWS, horizon=2).remarks()
        said = [line for line in remarks if "its pictures are those after each action" in line]
        assert [line.split()[0] for line in said] == [str(path)] * (path.stem == "published")


def test_of_many_files_few_are_open_at_a_time(tmp_path, monkeypatch):
    """A file per episode may be thousands, more than an operating system lets a process have open."""
    monkeypatch.setattr(hdf5.OPEN, "most", 3)
    demos = [write_synthetic_demo_file(tmp_path / f"{n}_demo.hdf5", 1, 3, 32, seed=n)[0] for n in range(8)]
    data = DemoDataset(find_demo_files([tmp_path]), VIEWS, horizon=2)
    train, valid = pickle.loads(pickle.dumps(data)).split(0.3, seed=0)
    for part in (data, train, valid):
        for index in np.random.default_rng(0).permutation(len(part)):
            sample = part[int(index)]
            number = int(sample.file.rpartition("/")[2][0])
            np.testing.assert_array_equal(sample.views[1], demos[number].obs["eye_in_hand"][sample.frame])
            assert sum(file._file is not None for file in data.files) <= 3
            assert sum(file._file is not None for file in {*train.files, *valid.files}) <= 3
