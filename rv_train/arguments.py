"""What the trainer's command line asks for: a recipe, or a run that goes on by its folder alone."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from libs.cli import Numbers, Parser, Switch
from libs.errors import BadInput
from libs.files import kind_of, read_json_object, short_path
from rv_train.backbones.folders import SAVED
from rv_train.checkpoint import read_saved_cfg
from rv_train.config import SECTIONS, load_cfg
from rv_train.distributed import under_torchrun


def parse_args(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description)
    add = parser.add_argument
    add("--cfg", metavar="FILE", help="recipe, a YAML file such as those under configs/")
    add(
        "--resume",
        nargs="?",
        const=True,
        metavar="RUN",
        help="continue from the newest good checkpoint of this run folder, by the recipe that is saved there; "
        "with --cfg, without RUN: of the run that the recipe names",
    )
    add("--allow_changes", action="store_true", help="continue though recipe, data or number of ranks changed")
    add("--dry_run", action="store_true", help="print the plan and what is missing; needs no weights, data or GPU")
    add("--sanity_forward", action="store_true", help="one batch through the model: shapes, texts, loss; no training")
    add("--skip_bad", action=Switch, help="leave out the bad lines of a manifest (default: as DATA.SKIP_BAD says)")
    add("--devices", action=Numbers, help="GPUs to train on, such as 0 1 2 3, or all (default)")
    add("--nproc", type=int, metavar="N", help="train on the CPU, in so many processes")
    parser.add_pairs(SECTIONS, help="what differs from the recipe, such as TRAIN.lr 1e-5 EXP.ID my_run")
    args = parser.parse_args(argv)
    if args.cfg is None and args.resume is None:
        parser.error("give a recipe, --cfg FILE, or a run folder that goes on, --resume RUN")
    if args.skip_bad is not None:
        args.opts += ["DATA.SKIP_BAD", args.skip_bad]
    by_folder = isinstance(args.resume, str)
    if by_folder and not (args.devices or args.nproc is not None or under_torchrun()):
        args.nproc = saved_ranks(args.resume)
    return args


def chosen_cfg(args: argparse.Namespace) -> CfgNode:
    """The config tree that is asked for: a recipe's, or a run folder's own."""
    if not isinstance(args.resume, str):
        if args.cfg is None:
            raise BadInput("--resume: name the run folder that goes on, or its recipe with --cfg")
        return load_cfg(args.cfg, args.opts)
    if args.cfg is not None:
        raise BadInput(
            f"--resume {args.resume} goes on by the recipe that is saved there: leave out --cfg, or the folder"
        )
    return load_run(args.resume, args.opts)


def load_run(run: Path | str, opts: Sequence[Any] = ()) -> CfgNode:
    """The frozen config tree that a run folder holds, `opts` over it, and with the folder where it stands now.

    BadInput: no run folder, a broken tree, a wrong KEY or VALUE, or one that names another folder.
    """
    path = Path(os.path.abspath(run))  # of ".", too; a link stays the folder's name
    if kind_of(path / SAVED) != "file":
        reason = f"it has no {SAVED}" if kind_of(path) else "it does not exist"
        raise BadInput(f"--resume: {run} is no run folder: {reason}")
    if named := [key for key in opts[::2] if key in ("EXP.DIR", "EXP.ID")]:
        raise BadInput(f"--resume {run} says which run goes on: leave out {named[0]}, or give --cfg and --resume alone")
    place = ["EXP.DIR", short_path(path.parent), "EXP.ID", path.name]
    return read_saved_cfg(path / SAVED, [*opts, *place])


def saved_ranks(run: Path | str) -> int | None:
    """The number of CPU ranks that a run had when it last ran; None: it ran on GPUs, or nothing says so."""
    path = Path(run) / "run.json"
    if kind_of(path) != "file":
        return None
    about = read_json_object(path)
    resumed = about.get("resumed")
    last = resumed[-1] if isinstance(resumed, list) and resumed and isinstance(resumed[-1], dict) else about
    ranks = last.get("world_size")
    return ranks if last.get("device") == "cpu" and isinstance(ranks, int) and ranks > 0 else None
