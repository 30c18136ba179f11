"""What a test may use is what it is marked with: `make check` leaves tests out by that."""

import contextlib
import functools
import getpass
import importlib.util
import logging
import os
import sys
import tempfile

import pytest

from tests.ranks import Forking


def _no_simulator(patch):
    for name in ("robosuite", "robosuite.environments.base"):
        if name not in sys.modules:
            patch.setitem(sys.modules, name, None)  # an import of it is an ImportError
    if sys.modules.get("robosuite.environments.base"):
        patch.setattr("robosuite.environments.base.MujocoEnv._initialize_sim", _refuse("sim"))


def _no_libero(patch):
    for name in ("libero", "libero.libero"):
        patch.setitem(sys.modules, name, None)
    if suites := sys.modules.get("libs.libero_sim.suites"):
        for name in ("_benchmarks", "_suite"):  # which keep what they have read
            patch.setattr(suites, name, getattr(suites, name).__wrapped__)


def _no_browser(patch):
    if "tests.browser" in sys.modules:
        patch.setattr("tests.browser.found", _refuse("browser"))


def _no_compiler(patch):
    patch.setenv("CXX", "none-for-a-test-without-the-mark-compiler")


def _compiler_again():
    """torch.compile reads CXX once, when it is imported: that may have been in a test without the mark."""
    config = sys.modules.get("torch._inductor.config")
    return config.patch({"cpp.cxx": (None, os.environ.get("CXX", "g++"))}) if config else contextlib.nullcontext()


HIDDEN = {"sim": _no_simulator, "libero": _no_libero, "browser": _no_browser, "compiler": _no_compiler}


def _refuse(mark):
    def refuse(*args, **kwargs):
        raise AssertionError(f"this test needs the mark {mark}: see pyproject.toml")

    return refuse


def pytest_configure():
    # A library's log handler keeps the stderr of the test in which it was imported; that it is closed in the next one
    # must not be told on the stderr of that.
    logging.raiseExceptions = False
    # Code compiled for other kernels must not be taken for these: its cache does not know ATEN_CPU_CAPABILITY.
    if kernels := os.environ.get("ATEN_CPU_CAPABILITY"):
        folder = os.path.join(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}_{kernels}")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)


def _packages(item):
    """What a test is skipped without, by its marks."""
    named = [package for mark in item.iter_markers("package") for package in mark.args]
    return [*named, "libero"] if item.get_closest_marker("libero") else named


@functools.cache
def _is_installed(package):
    return importlib.util.find_spec(package) is not None


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Files with long tests first, so that two processes that take file after file end at the same time."""
    for item in items:
        if "driver" in item.fixturenames:  # of tests/rv_eval/results/test_report.py
            item.add_marker("browser")
        if missing := [package for package in _packages(item) if not _is_installed(package)]:
            item.add_marker(pytest.mark.skip(reason=f"the package {missing[0]} is not installed"))
    marks = ("sim", "browser", "compiler", "slow")
    long = {item.path for item in items if any(item.get_closest_marker(mark) for mark in marks)}
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    marks = {mark.name for mark in item.iter_markers()}
    with pytest.MonkeyPatch.context() as patch:
        for mark, hide in HIDDEN.items():
            if mark not in marks:
                hide(patch)
        with _compiler_again() if "compiler" in marks else contextlib.nullcontext():
            return (yield)


@pytest.fixture(scope="module")
def forked_ranks():
    """Ranks that `rv_train.distributed.launch` starts in this module are forked, see tests/ranks.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rv_train.distributed.mp", Forking())
        yield
