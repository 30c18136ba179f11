"""DATA.PREPROCESS reference: refused where its packages are missing, equal to the fast path where they are there."""

import os
import subprocess
import sys

import pytest

from rv_train.policies.encoding import ObservationEncoder
from tests.tiny import ROOT, tiny_cfg
from tests.torchvision_on_cpu import REFERENCE_PACKAGES


@pytest.mark.parametrize("missing", ["torchvision", "qwen_vl_utils"])
def test_missing_packages_are_named(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # what an import of it then meets is an ImportError
    with pytest.raises(ValueError, match=r"packages torchvision and qwen-vl-utils.*pip install -e '\.\[reference\]'"):
        ObservationEncoder.from_cfg(tiny_cfg(DATA__PREPROCESS="reference"))


@pytest.mark.slow
@pytest.mark.parametrize("checks", ["torchvision_checks.py", "smolvlm/torchvision_checks.py"])
def test_everything_is_the_same_as_in_the_fast_path(checks):
    """In a process of its own: there torchvision can be imported, and here it must not be (see the checks' file)."""
    paths = os.pathsep.join(map(str, (REFERENCE_PACKAGES, ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/rv_train/backbones/{checks}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
