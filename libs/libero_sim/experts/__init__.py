"""Scripted experts: they solve tasks with the simulator's exact poses and so provide demonstrations.

An expert is a generator of actions; the caller steps the env after each:

    for action in expert_actions(env, rng):
        observation, success = env.step(action)
        if success:
            break

It strings skills together. Skills are registered in EXPERTS by what they bring about: the goal predicate and the
kind of its last argument; skill.py says how to add one and how their order is found.
"""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from libs.errors import BadInput
from libs.libero_sim.experts.approach import withdraw
from libs.libero_sim.experts.articulated import close_part, handle_points, open_part, part_points, turn_on
from libs.libero_sim.experts.cavity import put_through_door
from libs.libero_sim.experts.goals import Goal, read_goals
from libs.libero_sim.experts.insert import insert
from libs.libero_sim.experts.pick_and_place import place_in, place_inside, place_on
from libs.libero_sim.experts.push import push_onto
from libs.libero_sim.experts.rack import lay_on
from libs.libero_sim.experts.scene import Scene
from libs.libero_sim.experts.skill import Skill, low_first, next_goal, order_goals
from libs.libero_sim.suites import LiberoTask, get_task, num_tasks
from libs.robosuite_sim.experts.motion import OPEN, hold

if TYPE_CHECKING:
    import numpy as np

    from libs.libero_sim.env import LiberoEnv


_DRAWERS = [
    f"{name}_{level}_region" for name in ("wooden_cabinet", "white_cabinet") for level in ("top", "middle", "bottom")
]
_OPEN = Skill(open_part, handle_points, carries=False)
_STORE = Skill(place_inside, needs=lambda obj, drawer: (("open", drawer),))
_CLOSE = Skill(close_part, part_points, carries=False, undoes=lambda name: (("open", name),))

# (predicate, kind of its last argument) -> Skill; a number in the argument's name does not count
EXPERTS = {
    ("in", "basket_contain_region"): Skill(place_in),
    ("on", "plate"): Skill(place_on),
    ("on", "akita_black_bowl"): Skill(place_on),
    ("on", "flat_stove_cook_region"): Skill(place_on),
    ("on", "wooden_cabinet_top_side"): Skill(place_on),
    ("on", "living_room_table_plate_right_region"): Skill(place_on),
    ("on", "main_table_stove_front_region"): Skill(push_onto, carries=False),
    ("on", "wine_rack_top_region"): Skill(lay_on),
    ("in", "desk_caddy_back_contain_region"): Skill(insert),
    ("turnon", "flat_stove"): Skill(turn_on, part_points, carries=False),
    ("in", "microwave_heating_region"): Skill(put_through_door),
    ("close", "microwave"): _CLOSE,
    **{("open", drawer): _OPEN for drawer in _DRAWERS},
    **{("in", drawer): _STORE for drawer in _DRAWERS},
    **{("close", drawer): _CLOSE for drawer in _DRAWERS},
}

# LIBERO-PRO's kinds of another colour or size, and those that they are handled like
_LIKE = {
    "red_basket": "basket",
    "yellow_plate": "plate",
    "bigger_akita_black_bowl": "akita_black_bowl",
    "yellow_cabinet": "wooden_cabinet",
    "yellow_stove": "flat_stove",
    "brown_rack": "wine_rack",
}


def has_expert(task: LiberoTask) -> bool:
    """Whether every goal of a LiberoTask, and what it needs, has an expert."""
    return _missing(read_goals(task.bddl_file)) is None


def expert_tasks(suite: str, task_ids: Iterable[int] | None) -> list[LiberoTask]:
    """The tasks of a suite with these numbers, each once; None: every one with an expert.

    BadInput for a number that does not exist or that has no expert, and where no task of the suite has one.
    """
    if task_ids is None:
        tasks = [task for task in (get_task(suite, i) for i in range(num_tasks(suite))) if has_expert(task)]
        if not tasks:
            raise BadInput(f"no task of {suite} has a scripted expert")
        return tasks
    tasks = [get_task(suite, number) for number in dict.fromkeys(task_ids)]
    for task in tasks:
        if not has_expert(task):
            raise BadInput(f"{suite} task {task.task_id} ({task.name}) has no scripted expert")
    return tasks


def expert_actions(env: "LiberoEnv", rng: "np.random.Generator") -> "Iterator[np.ndarray]":
    """Yield actions (7,) float64 that solve env.task from the env's present state.

    env: a LiberoEnv, after its reset (and settling); each action depends on its state at that moment.
    rng: np.random.Generator for experts that vary what they do; the present ones do not.
    BadInput, listing what exists, for a task without an expert.
    """
    scene = Scene(env)
    return _solve(scene, _ordered_goals(env.task, scene))


def first_reach(env: "LiberoEnv") -> "np.ndarray":
    """World points (N, 3) of what the expert of env.task goes to first in the present state."""
    scene = Scene(env)
    goals = _ordered_goals(env.task, scene)
    goal = next_goal(scene, goals, skill_of) or goals[0]
    return skill_of(goal).reach(scene, *goal[1:])


def skill_of(goal: Goal) -> Skill:
    """The Skill that brings about a goal; KeyError if there is none."""
    return EXPERTS[_key(goal)]


def _solve(scene, goals):
    while goal := next_goal(scene, goals, skill_of):
        action = None
        for action in _act(scene, goal):
            yield action
        if action is None:  # nothing to do but to wait: what was let go still falls
            yield hold(OPEN)


def _act(scene, goal):
    """What a skill does; a hand that is still around a handle backs out before it picks something up."""
    skill = skill_of(goal)
    if skill.carries and not scene.is_grasped(goal[1]):
        yield from withdraw(scene, goal[1])
    yield from skill.act(scene, *goal[1:])


def _ordered_goals(task, scene):
    goals = read_goals(task.bddl_file)
    missing = _missing(goals)
    if missing:
        known = ", ".join(" ".join(key) for key in EXPERTS)
        raise BadInput(
            f"no scripted expert for the goal {' '.join(missing)!r} of task {task.name!r}; "
            f"there are experts for: {known}"
        )
    return order_goals(low_first(goals, skill_of, scene.height), skill_of)


def _missing(goals):
    """The first goal without a skill among these and what they need, or None."""
    for goal in goals:
        if _key(goal) not in EXPERTS:
            return goal
        missing = _missing(skill_of(goal).needs(*goal[1:]))
        if missing:
            return missing
    return None


def _key(goal):
    """("in", "milk_1", "basket_1_contain_region") -> ("in", "basket_contain_region")."""
    kind = re.sub(r"_\d+(?=_|$)", "", goal[-1])
    return goal[0], re.sub("|".join(_LIKE), lambda match: _LIKE[match[0]], kind)
