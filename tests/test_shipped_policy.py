"""The policy that comes with the repository: small, complete, and it answers in readable actions."""

import json

import numpy as np

from rv_eval.policy import Policy
from tests.tiny import ROOT

FOLDER = ROOT / "checkpoints/quickstart"


def test_small_and_without_paths_of_another_machine():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8e6
    assert '"/' not in (FOLDER / "model/data_info.json").read_text()
    assert "- /" not in (FOLDER / "model/vla_config.yaml").read_text()


def test_it_answers():
    policy = Policy.from_checkpoint(FOLDER)
    info = json.loads((policy.folder / "data_info.json").read_text())
    assert policy.render == info["render"] == "fast" and policy.resolution == 128 and policy.horizon == 8
    rng = np.random.default_rng(0)
    views = {view: rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for view in policy.views}
    instruction = "pick up the alphabet soup and place it in the basket"
    answer = policy.predict_detailed([{"views": views, "instruction": instruction}])
    assert answer.valid.all() and answer.chunk.shape == (1, 8, 7)
