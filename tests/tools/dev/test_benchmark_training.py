"""tools/dev/benchmark.py host, train, data: that everybody does the same, and that it is noticed where not."""

import json

import h5py
import numpy as np
import pytest
import torch

from libs.demo_hdf5.synthetic import write_synthetic_demo_file
from tests.tiny import ROOT
from tools.dev import benchmark
from tools.dev.benchmarks import host, train
from tools.dev.benchmarks.readers import PlainH5py
from tools.dev.benchmarks.storages import STORAGES


def run(tmp_path, *arguments):
    """What the command wrote."""
    out = tmp_path / "result.json"
    benchmark.main([*arguments, "--out", str(out)])
    return json.loads(out.read_text())


def test_host_work_beside_the_librarys_processor(tmp_path, capsys):
    result = run(tmp_path, "host", "--batch", "3", "--rounds", "2")
    assert result["problems"] == [] and result["settings"]["batch"] == 3
    encode = result["encode"]
    assert set(encode) >= {"ours", "ours_patches", "pil"} and set(result["pictures"]) == {"ours", "pil"}
    assert encode["pil"]["cpu_ratio_to"]["ours"] > encode["pil"]["cpu_ratio_to"]["ours_patches"] > 0
    assert "ids, labels and pixels the same" in capsys.readouterr().out


def test_a_batch_that_differs_is_noticed():
    ids, labels = torch.arange(8).view(2, 4), torch.tensor([[-100, 1, 2, 3], [-100, -100, 6, 7]])
    ours = {"input_ids": ids, "label_index": torch.tensor([0, 1, 2, 5, 6]), "label_ids": torch.tensor([1, 2, 3, 6, 7])}
    ours["pixel_values"] = torch.zeros(3)
    theirs = {"input_ids": ids, "labels": labels, "pixel_values": torch.full((3,), 5e-7)}
    assert host.disagreements(0, {"ours_patches": ours, "pil": theirs}) == []
    other = {"input_ids": ids + 1, "labels": labels.clamp(max=6), "pixel_values": torch.full((3,), 2e-6)}
    problems = host.disagreements(4, {"ours_patches": ours, "pil": other})
    assert [problem.split("PIL")[-1] for problem in problems] == [
        " has other ids",
        " has other labels",
        " differ by 2e-06",
    ]
    assert all(problem.startswith("batch 4: ") for problem in problems)


TINY = ["train", "--cfg", str(ROOT / "configs/tiny.yaml"), "--threads", "1", "--steps", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("apart", [[], ["--apart"]])
def test_training_steps_have_the_same_losses(tmp_path, capsys, apart):
    result = run(tmp_path, *TINY, *apart, "--opts", "TRAIN.clip_grad", "0.1")
    (model,) = result["models"].values()
    assert result["problems"] == [] and model["largest_loss_difference"] < 1e-5 and model["peak_tflops"] is None
    losses = [step["loss"] for step in model["steps"]["ours"]]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert model["steps"]["ours"][1]["flops"] == model["steps"]["upstream"][1]["flops"] > 1e6
    for numbers in model["variants"].values():
        assert numbers["device_samples_per_s"] > numbers["samples_per_s"] > 0 and numbers["mfu"] is None
    assert "losses within" in capsys.readouterr().out


def test_utilisation_is_told_where_the_peak_is_known(tmp_path):
    result = run(tmp_path, *TINY, "--variants", "ours", "--opts", "TRAIN.peak_tflops", "2.0")
    (model,) = result["models"].values()
    flops, numbers = model["steps"]["ours"][1]["flops"], model["variants"]["ours"]
    assert numbers["mfu"] == pytest.approx(flops * numbers["device_samples_per_s"] / 2 / 2e12, rel=0.3)


def test_other_losses_are_noticed():
    steps = {name: [{"loss": loss} for loss in losses] for name, losses in (("upstream", (3, 2)), ("ours", (3, 2.001)))}
    assert train.disagreements("tiny", steps, 2e-3) == []
    (problem,) = train.disagreements("tiny", steps, 1e-4)
    assert problem == "tiny, step 1: losses 2.000000 (upstream-style step) and 2.001000 (this code)"
    steps["ours"][0]["loss"] = float("nan")
    assert "step 0" in train.disagreements("tiny", steps, 1e-4)[0]


def test_a_model_that_the_library_does_not_know_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main([*TINY, "--opts", "MODEL.NAME", "flow_expert"])
    assert "MODEL.NAME flow_expert" in capsys.readouterr().err


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "a.hdf5"
    write_synthetic_demo_file(path, 2, 12, 256, seed=0)
    return path


@pytest.mark.slow
def test_every_way_to_store_and_to_read_gives_the_same(tmp_path, capsys, demos):
    result = run(tmp_path, "data", "--data", str(demos), "--num_samples", "8", "--rounds", "1")
    assert result["problems"] == [] and result["frames"] == {"number": 24, "views": 2, "resolution": 256}
    assert list(result["storage"]) == [storage.name for storage in STORAGES]
    sizes = {name: numbers["bytes_per_frame"] for name, numbers in result["storage"].items()}
    assert sizes["gzip 1, one frame per chunk"] < 0.8 * sizes["not packed, contiguous"]
    assert sizes["not packed, contiguous"] < 1.1 * 256 * 256 * 3
    for readers in result["readers"].values():
        assert {"this code", "h5py sample by sample", "this code, with all loader work"} <= set(readers)
        assert readers["this code"]["ours_faster_by"] == 1.0
    printed = capsys.readouterr().out
    assert ("robomimic is not installed" in printed) == (result["robomimic"] == "not installed")


def test_stored_pictures_come_back(tmp_path, demos):
    key = "data/demo_1/obs/agentview_rgb"
    with h5py.File(demos) as file:
        expected = file[key][7]
    for storage in STORAGES:
        storage.write(demos, tmp_path / "copy.hdf5", ["obs/agentview_rgb"])
        with h5py.File(tmp_path / "copy.hdf5") as file:
            picture = storage.read(file, key, 7)
            assert set(file["data/demo_1"]) >= {"actions", "states"} and picture.shape == expected.shape
        apart = np.abs(picture.astype(int) - expected).mean()
        assert apart == 0 if storage.encoded != ".jpg" else 0 < apart < 20


def test_the_plain_reader_repeats_the_last_action(demos):
    reader = PlainH5py(demos, ["obs/agentview_rgb"], 8)
    assert len(reader) == 24
    pictures, actions = reader[10]
    assert len(pictures) == 1 and actions.shape == (8, 7) and (actions[1:] == actions[1]).all()


@pytest.mark.parametrize(
    "arguments", [["host", "--batch"], ["host", "--rounds"], ["train", "--steps"], ["train", "--batch"]]
)
def test_bad_numbers_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main([*arguments, "0"])
    assert arguments[1] in capsys.readouterr().err
