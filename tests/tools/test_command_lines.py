"""Every command reads alike: examples that parse, one name for one thing, no abbreviations, old spellings a release."""

import argparse
import importlib
import re
import shlex
import sys

import pytest

import rv_eval.envs.remote
from libs.cli import Numbers, Parser, Switch
from rv_eval.envs import get_simulator
from rv_eval.envs.remote import RemoteSimulator
from tests.tiny import ROOT
from vla0.__main__ import COMMANDS as NAMED

OLD_COMMANDS = ("tools.compare_evals", "tools.compare_runs")  # of the release before
MODULES = sorted(
    {module for module, _ in NAMED.values()}
    | {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in [*ROOT.glob("tools/*.py"), *ROOT.glob("tools/dev/*.py")]
        if "Parser(" in path.read_text() and "\ndef main(" in path.read_text()
    }
)
# Imported here: what a library opens for its logs while a test captures stderr would be closed behind that test.
MAIN = {module: importlib.import_module(module) for module in (*MODULES, *OLD_COMMANDS)}
# What is called so in every command, and what it is not called in any.
ONE_NAME = {
    "--model_path": {"--model", "--checkpoint", "--ckpt", "--policy", "--policy_path"},
    "--task_suite": {"--suite", "--suites", "--task_suites", "--benchmark"},
    "--task_ids": {"--task_id", "--tasks", "--task"},
    "--task_names": {"--task_name"},
    "--num_demos": {"--demos", "--n_demos"},
    "--num_samples": {"--samples"},
    "--num_steps": {"--max_steps", "--step_limit"},
    "--num_envs": {"--envs", "--n_envs"},
    "--episodes": {"--num_episodes", "--n_episodes", "--num_trials"},
    "--log_dir": {"--logs", "--log_folder", "--output_dir"},
    "--out": {"--output", "--out_dir"},
    "--cfg": {"--config", "--recipe"},
    "--workers": {"--num_workers", "--jobs", "--processes"},
    "--devices": {"--gpus", "--gpu"},
    "--key_map": {"--keymap", "--layout"},
    "--views": {"--cameras"},
    "--proprio": {"--state", "--states"},
    "--skip_evaluated": {"--continue", "--skip_existing"},
    "--resume": {"--resume_from", "--restart"},
    "--api_key_file": {"--api_key", "--key_file"},
}
# Of one suite where there can be one only; of the benchmark `quantize` kinds of weights, and whether they are drafted.
MAY_DIFFER = {"--task_suite", "--weights", "--drafts"}


class Parsed(Exception):
    """A command line was read: (the Parser, the arguments). Nothing behind it runs."""


class Elsewhere(RemoteSimulator):
    """An environment that lives elsewhere, and is not asked for anything."""

    description, tasks = get_simulator("stack").description, ()

    def __init__(self, urls=(), command=None):
        self.max_envs = len(urls) or None

    def close(self):
        pass


@pytest.fixture
def read(monkeypatch):
    """A function (module, words) -> (Parser, arguments)."""
    parse_args = Parser.parse_args
    monkeypatch.setattr(rv_eval.envs.remote, "RemoteSimulator", Elsewhere)

    def stop(parser, args=None, namespace=None):
        raise Parsed(parser, parse_args(parser, args, namespace))

    def read(module, words):
        monkeypatch.setattr(Parser, "parse_args", stop)
        monkeypatch.setattr(sys, "argv", [f"{module.rpartition('.')[2]}.py", *words])
        with pytest.raises(Parsed) as read:
            MAIN[module].main()
        return read.value.args

    return read


def examples(module):
    """[(module, words)]: the commands that the text of --help shows, those of other modules too."""
    found = []
    for line in Parser(MAIN[module].__doc__).examples:
        _, *words = shlex.split(line.replace("\\\n", " "), comments=True)  # python
        name = words[1] if words[0] == "-m" else words[0].removesuffix(".py").replace("/", ".")
        found.append((name, words[2 if words[0] == "-m" else 1 :]))
    return found


def options_of(parser):
    """Its actions with a name, those of its parts too."""
    actions = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            actions += [option for part in action.choices.values() for option in options_of(part)]
        elif action.option_strings and not isinstance(action, argparse._HelpAction):
            actions.append(action)
    return [action for action in actions if action.help != argparse.SUPPRESS]


def test_no_command_is_forgotten():
    assert len(MODULES) > 30 and "rv_train.train" in MODULES and "tools.dev.benchmark" in MODULES
    for path in ROOT.glob("tools/**/*.py"):
        assert "argparse.ArgumentParser(" not in path.read_text(), path
    for module in OLD_COMMANDS:
        assert module not in MODULES


