"""What only a GPU would have told: see tests/fake_cuda.py. Every kind of policy over every family."""

import pytest
import torch

from rv_train.backbones import FAMILIES
from tests import fake_cuda

pytestmark = [
    pytest.mark.compiler,
    pytest.mark.skipif(bool(torch.version.cuda), reason="this build of PyTorch knows CUDA and has its own hooks"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return fake_cuda.run(tmp_path_factory.mktemp("fake_cuda"))


def test_the_device_finds_mistakes(found):
    assert "cpu" in found["mixed"]["error"] and "cuda:0" in found["mixed"]["error"]
    assert "_local_scalar_dense" in found["asked"]["error"]
    moved = {name: [line.split(" at ")[0] for line in found[name]["moved"]] for name in fake_cuda.MISTAKES}
    expected = {"fetched": ["_to_copy"], "brought": ["_to_copy"], "read": ["add"]}
    assert moved == {name: expected.get(name, []) for name in fake_cuda.MISTAKES}
    assert len(found["odd"]["odd"]) == 1


@pytest.mark.parametrize("name", [f"{family}, {kind}" for family in FAMILIES for kind in fake_cuda.KINDS])
def test_nothing_is_on_the_wrong_device_and_nobody_waits(found, name):
    """A training step with its backward pass, the beginning of an answer, a solver's way."""
    assert found[name]["error"] is None, found[name]["error"]
    assert found[name]["moved"] == [] and found[name]["waits"] == []


def test_products_of_the_published_widths_are_aligned(found):
    assert found[fake_cuda.PUBLISHED] == {"error": None, "moved": [], "waits": [], "odd": []}
