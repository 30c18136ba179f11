"""Which instruction goes with a demonstration file of LIBERO's.

LIBERO has two for some of its tasks: the name of the task, and so of the file, says "pick up the black bowl ...", the
BDDL file, and so what the demonstration file states, "Pick the akita black bowl ...". At evaluation its benchmark
states the name's, and a policy should be trained on what it will be told.
"""

import functools
import re
from pathlib import Path, PurePosixPath

# LIBERO's 130 tasks by their names, which need not be installed here: a line each.
_NAMES = Path(__file__).with_name("libero_tasks.txt")
# Suites whose tasks are called as LIBERO's own but state another instruction at evaluation: the BDDL file's.
MIN_WORDS = 3  # of a file's name that may be an instruction
INSTRUCTION_IN_BDDL = ("_lan", "_task", "_study_table")


@functools.lru_cache
def libero_tasks() -> frozenset:
    """The names of LIBERO's own tasks."""
    return frozenset(_NAMES.read_text().split())


def text_of_name(path: Path | str) -> str:
    """What a file's name says: "KITCHEN_SCENE2_open_the_top_drawer_demo.hdf5" -> "open the top drawer"."""
    name = Path(path).stem.removesuffix("_demo")
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ")


def named_text(path: Path | str, bddl_file_name: object = None) -> str:
    """What a file's name says where nothing else states an instruction: of LIBERO's way, NAME_demo.hdf5 with
    MIN_WORDS words or more; "" for any other name, and where its suite states the BDDL file's text."""
    if not Path(path).stem.endswith("_demo") or evaluated_with_bddl_text(bddl_file_name):
        return ""
    text = text_of_name(path)
    return text if len(text.split()) >= MIN_WORDS else ""


def benchmark_text(path: Path | str, bddl_file_name: object) -> str:
    """What LIBERO's benchmark states at evaluation of the task that a demonstration file is named after.

    bddl_file_name: the attribute of `data`, None where there is none. "" where the file is not named after one of
    LIBERO's tasks, or its suite states the BDDL file's text.
    """
    known = Path(path).stem.removesuffix("_demo") in libero_tasks() and not evaluated_with_bddl_text(bddl_file_name)
    return text_of_name(path) if known else ""


def evaluated_with_bddl_text(bddl_file_name: object) -> bool:
    """Whether that attribute, a path .../SUITE/NAME.bddl, names a suite of INSTRUCTION_IN_BDDL."""
    suite = PurePosixPath(bddl_file_name).parent.name if isinstance(bddl_file_name, str) else ""
    return suite.endswith(INSTRUCTION_IN_BDDL)


def same_text(one: str, other: str) -> bool:
    """Whether two instructions differ in capitals, spaces and punctuation at most."""
    return _words(one) == _words(other)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
