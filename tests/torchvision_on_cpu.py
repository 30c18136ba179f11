"""torchvision beside a torch that was built without CUDA: there is no such build on PyPI, but its Python half works."""

import sys
from pathlib import Path

import torch

REFERENCE_PACKAGES = Path(sys.prefix) / "reference"  # where `make setup` puts torchvision and qwen-vl-utils


def import_torchvision():
    """Import torchvision, declaring the operators by hand where its compiled half cannot be loaded.

    Without that library the import fails for want of two operators' signatures; nothing here ever calls them.
    """
    try:
        import torchvision
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left
        global _operators  # a library object takes its operators along when it goes
        _operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision
