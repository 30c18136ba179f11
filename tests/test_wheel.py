"""A wheel: built, installed apart from the checkout, it trains a tiny model with two ranks and answers from it."""

import os
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split():  # a clean copy: building leaves files beside the sources
        place = folder / "source" / name
        if name.split("/")[0] not in ("tests", "benchmarks", "checkpoints", "docs") and (ROOT / name).is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source"]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("vla0-*.whl")
    return built


def test_a_wheel_takes_no_name_but_its_own(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "vla0",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    for wanted in ("configs/tiny.yaml", "rv_train/backbones/qwen/merges.txt.xz", "rv_eval/results/report_page/page.js"):
        assert f"vla0/{wanted}" in names


def test_an_installed_wheel_trains_with_two_ranks_and_answers(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    write_synthetic_demo_file(tmp_path / "demo.hdf5", 2, 6, 64, seed=0)
    # -S: the environment's .pth files, which lead to this checkout, are not read
    packages = os.pathsep.join([str(tmp_path / "site"), sysconfig.get_path("purelib")])
    env = {**os.environ, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        command = [sys.executable, "-S", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    recipe = ["--cfg", "configs/tiny.yaml", "DATA.FILES", "['demo.hdf5']", "TRAIN.max_steps", "2"]
    assert "2 x CPU" in run("-m", "vla0", "train", "--nproc", "2", *recipe)
    answer = """
import numpy as np, vla0
policy = vla0.Policy.from_checkpoint("checkpoints/tiny")
view = np.zeros((64, 64, 3), np.uint8)
chunk = policy.predict([{"views": dict.fromkeys(policy.views, view), "instruction": "push the plate"}])
import libs
print(chunk.shape, "site/vla0/libs" in libs.__file__, vla0.load_cfg("configs/tiny.yaml").EXP.ID)
"""
    assert run("-c", answer).split("\n")[-2] == "(1, 2, 7) True tiny"
