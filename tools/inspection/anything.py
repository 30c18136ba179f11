"""What is in demonstrations of any kind, as a run would read them, and how a recipe names them."""

import argparse
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from yacs.config import CfgNode

from libs.action_text import is_constant
from libs.errors import BadInput
from rv_train.data import checks
from rv_train.data.base import Demonstrations, Facts
from rv_train.data.load import open_data
from rv_train.data.sources import find_source
from tools.data_options import chosen_data
from tools.inspection.text import Outcome, lengths_text, names_of, pair, row, table

MANY = 5  # instructions that are listed


def inspect(args: argparse.Namespace, verified: bool, more: Iterable[str] = ()) -> Outcome:
    """Print what is in the data that options of `tools.data_options` choose.

    verified: read every picture, and say what a starting run would refuse or remark. more: lines to go behind.
    BadInput where data cannot be opened.
    """
    cfg = chosen_data(args)
    facts, data = find_source(cfg.DATA.SOURCE).look(cfg), open_data(cfg)
    lines = [", ".join(map(str, args.files)), *summary(cfg, facts, data), *more]
    print("\n".join(lines), flush=True)
    pictures = picture_problems(data) if verified else None
    problems = [] if pictures is None else verify(data, pictures)
    for line in problems:
        print(f"    {line}")
    print()
    return Outcome([Played(data)], len(problems), False, pictures)


class Played:
    """`Demonstrations` for `tools.inspection.video`."""

    def __init__(self, data: Demonstrations) -> None:
        self.lengths = [len(rows.actions) for rows in data.demos]
        self.name, self.rate, self._data = data.files[0].path.name, data.facts.rate, data

    def frame(self, number: int, t: int) -> tuple[dict[str, np.ndarray], str, str]:
        """See `Show`."""
        sample = self._data[self._data.index(number, t)]
        return dict(zip(self._data.views, sample.views, strict=True)), sample.instruction, sample.demo


def summary(cfg: CfgNode, facts: Facts, data: Demonstrations) -> Iterator[str]:
    """The lines that describe data, and the pairs KEY VALUE of a recipe that reads it."""
    actions = np.concatenate([rows.actions for rows in data.demos])
    goals = data.instructions
    known = actions[~np.isnan(actions).any(axis=1)]  # digits may be hidden
    fixed = []
    if len(known):
        still = is_constant(known.min(axis=0), known.max(axis=0))
        names = names_of(actions.shape[1], facts.action_names)
        fixed = [str(name) for name, one in zip(names, still, strict=True) if one]
    sizes = data.facts.cameras
    rows = {
        "kind": cfg.DATA.SOURCE,
        "files": len(data.files),
        "instructions": f"{len(goals)}: {'; '.join(goals[:MANY])}{'; ...' if len(goals) > MANY else ''}",
        "demos": len(data.demos),
        "frames": lengths_text([len(demo.actions) for demo in data.demos]),
        "views": ", ".join(f"{name} {' x '.join(map(str, sizes[name] or ()))}" for name in data.views),
        "render": data.render,
        "rate": f"{data.facts.rate:g} frames a second" if data.facts.rate else "not stated",
        "proprio": ", ".join(f"{part} ({size})" for part, size in facts.proprio.items()) or "none",
    }
    yield from (row(name, value) for name, value in rows.items())
    if fixed:
        yield row("never change", f"actions {', '.join(fixed)}")
    yield from table(known, facts.action_names) if len(known) else [row("actions", "each hides a digit (X)")]
    wanted = {"SOURCE": cfg.DATA.SOURCE, "FILES": list(cfg.DATA.FILES), "VIEWS": data.views}
    more = {"ACTION.DIM": facts.action_dim, **facts.needs}
    pairs = {**{f"DATA.{name}": value for name, value in wanted.items()}, **more}
    for number, (key, value) in enumerate(pairs.items()):
        yield row("" if number else "recipe", pair(key, value))


def verify(data: Demonstrations, pictures: Sequence[str]) -> list[str]:
    """Print remarks; what is wrong, a line each. pictures: what `picture_problems` found."""
    problems, remarks = findings(data, pictures)
    for line in remarks:
        print(row("remark", line))
    print(row("verified", f"{len(problems)} problems" if problems else "no problems"))
    return problems


def picture_problems(data: Demonstrations) -> list[str]:
    """Read every picture; a line for each that cannot be."""
    problems = []
    for index in range(len(data)):
        try:
            data[index]
        except BadInput as error:
            problems.append(str(error))
    return problems


def findings(data: Demonstrations, pictures: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what is wrong with data, what should be known of it): lines. pictures: what is wrong with its pictures."""
    problems = []
    if not data.written_with:
        problems += [*checks.number_problems(data.demos), *checks.motion_problems(data.demos)]
        low, high = (getattr(np.concatenate([demo.actions for demo in data.demos]), name)(0) for name in ("min", "max"))
        remarks = [*checks.constant_dims({"min": low.tolist(), "max": high.tolist()})]
        remarks += checks.demo_remarks(data, low, high, checks.USUAL_BINS)
    else:
        remarks = data.remarks()
    return [*problems, *pictures], remarks