@pytest.mark.parametrize("module", MODULES)
def test_every_example_is_read(module, read, capsys):
    found = examples(module)
    assert any(name == module for name, _ in found), "no example of its own"
    for name, words in found:
        parser, _ = read(name, words)
        assert not parser.allow_abbrev
    assert capsys.readouterr().err == "", "an example in an old spelling"


@pytest.mark.parametrize("module", MODULES)
def test_the_help_ends_with_the_examples_and_names_no_folder_of_this_machine(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["called.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        MAIN[module].main()
    said = capsys.readouterr().out
    lines = Parser(MAIN[module].__doc__).examples
    assert said.endswith("".join(f"  {line}\n" for line in "\n".join(lines).splitlines()))
    assert str(ROOT) not in said


def test_one_name_for_one_thing(read):
    """No option has another name elsewhere, none takes one word here and several there, each says what one gets."""
    forbidden = {name: use for use, names in ONE_NAME.items() for name in names}
    kinds = {}
    for module in MODULES:
        own = [words for name, words in examples(module) if name == module]
        for parser in {id(parser): parser for parser, _ in (read(module, words) for words in own)}.values():
            for action in options_of(parser):
                for option in action.option_strings:
                    assert re.fullmatch(r"--[a-z0-9_]+", option), f"{module} {option}"
                    assert option not in forbidden, f"{module} {option}: {forbidden.get(option)}"
                assert action.help, f"{module} {action.option_strings[0]} says nothing"
                assert not isinstance(action, argparse.BooleanOptionalAction), f"{module}: libs.cli.Switch"
                several = action.nargs in ("+", "*") or (isinstance(action.nargs, int) and action.nargs > 0)
                kind = "several words" if several else "none" if action.nargs == 0 else "one word"
                kinds.setdefault(action.option_strings[0], {}).setdefault(kind, set()).add(module)
    for option, kind in kinds.items():
        assert len(kind) == 1 or option in MAY_DIFFER, f"{option}: {kind}"
    assert set(kinds) >= set(ONE_NAME) - {"--task_names"}


@pytest.mark.parametrize("module", MODULES)
def test_abbreviations_are_refused(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["called.py", "--hel"])
    with pytest.raises(SystemExit, match="2"):
        MAIN[module].main()
    assert "error: " in capsys.readouterr().err  # and no help


LIBERO = "--model_path RUN --task_suite libero_object"
OLD = [
    ("tools.eval_libero", f"{LIBERO} --task_id 0 3", f"{LIBERO} --task_ids 0 3", 1),
    ("tools.eval_libero", f"{LIBERO} --task_name a b", f"{LIBERO} --task_names a b", 1),
    ("tools.eval_libero", f"{LIBERO} --no-drafts --task_id=0,3", f"{LIBERO} --no_drafts --task_ids 0 3", 3),
    ("tools.eval_reading", "--model_path RUN --suite libero_goal", "--model_path RUN --task_suite libero_goal", 1),
    ("tools.collect_env", "--env_command x --num_demos 1 --out o --render fast --task_id 1", None, 1),
    ("tools.collect_demos", "--task_suite s --task_ids 0,3 --num_demos 1 --out o", None, 1),
    ("tools.compute_stats", "--views top,wrist data --proprio a,b", "data --views top wrist --proprio a b", 2),
    (
        "tools.compute_stats",
        "data --set ACTION.MODE delta --set DATA.CACHE x",
        "data ACTION.MODE delta DATA.CACHE x",
        1,
    ),
    ("tools.inspect_demos", "data --demos 2 --views top,wrist", "data --num_demos 2 --views top wrist", 2),
    ("tools.peek_manifest", "data --samples 2", "data --num_samples 2", 1),
    ("tools.export_lerobot", "data --out o --robot franka", "data --out o --robot_type franka", 1),
    ("tools.summarize_eval", "logs --no-html", "logs --no_html", 1),
    ("rv_train.train", "--cfg x --devices 0,1 TRAIN.lr 1", "--cfg x --devices 0 1 TRAIN.lr 1", 1),
]


@pytest.mark.parametrize("module, old, new, lines", OLD)
def test_an_old_spelling_works_and_says_what_is_written_now(module, old, new, lines, read, capsys):
    _, before = read(module, old.split())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    for line in said:
        assert re.fullmatch(r"warning: .* is written .* now; the old form goes with the next release", line)
    _, now = read(
        module, (new or old.replace("--task_id ", "--task_ids ").replace("0,3", "0 3").replace("--set ", "")).split()
    )
    assert vars(before) == vars(now) and capsys.readouterr().err == ""


def test_commands_of_the_release_before(tmp_path, capsys):
    for module in OLD_COMMANDS:
        with pytest.raises(SystemExit, match="2"):
            MAIN[module].main([str(tmp_path), str(tmp_path)])
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith(f"warning: {module.replace('.', '/')}.py is written tools/compare.py now")
        assert second.startswith("error: ") and "no results.jsonl, no complete checkpoint" in second


def test_a_model_without_its_name_as_before(tmp_path, capsys):
    from tools.merge_lora import main

    for words in ([str(tmp_path)], ["--model_path", str(tmp_path)]):
        with pytest.raises(SystemExit, match="2"):
            main([*words, "--out", str(tmp_path / "out")])
        *said, error = capsys.readouterr().err.splitlines()
        assert len(said) == (len(words) == 1) and "holds no model" in error
    for words in ([], [str(tmp_path), "--model_path", str(tmp_path)]):
        with pytest.raises(SystemExit, match="2"):
            main([*words, "--out", str(tmp_path / "out")])
        assert "give --model_path, once" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- the parser itself


@pytest.mark.parametrize(
    "words, resume, devices, opts",
    [
        ("--resume", True, None, []),
        ("--resume TRAIN.lr 1", True, None, ["TRAIN.lr", "1"]),
        ("--resume RUN TRAIN.lr 1", "RUN", None, ["TRAIN.lr", "1"]),
        ("--resume=RUN TRAIN.lr 1", "RUN", None, ["TRAIN.lr", "1"]),
        ("--resume ./TRAIN.lr", "./TRAIN.lr", None, []),
        ("TRAIN.lr 1 --resume DATA.FILES a,b --devices 0 1", True, [0, 1], ["TRAIN.lr", "1", "DATA.FILES", "a,b"]),
        ("--devices 0 1 DATA.FILES x --resume runs/TRAIN.lr", "runs/TRAIN.lr", [0, 1], ["DATA.FILES", "x"]),
        ("--devices all TRAIN.lr -1 --resume", True, None, ["TRAIN.lr", "-1"]),
        ("--resume TRAIN.ID TRAIN.lr", True, None, ["TRAIN.ID", "TRAIN.lr"]),  # a value that looks like a key
        ("TRAIN.lr --resume RUN", "RUN", None, ["TRAIN.lr"]),  # without a value: load_cfg says so
        ("--cfg TRAIN.yaml", None, None, []),
        ("train.lr 1", None, None, ["train.lr", "1"]),  # no key: load_cfg says so
    ],
)
def test_pairs_are_taken_for_nothing_else(words, resume, devices, opts):
    parser = Parser("Nothing.")
    parser.add_argument("--cfg")
    parser.add_argument("--resume", nargs="?", const=True)
    parser.add_argument("--devices", action=Numbers)
    parser.add_pairs(("TRAIN", "DATA"), help="pairs")
    args = parser.parse_args(words.split())
    assert (args.resume, args.devices, args.opts) == (resume, devices, opts)


def test_what_help_says(capsys):
    parser = Parser("A.\n\n    python tools/a.py x \\\n        --y\n\nB.\n\n    no command\n", prog="vla0 a")
    parser.add_argument("--path", default="", help="nothing to tell")
    parser.add_argument("--rate", type=float, default=0.0, help="a rate")
    parser.add_argument("--share", default="5 %", help="a share")
    parser.add_argument("--list", nargs="+", default=[1, 2], help="a list")
    parser.add_argument("--yes", action=Switch, default=True, help="a switch")
    parser.add_argument("--own", default=3, help="tells its default itself (default: three)")
    said = parser.format_help()
    assert "A.\n\nB.\n\n    no command\n" in said and said.endswith("examples:\n  vla0 a x \\\n      --y\n")
    for line in (
        "nothing to tell\n",
        "a rate (default: 0.0)",
        "a share (default: 5 %)",
        "a list (default: 1 2)",
        "--yes, --no_yes",
        "a switch (default: yes)",
        "itself (default: three)\n",
    ):
        assert line in said
    assert parser.parse_args(["--no_yes"]).yes is False and parser.parse_args([]).yes is True


def test_a_list_that_takes_the_files_says_where_they_stand(capsys):
    parser = Parser("Nothing.")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--views", nargs="+")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--views", "top", "data"])
    assert "FILE (write what has no name before the options" in capsys.readouterr().err
