"""What is in LeRobot data sets, set by set: what a run would read of them, and what is wrong with them."""

import argparse
import sys
from collections.abc import Iterator, Sequence

from libs.errors import BadInput
from libs.lerobot_data import Fact, Layout, check_set, read_layout, read_rows, suggest
from rv_train.data.lerobot import find_sets
from tools.inspection import anything
from tools.inspection.text import Outcome, pair, row

# Kinds of facts that change nothing for a run here: it leaves out empty episodes and computes its own statistics.
HARMLESS = ("empty", "statistics")


def inspect(args: argparse.Namespace, entries: Sequence[str], verified: bool) -> Outcome:
    """Print what is in sets, folders of sets and sets of the hub; those that cannot be opened are reported, too.

    args: of `tools.data_options`. verified: look at every picture, and count what is wrong. BadInput where there is no
    such set.
    """
    shows, problems, unreadable, pictures = [], 0, False, []
    for path in find_sets(entries):
        one = argparse.Namespace(**{**vars(args), "source": "lerobot", "files": [str(path)]})
        lines = []
        try:
            layout = read_layout(path)
            facts = check_set(layout, read_rows(layout, list(layout.vectors)), decode=verified)
            lines = list(lines_of(layout, facts))
            found = anything.inspect(one, verified, lines)
        except BadInput as error:
            print("\n".join([str(path), *lines]), flush=True)
            print(f"error: {error}", file=sys.stderr, flush=True)
            unreadable = True
            continue
        shows += found.shows
        problems += found.problems + sum(fact.kind not in HARMLESS for fact in facts) * verified
        pictures += found.pictures or ()
    return Outcome(shows, problems, unreadable, pictures if verified else None)


def lines_of(layout: Layout, facts: Sequence[Fact]) -> Iterator[str]:
    """What only a LeRobot set has to be said of it: a last line of a recipe, its version, and what is wrong."""
    state = suggest(layout)["proprio"]
    if state:
        yield row("", f"{pair('DATA.PROPRIO', state)}  # where the policy is given the robot's state")
    yield row("set", f"LeRobot {layout.version}, robot {layout.robot or 'not stated'}, {len(layout.episodes)} episodes")
    for camera in layout.cameras.values():
        yield row("", f"{camera.name}: {camera.kind}")
    for name, vector in layout.vectors.items():
        yield row("", f"{name}: {', '.join(vector.names)}")
    for fact in facts:
        yield row("harmless" if fact.kind in HARMLESS else "wrong", fact.text)
