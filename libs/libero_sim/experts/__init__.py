"""Scripted experts: they solve tasks with the simulator's exact poses and so provide demonstrations.

An expert is a generator of actions; the caller steps the env after each:

    for action in expert_actions(env, rng):
        observation, success = env.step(action)
        if success:
            break

Experts are registered by what they bring about: the goal predicate and the kind of its last argument.
"""

import re

from libs.libero_sim.experts.goals import read_goals
from libs.libero_sim.experts.pick_and_place import place_in
from libs.libero_sim.experts.scene import Scene

# (predicate, kind of target) -> generator function (scene, *arguments of the predicate)
EXPERTS = {
    ("in", "basket_contain_region"): place_in,
}


def has_expert(task):
    """Whether every goal of a LiberoTask has an expert."""
    return all(_key(goal) in EXPERTS for goal in read_goals(task.bddl_file))


def expert_actions(env, rng):
    """Yield actions (7,) float64 that solve env.task from the env's present state.

    env: a LiberoEnv, after its reset (and settling); each action depends on its state at that moment.
    rng: np.random.Generator for experts that vary what they do; the present ones do not.
    ValueError, listing what exists, for a task without an expert.
    """
    goals = read_goals(env.task.bddl_file)
    for goal in goals:
        if _key(goal) not in EXPERTS:
            known = ", ".join(" ".join(key) for key in EXPERTS)
            raise ValueError(
                f"no scripted expert for the goal {' '.join(goal)!r} of task {env.task.name!r}; "
                f"there are experts for: {known}"
            )
    return _solve(Scene(env), goals)


def _solve(scene, goals):
    for goal in goals:
        yield from EXPERTS[_key(goal)](scene, *goal[1:])


def _key(goal):
    """("in", "milk_1", "basket_1_contain_region") -> ("in", "basket_contain_region")."""
    return goal[0], re.sub(r"_\d+(?=_|$)", "", goal[-1])
