"""Every public function and method says what it takes and what it gives."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("libs", "rv_train", "rv_eval", "tools")


def is_public(name):
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def public_functions(body, of=""):
    """(name, function, whether its first parameter is the object or class) of a module's or class's body."""
    for node in body:
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            yield from public_functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.If | ast.Try):
            yield from public_functions([part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)], of)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(node.name):
            static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in node.decorator_list)
            yield of + node.name, node, bool(of) and not static


def missing(function, is_bound):
    """What has no hint: names of parameters, and "return"."""
    given = function.args
    parameters = [*given.posonlyargs, *given.args][is_bound:] + given.kwonlyargs
    parameters += [one for one in (given.vararg, given.kwarg) if one is not None]
    names = [one.arg for one in parameters if one.annotation is None]
    return names + ["return"] * (function.returns is None)


def unhinted(source):
    """A line per public function that lacks a hint."""
    for name, function, is_bound in public_functions(ast.parse(source).body):
        if lacking := missing(function, is_bound):
            yield f"line {function.lineno}: {name} lacks {', '.join(lacking)}"


def test_every_public_function_has_hints():
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split() if name.split("/")[0] in PACKAGES and (ROOT / name).exists()]
    assert len(names) > 100
    assert [f"{name}, {line}" for name in names for line in unhinted((ROOT / name).read_text())] == []


@pytest.mark.parametrize(
    "source",
    [
        "def f(x) -> int: ...",
        "def f(x: int): ...",
        "def f(*rest) -> int: ...",
        "def f(*, x=1) -> int: ...",
        "async def f(**more) -> int: ...",
        "class A:\n    def f(self): ...",
        "class A:\n    def __init__(self, x) -> None: ...",
        "class A:\n    @staticmethod\n    def f(x) -> int: ...",
        "if True:\n    def f(x) -> int: ...",
    ],
)
def test_a_missing_hint_is_found(source):
    assert len(list(unhinted(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f(x: int, *rest: int, y: int = 1, **more: int) -> int: ...",
        "def _f(x): ...",
        "class _A:\n    def f(self, x): ...",
        "class A:\n    @classmethod\n    def f(cls) -> int: ...",
        "def f() -> int:\n    def inner(x): ...",
    ],
)
def test_what_is_hinted_or_private_is_left_alone(source):
    assert list(unhinted(source)) == []
