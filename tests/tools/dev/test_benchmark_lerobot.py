"""tools/dev/benchmark.py data of a LeRobot set: agreement and bookkeeping; never how fast anything is.

LeRobot cannot be installed here: a package of its name that reads by this code takes its place.
"""

import json
import os
import sys

import pytest

from tests.lerobot_sets import write_made_set
from tests.tiny import ROOT
from tools.dev import benchmark

FAKE = """
import json
import numpy as np, torch
from libs.lerobot_data import LeRobotSet, read_layout

class LeRobotDataset(torch.utils.data.Dataset):
    def __init__(self, name, root, video_backend, delta_timestamps):
        if video_backend == "torchcodec":
            raise ImportError("no torchcodec here")
        cameras = list(read_layout(root).cameras)
        self.data = LeRobotSet(root, ["action"], cameras)
        self.steps = np.round(np.array(delta_timestamps["action"]) * self.data.fps).astype(int)
        self.places = [(e, f) for e in self.data.episodes for f in range(self.data.num_frames(e))]
    def __len__(self):
        return len(self.places)
    def __getitem__(self, index):
        episode, frame = self.places[index]
        actions = self.data.vector(episode, "action")
        item = {"action": torch.from_numpy(actions[np.minimum(frame + self.steps, len(actions) - 1)] + OFF)}
        item["task"] = self.data.instruction(episode, frame)
        for camera in self.data.cameras:
            item[camera] = torch.from_numpy(self.data.picture(episode, frame, camera)).permute(2, 0, 1).float() / 255
        return item
"""


def fake_lerobot(folder, off):
    package = folder / "lerobot/datasets"
    package.mkdir(parents=True)
    (folder / "lerobot/__init__.py").write_text('__version__ = "0.0.fake"\n')
    (package / "__init__.py").write_text("")
    (package / "lerobot_dataset.py").write_text(FAKE.replace("OFF", str(off)))
    return os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])


def run(root, out, *more):
    arguments = ["--num_samples", "6", "--rounds", "2", "--out", str(out), *more]
    benchmark.main(["data", "--data", str(root), *arguments])


@pytest.mark.slow
def test_readers_agree_and_what_is_not_there_is_said(tmp_path, monkeypatch, capsys):
    root, out = write_made_set(tmp_path / "set", pictures="h264"), tmp_path / "result.json"
    monkeypatch.setenv("LEROBOT_PYTHONPATH", fake_lerobot(tmp_path / "same", 0))
    run(root, out, "--lerobot_python", sys.executable)
    result = json.loads(out.read_text())
    assert result["problems"] == [] and result["frames"]["number"] == 18
    assert result["theirs"]["pyav"] == "0.0.fake" and "no torchcodec here" in result["theirs"]["torchcodec"]
    assert list(result["loaders"]) == [
        "this code, frame cache",
        "this code, frame cache (JPEG 95)",
        "this code, read through",
        "LeRobot's own, pyav",
    ]
    assert result["loaders"]["this code, frame cache"]["cache_faster_by"] == 1
    printed = capsys.readouterr().out
    assert "samples of video 16 x 24, video 16 x 16" in printed and "LeRobot, pyav: 0.0.fake" in printed
    monkeypatch.setenv("LEROBOT_PYTHONPATH", fake_lerobot(tmp_path / "other", 1))
    with pytest.raises(SystemExit, match="1"):
        run(root, out, "--lerobot_python", sys.executable)
    assert "LeRobot's own, pyav: frame" in capsys.readouterr().err


def test_without_lerobot_the_others_are_measured(tmp_path, capsys):
    run(write_made_set(tmp_path / "set"), tmp_path / "result.json")
    assert "LeRobot's own loader is not among them: see --lerobot_python" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "result.json").read_text())["loaders"]) == 3
