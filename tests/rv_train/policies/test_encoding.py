import numpy as np
import pytest
import torch

from rv_train.data.hdf5 import DemoDataset
from rv_train.data.training_set import TrainingSet
from rv_train.policies import build_encoder
from rv_train.policies.encoding import take_row
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import tiny_cfg, tiny_model


@pytest.fixture(scope="module", params=[True, False], ids=["tiled", "separate"])
def setup(request, tmp_path_factory):
    """(model, training set) over two instructions of different length, so that batches are padded."""
    folder = tmp_path_factory.mktemp("demos")
    write_synthetic_demo_file(folder / "a.hdf5", num_demos=1, num_frames=6, resolution=64, seed=0)
    write_synthetic_demo_file(
        folder / "b.hdf5", 1, 6, 64, seed=1, instruction="push the stripe to the far left and then wait"
    )
    cfg = tiny_cfg(IMAGE__TILE=request.param)
    dataset = DemoDataset([folder / "a.hdf5", folder / "b.hdf5"], cfg.DATA.VIEWS, cfg.ACTION.HORIZON)
    encoder = build_encoder(cfg, {"min": [-1.0] * 7, "max": [1.0] * 7})
    return tiny_model(cfg), TrainingSet(dataset, encoder, seed=0)


def test_a_training_batch_knows_its_samples(setup):
    _, samples = setup
    batch = samples.encoder.collate([samples[0, 0, index] for index in (7, 2, 11)])
    assert batch["index"].tolist() == [7, 2, 11] and batch["index"].dtype == torch.int64


def test_an_evaluation_batch_has_no_index(setup):
    _, samples = setup
    views = {view: np.zeros((64, 64, 3), np.uint8) for view in samples.encoder.views}
    features = samples.encoder.encode({"views": views, "instruction": "go"})
    assert "index" not in samples.encoder.collate([features])


def test_a_row_is_the_batch_of_that_sample_alone(setup):
    _, samples = setup
    features = [samples[0, 0, index] for index in (7, 2, 11)]
    batch = samples.encoder.collate(features)
    assert len(set(batch["lengths"].tolist())) > 1  # there is padding to cut
    for row, one in enumerate(features):
        alone = samples.encoder.collate([one])
        taken = take_row(batch, row)
        assert taken.keys() == alone.keys()
        assert all(torch.equal(taken[name], alone[name]) for name in alone)


@torch.no_grad()
def test_the_rows_losses_make_the_batchs(setup):
    model, samples = setup
    batch = samples.encoder.collate([samples[0, 0, index] for index in (7, 2, 11)])
    rows = [model(take_row(batch, row)) for row in range(3)]
    total = sum(float(out["loss"]) * out["count"] for out in rows) / sum(out["count"] for out in rows)
    assert abs(total - float(model(batch)["loss"])) < 1e-5


def test_rows_of_patches():
    """The reference preprocessing gives patches instead of pictures."""
    batch = {
        "pixel_values": torch.arange(8.0)[:, None].expand(8, 1176),
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]),
        "lengths": torch.tensor([3, 2]),
        "label_index": torch.tensor([1, 3]),
        "label_ids": torch.tensor([7, 9]),
    }
    taken = take_row(batch, 1)
    assert taken["pixel_values"][:, 0].tolist() == [4, 5, 6, 7]
    assert taken["input_ids"].tolist() == [[8, 9]] and taken["lengths"].tolist() == [2]
    assert taken["label_index"].tolist() == [0] and taken["label_ids"].tolist() == [9]
