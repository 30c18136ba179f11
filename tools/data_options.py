"""Options of the tools that read demonstrations of any kind: what DATA.* says in a recipe."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from libs.cli import Parser
from rv_train.config import SECTIONS, data_cfg
from rv_train.data.sources import SOURCES, find_source, source_that_fits


def add_data_options(parser: Parser, proprio: bool = True, default_map: str = "libero") -> None:
    """The files, --source, --key_map, --views, --instruction and pairs KEY VALUE; with `proprio` also --proprio.

    default_map: what the help says that the tool takes without --key_map.
    """
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE_OR_FOLDER", help="demonstrations: what DATA.FILES lists")
    add("--source", choices=SOURCES, help="kind of data, DATA.SOURCE (default: the one that the files look like)")
    add("--key_map", metavar="NAME_OR_PATH", help=f"layout of HDF5 files, DATA.KEY_MAP (default: {default_map})")
    add("--views", nargs="+", metavar="VIEW", help="cameras to take, DATA.VIEWS (default: all that the data has)")
    if proprio:
        add("--proprio", nargs="+", metavar="PART", help="parts of the robot's state, DATA.PROPRIO (default: none)")
    add("--instruction", metavar="TEXT", help="what every demo does, DATA.INSTRUCTION (default: as the data says)")
    parser.add_pairs(SECTIONS, help="any other key of a recipe, such as ACTION.MODE delta")


def chosen_data(args: argparse.Namespace, **action: int) -> CfgNode:
    """The config tree of these options: all cameras of the data and actions of its size, unless they say otherwise.

    action: keys of ACTION that the tool decides. BadInput: data that cannot be opened, a key or value that is none.
    """
    parts = getattr(args, "proprio", None)
    given = {"FILES": args.files, "SOURCE": args.source or source_that_fits(args.files)}
    given |= {"KEY_MAP": args.key_map, "INSTRUCTION": args.instruction, "PROPRIO": parts}
    data = {key: value for key, value in given.items() if value}
    facts = find_source(data["SOURCE"]).look(data_cfg({"DATA": data}, "command line", args.opts))
    views = list(dict.fromkeys(args.views)) if args.views else list(facts.cameras)
    tree = {"DATA": {**data, "VIEWS": views}, "ACTION": {"DIM": facts.action_dim, **action}}
    needs = [part for pair in facts.needs.items() for part in pair]
    return data_cfg(tree, "command line", [*needs, *args.opts])


def other_data(cfg: CfgNode, files: Sequence[Path], source: str | None, key_map: str | None) -> CfgNode:
    """The tree of a trained policy with other files to be read as its data: all of them, whatever it was trained on.

    source, key_map: None: what the files look like, the policy's own.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATA.FILES, cfg.DATA.SOURCE = [str(path) for path in files], source or source_that_fits(files)
    cfg.DATA.MIX = []
    cfg.DATA.KEY_MAP, cfg.DATA.STATS, cfg.DATA.MAX_DEMOS = key_map or cfg.DATA.KEY_MAP, "", 0
    cfg.freeze()
    return cfg
