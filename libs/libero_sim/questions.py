"""Which of a suite's instructions can be asked for in the scene of another of its tasks, and what they mean there.

Read from the BDDL files, without starting the simulator. A goal is a tuple as `read_goals` gives it.
"""

from dataclasses import dataclass
from pathlib import Path

from libs.libero_sim.experts.goals import read_goals, read_tree
from libs.libero_sim.suites import LiberoTask, get_task, num_tasks


@dataclass(frozen=True)
class Problem:
    """A scene as its BDDL file describes it.

    kinds: {object or fixture: its kind}. places: {object: the relation and the thing or region it begins at}.
    regions: {region: (what it belongs to, its corners on a table or floor)}.
    """

    kinds: dict[str, str]
    places: dict[str, tuple[str, ...]]
    regions: dict[str, tuple[str, str]]

    def alike(self, name: str) -> list[str]:
        """Everything of the same kind as an object or fixture, itself as well."""
        return [other for other, kind in self.kinds.items() if kind == self.kinds[name]]

    def place(self, name: str) -> tuple:
        """Where an object begins: the same for the same place of another scene."""
        return tuple((word, *self.regions.get(word, ())) for word in self.places.get(name, ()))


def questions(start: LiberoTask) -> dict[int, list[tuple]]:
    """{task id: its goals}, in the names of the start's scene, of all tasks of the suite that can be asked for there.

    An object that is the only one of its kind in both scenes is the same one. Of several alike it is the one that
    begins in the scene of `start` where the other task's begins in its own: the bowl next to the ramekin. A task for
    which there is none cannot be asked for.
    """
    scene, found = read_problem(start.bddl_file), {}
    for task_id in range(num_tasks(start.suite)):
        asked = get_task(start.suite, task_id)
        wanted = read_goals(asked.bddl_file)
        goals = [_translated(goal, read_problem(asked.bddl_file), scene) for goal in wanted]
        known = [goal for goal in goals if goal is not None]
        if len(known) == len(wanted):
            found[task_id] = known
    return found


def read_problem(bddl_file: str) -> Problem:
    sections = {section[0]: section[1:] for section in read_tree(Path(bddl_file).read_text())[1:]}
    kinds = _typed(sections[":fixtures"]) | _typed(sections[":objects"])
    regions = {}
    for name, *about in sections[":regions"]:
        entries = {entry[0]: entry[1:] for entry in about}
        owner = entries[":target"][0]
        regions[f"{owner}_{name}"] = owner, repr(entries.get(":ranges"))
    placements = [state for state in sections[":init"] if len(state) == 3]
    return Problem(kinds, {thing: (relation.lower(), where) for relation, thing, where in placements}, regions)


def _typed(words: list[str]) -> dict[str, str]:
    """["a", "b", "-", "bowl", "c", "-", "plate"] -> {"a": "bowl", "b": "bowl", "c": "plate"}."""
    kinds: dict[str, str] = {}
    names: list[str] = []
    left = iter(words)
    for word in left:
        if word == "-":
            kinds |= dict.fromkeys(names, next(left))
            names = []
        else:
            names.append(word)
    return kinds


def _translated(goal: tuple, asked: Problem, scene: Problem) -> tuple | None:
    names = [_counterpart(name, asked, scene) for name in goal[1:]]
    return None if None in names else (goal[0], *names)


def _counterpart(name: str, asked: Problem, scene: Problem) -> str | None:
    """What a name of one scene is called in another; None if it is not there."""
    if name in asked.regions:
        owner, corners = asked.regions[name]
        there = _counterpart(owner, asked, scene)
        region = f"{there}{name.removeprefix(owner)}"
        return region if scene.regions.get(region) == (there, corners) else None
    those = [other for other, kind in scene.kinds.items() if kind == asked.kinds[name]]
    if len(those) > 1 or len(asked.alike(name)) > 1:
        those = [other for other in those if scene.place(other) == asked.place(name)]
    return those[0] if len(those) == 1 else None
