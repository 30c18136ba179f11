"""TRAIN.trackers: what a run shows on a page of W&B or trackio, when it goes on, and what is refused."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from rv_eval.policy import model_fingerprint
from rv_train.difference import read_curves
from rv_train.run_pages import TRACKERS, open_pages
from rv_train.tracking import Tracker
from rv_train.train import main
from tests.demo_files import write_synthetic_demo_file
from tests.fake_trackers import fake_trackio, fake_wandb
from tests.refusal import refusal
from tests.rv_eval.records import record, write
from tests.tiny import ROOT, TINY, tiny_cfg, tiny_opts
from tools.summarize_eval import main as summarize

pytestmark = pytest.mark.slow
OPTIONS = {"TRAIN__log_every": 1, "TRAIN__save_every": 2, "TRAIN__keep_last": 9}
OPTIONS |= {"DATA__VAL_SHARE": 0.5, "VALID__loss_every": 1.0, "VALID__gen_samples": 3}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "demo.hdf5"
    write_synthetic_demo_file(path, 4, 12, 64, seed=0)
    return path


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request, monkeypatch):
    """One of the stand-ins, as if it were installed."""
    module = fake_wandb() if request.param == "wandb" else fake_trackio()
    monkeypatch.setitem(sys.modules, request.param, module)
    for name in ("PROJECT", "MODE", "DIR"):
        monkeypatch.delenv(f"{request.param.upper()}_{name}", raising=False)
    return module


def arguments(folder, demos, names, *flags, **opts):
    where = {"DATA__FILES": [str(demos)], "EXP__DIR": str(folder), "TRAIN__trackers": list(names)}
    return ["--cfg", str(TINY), "--nproc", "1", *flags, *map(str, tiny_opts(**where, **OPTIONS, **opts))]


def train(*args, **opts):
    with pytest.raises(SystemExit) as end:
        main(arguments(*args, **opts))
    assert end.value.code == 0


def curve(page, tag):
    return [(point["step"], point[tag]) for point in page.points if tag in point]


def test_a_run_that_was_cut_off_goes_on_on_its_page(tracker, tmp_path, demos, monkeypatch):
    name = tracker.__name__
    train(tmp_path, demos, [name], TRAIN__max_steps=4)
    shutil.rmtree(tmp_path / "tiny/step_00000004")
    train(tmp_path, demos, [name], "--resume", TRAIN__max_steps=6)
    (page,) = tracker.pages.values()
    losses = curve(page, "train/loss")
    assert [step for step, _ in losses] == [1, 2, 3, 4, 3, 4, 5, 6] and losses[2:4] == losses[4:6]
    assert [step for step, _ in curve(page, "val/loss")] == [4, 6]
    for _, (kind, pixels) in curve(page, "val/chunks"):
        assert kind == "image" and pixels.dtype == np.uint8 and pixels.ndim == 3
    (_, (kind, _, ((text,),))), _ = curve(page, "text/run")
    assert kind == "table" and "parameters" in text
    assert page.config["TRAIN"]["batch_size"] == 2 and page.project == "vla0"
    assert len(page.ends) == 2 and not any(page.ends)
    identity = json.loads((tmp_path / "tiny/trackers.json").read_text())[name]
    if name == "wandb":
        assert list(tracker.pages) == [identity] and page.name == "tiny" and page.dir == str(tmp_path / "tiny")
        assert page.axes == {"step": None, "*": "step"}
    else:
        assert list(tracker.pages) == [f"tiny-{identity}"]


def test_tensorboard_comes_first_and_all_are_closed(tracker, tmp_path):
    cfg = tiny_cfg(TRAIN__trackers=[tracker.__name__])
    with pytest.raises(ZeroDivisionError), Tracker(open_pages(cfg, tmp_path, 0), 0, 4) as shown:
        shown.scalars(1, {"val/loss": 0.5})
        raise ZeroDivisionError
    assert curve(tracker.page, "val/loss") == [(1, 0.5)]
    assert tracker.page.ends == ([1] if tracker.__name__ == "wandb" else [None])
    assert len(list(tmp_path.glob("events.*"))) == 1
    first = next(iter(tracker.pages))
    open_pages(cfg, tmp_path, 0)  # a new run, in a folder that was used before
    assert len(tracker.pages) == 2 and first != list(tracker.pages)[1]


def test_a_package_that_fails_later_does_not_end_the_run(tracker, tmp_path, demos, capfd, monkeypatch):
    def fail(columns, data):
        raise ConnectionError("the line is dead")

    monkeypatch.setattr(tracker, "Table", fail)  # of a text
    train(tmp_path, demos, [tracker.__name__], TRAIN__max_steps=2)
    told = capfd.readouterr().out
    assert told.count("warning: ") == 1
    assert f"{tracker.__name__} fails (ConnectionError: the line is dead); nothing more is shown there" in told
    assert tracker.page.points == []
    assert [step for step, _ in read_curves(tmp_path / "tiny")["train/loss"]] == [1, 2]


def test_an_evaluation_goes_onto_the_page_of_its_run(tracker, tmp_path, demos, capsys):
    name, run = tracker.__name__, tmp_path / "tiny"
    train(tmp_path, demos, [name], TRAIN__max_steps=4)
    model = run / "step_00000002/model"
    about = {"model_folder": str(model), **model_fingerprint(model)}
    lines = [
        record(0, n, success=n > 0, suite=suite, **about) for suite in ("libero_goal", "libero_10") for n in range(4)
    ]
    write(tmp_path / "logs/results.jsonl", lines)
    summarize([str(tmp_path / "logs"), "--tracker", str(run)])
    assert f"{name}: eval/* at step 2 of {run}" in capsys.readouterr().out
    (page,) = tracker.pages.values()
    assert curve(page, "eval/libero_goal") == [(2, 0.75)] and curve(page, "eval/all") == [(2, 0.75)]
    assert curve(page, "eval/all_low")[0][1] < 0.75 < curve(page, "eval/all_high")[0][1]
    assert "libero_goal" in curve(page, "text/eval")[0][1][2][0][0] and len(page.ends) == 2
    html = (tmp_path / "logs/report.html").read_text()
    assert curve(page, "eval/report") == ([(2, ("html", html, False))] if name == "wandb" else [])
    for other in (
        {"model_fingerprint": "ab" * 32},
        {"model_folder": "cache/x"},
        {"model_folder": "step_00000001/model"},
    ):
        write(tmp_path / "others/results.jsonl", [record(**about | other)])
        message = refusal(summarize, capsys, tmp_path / "others", "--no-html", "--tracker", run)
        assert "has no checkpoint that was evaluated here" in message
        (tmp_path / "others/results.jsonl").unlink()
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(f"trackers:\n  - {name}", "trackers: []"))
    assert "has no page" in refusal(summarize, capsys, tmp_path / "logs", "--no-html", "--tracker", run)


def test_a_run_takes_a_tracker_up_when_it_is_resumed(tmp_path, demos, monkeypatch):
    train(tmp_path, demos, [], TRAIN__max_steps=2)
    assert not (tmp_path / "tiny/trackers.json").exists()
    module = fake_wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    train(tmp_path, demos, ["wandb"], "--resume", TRAIN__max_steps=4)
    assert [step for step, _ in curve(module.page, "train/loss")] == [3, 4] and module.page.project == "mine"


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_told_before_anything_starts(name, tmp_path, demos, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda one, *more: None if one == name else found(one, *more))
    message = refusal(main, capsys, *arguments(tmp_path, demos, [name]))
    assert message == f"error: TRAIN.trackers {name} needs the package {name}: {TRACKERS[name]}"
    assert not (tmp_path / "tiny").exists()
    main([*arguments(tmp_path, demos, [name]), "--dry_run"])
    assert TRACKERS[name] in capsys.readouterr().out.split("missing:\n")[1]


def test_other_names_and_a_page_that_does_not_open(tmp_path, demos, monkeypatch, capsys):
    assert "TRAIN.trackers are some of wandb, trackio; got 'mlflow'" in refusal(
        main, capsys, *arguments(tmp_path, demos, ["mlflow"])
    )
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(login=False))
    message = refusal(main, capsys, *arguments(tmp_path, demos, ["wandb"], TRAIN__max_steps=2))
    assert message.startswith("error: TRAIN.trackers: wandb does not open a page (No API key configured.")
    assert not (tmp_path / "tiny").exists()
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "tiny/wandb/offline-run").mkdir(parents=True)  # of a run that never reached a checkpoint
    train(tmp_path, demos, ["wandb"], TRAIN__max_steps=2)
    assert not (tmp_path / "tiny/wandb/offline-run").exists() and sys.modules["wandb"].logins == 1


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb: pip install -e '.[wandb]'")
def test_wandb_itself_offline(tmp_path, demos):
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    command = [sys.executable, "-m", "rv_train.train"]
    for flags, steps in [((), 2), (("--resume",), 4)]:
        program = [*command, *arguments(tmp_path, demos, ["wandb"], *flags, TRAIN__max_steps=steps)]
        done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    identity = json.loads((tmp_path / "tiny/trackers.json").read_text())["wandb"]
    files = sorted(tmp_path.glob("tiny/wandb/offline-run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{identity}.wandb"] * 2
    assert all(b"train/loss" in path.read_bytes() for path in files)
    assert list(tmp_path.glob("tiny/wandb/offline-run-*/files/media/images/val/*.png"))
