"""The goal of a task, read from its BDDL file without starting the simulator."""

import re
from pathlib import Path
from typing import Any

from libs.errors import BadInput

Goal = tuple[str, ...]  # a predicate and what it is about: ("open", "wooden_cabinet_1_top_region")


def read_goals(bddl_file: Path | str) -> list[Goal]:
    """Goal predicates of a BDDL file: a list such as [("in", "milk_1", "basket_1_contain_region")].

    BadInput if the file has no goal, or one that is more than a conjunction.
    """
    text = Path(bddl_file).read_text()
    start = text.find("(:goal")
    if start < 0:
        raise BadInput(f"{bddl_file} has no (:goal ...)")
    goal = read_tree(text[start:])[1]
    predicates = goal[1:] if goal[0].lower() == "and" else [goal]
    if not all(isinstance(word, str) for predicate in predicates for word in predicate):
        raise BadInput(f"{bddl_file} has a goal that is not a plain conjunction: {goal}")
    return [(predicate[0].lower(), *predicate[1:]) for predicate in predicates]


def read_tree(text: str) -> list[Any]:
    """The bracketed expression that BDDL text begins with, as nested lists of words; what follows it is not read."""
    tokens = iter(re.findall(r"[()]|[^\s()]+", text))
    next(tokens)  # its own bracket
    return _read(tokens)


def _read(tokens):
    """The nested lists up to the closing bracket of this level (or the end of the text)."""
    items = []
    for token in tokens:
        if token == ")":
            break
        items.append(_read(tokens) if token == "(" else token)
    return items
