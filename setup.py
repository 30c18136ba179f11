"""Which packages are built; everything else stands in pyproject.toml.

A checkout is installed as it is (`pip install -e .`): rv_train, rv_eval, libs and tools are importable by these names.
A wheel holds them, and the recipes, inside the package vla0: names like `libs` belong to nobody in site-packages.
"""

import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOMS = ("libs", "rv_train", "rv_eval", "tools")

found = find_packages(include=["vla0", *ROOMS, *(f"{room}.*" for room in ROOMS)])
if "editable_wheel" in sys.argv:
    layout = {"packages": found}
else:
    recipes = ["configs", *(f"configs/{path.name}" for path in Path("configs").iterdir() if path.is_dir())]
    inside = {f"vla0.{folder.replace('/', '.')}": folder for folder in recipes}
    inside |= {f"vla0.{name}": name.replace(".", "/") for name in found if name != "vla0"}
    layout = {"packages": ["vla0", *inside], "package_dir": inside}

setup(package_data={"": [f"**/*.{kind}" for kind in ("json", "txt", "xz", "yaml", "html", "css", "js")]}, **layout)
