"""The trainer's command line: which run is meant, by a recipe or by its folder."""

import json

import pytest
import yaml

from libs.config_tree import to_dict
from rv_train.arguments import chosen_cfg, parse_args
from rv_train.backbones.folders import SAVED
from rv_train.train import main
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ROOT, tiny_cfg

RECIPE = str(ROOT / "configs/quickstart.yaml")


def chosen(*words):
    return chosen_cfg(parse_args("", [str(word) for word in words]))


@pytest.fixture
def run(tmp_path):
    """A run folder that somebody moved here, as far as its recipe goes."""
    folder = tmp_path / "moved"
    folder.mkdir()
    tree = to_dict(tiny_cfg(EXP__DIR="/there", EXP__ID="old_name", TRAIN__lr=0.25))
    (folder / SAVED).write_text(yaml.safe_dump(tree))
    return folder


def test_a_run_by_its_folder_has_its_recipe_and_the_place_where_it_stands(run, monkeypatch):
    cfg = chosen("--resume", run, "TRAIN.max_steps", "9")
    assert (cfg.TRAIN.lr, cfg.TRAIN.max_steps) == (0.25, 9)
    assert (str(run.parent), "moved") == (cfg.EXP.DIR, cfg.EXP.ID)
    monkeypatch.chdir(run)
    cfg = chosen("--resume", ".")
    assert (str(run.parent), "moved") == (cfg.EXP.DIR, cfg.EXP.ID)
    monkeypatch.chdir(run.parent)
    cfg = chosen("TRAIN.max_steps", "9", "--resume", "moved")
    assert (cfg.EXP.DIR, cfg.EXP.ID, cfg.TRAIN.max_steps) == (".", "moved", 9)


def test_by_a_recipe_as_ever(run):
    for words in (
        ("--cfg", RECIPE, "--resume", "EXP.ID", "moved"),
        ("--cfg", RECIPE, "EXP.ID", "moved", "--resume"),
        ("EXP.ID", "moved", "--resume", "--cfg", RECIPE),
    ):
        args = parse_args("", words)
        assert args.resume is True and chosen_cfg(args).EXP.ID == "moved"
    args = parse_args("", ["--cfg", RECIPE])
    assert args.resume is None and chosen_cfg(args).EXP.ID == "my_quickstart"


def test_skip_bad_as_the_recipe_says_or_not(run):
    assert chosen("--cfg", RECIPE, "DATA.SKIP_BAD", "True").DATA.SKIP_BAD is True
    assert chosen("--cfg", RECIPE, "DATA.SKIP_BAD", "True", "--no_skip_bad").DATA.SKIP_BAD is False
    assert chosen("--cfg", RECIPE, "--skip_bad").DATA.SKIP_BAD is True


@pytest.mark.parametrize(
    "about, ranks",
    [
        ({"world_size": 4, "device": "cpu", "resumed": []}, 4),
        ({"world_size": 4, "device": "cpu", "resumed": [{"world_size": 2, "device": "cpu"}]}, 2),
        ({"world_size": 8, "device": "NVIDIA H100", "resumed": []}, None),
        ({"world_size": "4", "device": "cpu"}, None),
        (None, None),
    ],
)
def test_a_run_on_the_cpu_goes_on_with_its_ranks(run, about, ranks, monkeypatch):
    if about is not None:
        (run / "run.json").write_text(json.dumps(about))
    assert parse_args("", ["--resume", str(run)]).nproc == ranks
    assert parse_args("", ["--resume", str(run), "--nproc", "3"]).nproc == 3
    assert parse_args("", ["--resume", str(run), "--devices", "0", "1"]).nproc is None
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parse_args("", ["--resume", str(run)]).nproc is None


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give a recipe, --cfg FILE, or a run folder that goes on, --resume RUN"),
        (["--resume"], "error: --resume: name the run folder"),
        (["--resume", "TRAIN.lr", "1"], "error: --resume: name the run folder"),
        (["--resume", "nowhere"], "error: --resume: nowhere is no run folder: it does not exist"),
        (["--resume", "."], "error: --resume: . is no run folder: it has no config.yaml"),
        (["--resume", "moved", "--cfg", RECIPE], "by the recipe that is saved there: leave out --cfg, or the folder"),
        (["--resume", "moved", "EXP.ID", "other"], "--resume moved says which run goes on: leave out EXP.ID"),
        (["--resume", "moved", "TRAIN.learning_rate", "1"], "unknown config key TRAIN.learning_rate"),
        (["--resume", "moved", "--nproc", "1"], "moved has no complete checkpoint to resume from"),
        (["--cfg", RECIPE, "--allow_changes"], "give both"),
        (["--cfg", RECIPE, "TRAIN.lr"], "overrides come in pairs KEY VALUE; 'TRAIN.lr' has no value"),
        (["--cfg", RECIPE, "train.lr", "1"], "unknown config key train.lr"),
        (["--cfg", RECIPE, "--devices", "x"], "--devices x: whole numbers such as 0 3, or all"),
    ],
)
def test_what_means_no_run_is_one_line(words, message, run, monkeypatch, capsys):
    demos = run.parent / "demos.hdf5"
    write_synthetic_demo_file(demos, num_demos=2, num_frames=8, resolution=64, seed=0)
    (run / SAVED).write_text(yaml.safe_dump(to_dict(tiny_cfg(DATA__FILES=[str(demos)]))))
    monkeypatch.chdir(run.parent)
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert message in capsys.readouterr().err.splitlines()[-1]
