"""tools/benchmark.py host, train, data: that everybody does the same, and that it is noticed where not."""

import json

import pytest
import torch

from tools import benchmark
from tools.benchmarks import host


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


@pytest.mark.parametrize("argument", ["--batch", "--rounds"])
def test_bad_numbers_of_host_are_one_line(argument, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["host", argument, "0"])
    assert argument in capsys.readouterr().err
