"""What a skill is, and in which order the goals of a task are brought about.

A goal is a tuple as `read_goals` gives it: ("in", "milk_1", "basket_1_contain_region").

To add a skill, write a generator function

    def turn_knob(scene, stove):
        while not turned:
            yield steer(...)

that yields actions (7,) from whatever the present state is, and enter it into EXPERTS under the predicate and
the kind of its last argument. What it does next must follow from the state alone, never from what it did before:
it is started in the middle of runs and after pushes. It may return early (the object slipped, the plan is
old): it is called again until LIBERO's own predicate holds. What has to be true before it can work belongs
into `needs`, what it makes untrue into `undoes`; the order of a task's goals follows from these two.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from libs.errors import BadInput
from libs.libero_sim.experts.goals import Goal

if TYPE_CHECKING:
    from libs.libero_sim.experts.scene import Scene


SkillOf = Callable[[Goal], "Skill"]


def _nothing(*arguments):
    return ()


def first_object_points(scene: "Scene", obj: str, *target: str) -> np.ndarray:
    """Where a skill goes first that picks up its first argument: the object's surface, (N, 3)."""
    return scene.points(obj)


@dataclass(frozen=True)
class Skill:
    """How one kind of goal is brought about; every function takes the goal's arguments.

    act(scene, *arguments): yields actions (7,) float64.
    reach(scene, *arguments): world points (N, 3) of what the hand goes to first; varied starts are above them.
    carries: whether the first argument is an object that the hand holds meanwhile: the goal is reached only when
    it has left it again, and what is held already is brought first.
    needs(*arguments): goals that must hold before. undoes(*arguments): goals that no longer hold afterwards.
    """

    act: Callable[..., Iterator[np.ndarray]]
    reach: Callable[..., np.ndarray] = first_object_points
    carries: bool = True
    needs: Callable[..., tuple] = _nothing
    undoes: Callable[..., tuple] = _nothing


def order_goals(goals: Iterable[Goal], skill_of: SkillOf) -> list[Goal]:
    """The goals in an order in which each finds what it needs: one that undoes another's need comes after it.

    skill_of(goal) -> Skill. Goals that do not concern each other keep their order. BadInput for a circle.
    """
    left, ordered = list(goals), []
    while left:
        for goal in left:
            undone = set(skill_of(goal).undoes(*goal[1:]))
            if not any(undone & set(skill_of(other).needs(*other[1:])) for other in left if other is not goal):
                break
        else:
            raise BadInput(f"goals that undo what the others need: {left}")
        ordered.append(goal)
        left.remove(goal)
    return ordered


def low_first(goals: Iterable[Goal], skill_of: SkillOf, height_of: Callable[[str], float]) -> list[Goal]:
    """The goals with low objects before tall ones where several in a row are carried: what is tall stands in the way of
    the hand. height_of(name of an object) -> metres; equals keep their order."""
    ordered: list[Goal] = []
    for carried, row in groupby(goals, key=lambda goal: skill_of(goal).carries):
        together = list(row)
        ordered += sorted(together, key=lambda goal: height_of(goal[1])) if carried else together
    return ordered


def next_goal(scene: "Scene", goals: Iterable[Goal], skill_of: SkillOf) -> Goal | None:
    """The goal to work on in the present state, or None when all hold.

    goals: in their order. What the hand holds is brought first; a goal whose needs do not hold has them first.
    """
    left = [goal for goal in goals if not is_reached(scene, goal, skill_of)]
    held = [goal for goal in left if skill_of(goal).carries and scene.is_grasped(goal[1])]
    for goal in held + left:
        needs = [need for need in skill_of(goal).needs(*goal[1:]) if not scene.holds(need)]
        return next_goal(scene, needs, skill_of) or goal
    return None


def is_reached(scene: "Scene", goal: Goal, skill_of: SkillOf) -> bool:
    """Whether the goal holds and the hand has left the object."""
    return scene.holds(goal) and not (skill_of(goal).carries and scene.is_in_hand(goal[1]))
