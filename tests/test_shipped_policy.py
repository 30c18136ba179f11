"""The policies that come with the repository: small, complete, and they answer in readable actions."""

import json

import numpy as np
import pytest

from rv_eval.policy import Policy
from tests.tiny import ROOT

SHIPPED = {"quickstart": (8e6, 8), "libero_small": (10.5e6, 5)}  # bytes at most, actions of a chunk


@pytest.fixture(params=SHIPPED)
def shipped(request):
    """(folder, bytes at most, actions of a chunk)"""
    return ROOT / "checkpoints" / request.param, *SHIPPED[request.param]


def test_small_and_without_paths_of_another_machine(shipped):
    folder, most, _ = shipped
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= most
    assert '"/' not in (folder / "model/data_info.json").read_text()
    assert "- /" not in (folder / "model/vla_config.yaml").read_text()


def test_it_answers(shipped):
    folder, _, horizon = shipped
    policy = Policy.from_checkpoint(folder)
    info = json.loads((policy.folder / "data_info.json").read_text())
    assert policy.render == info["render"] == "fast" and policy.resolution == 128 and policy.horizon == horizon
    rng = np.random.default_rng(0)
    views = {view: rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for view in policy.views}
    instruction = "pick up the alphabet soup and place it in the basket"
    answer = policy.predict_detailed([{"views": views, "instruction": instruction}])
    assert answer.valid.all() and answer.chunk.shape == (1, horizon, 7)
