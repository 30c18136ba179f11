"""Scripted experts: they solve tasks with the simulator's exact poses and so provide demonstrations.

An expert is a generator of actions; the caller steps the env after each:

    for action in expert_actions(env, rng):
        observation, success = env.step(action)
        if success:
            break

Experts are registered by what they bring about: the goal predicate and the kind of its last argument.
"""

import re

from libs.errors import BadInput
from libs.libero_sim.experts.goals import read_goals
from libs.libero_sim.experts.pick_and_place import place_in
from libs.libero_sim.experts.scene import Scene
from libs.libero_sim.suites import get_task, num_tasks

# (predicate, kind of target) -> generator function (scene, *arguments of the predicate)
EXPERTS = {
    ("in", "basket_contain_region"): place_in,
}


def has_expert(task):
    """Whether every goal of a LiberoTask has an expert."""
    return all(_key(goal) in EXPERTS for goal in read_goals(task.bddl_file))


def expert_tasks(suite, task_ids):
    """The tasks of a suite numbered in "0,3", or, for "all", every one with an expert.

    BadInput for other text, for a number that does not exist or that has no expert, and for none at all.
    """
    if task_ids == "all":
        tasks = [task for task in (get_task(suite, i) for i in range(num_tasks(suite))) if has_expert(task)]
        if not tasks:
            raise BadInput(f"no task of {suite} has a scripted expert")
        return tasks
    try:
        numbers = dict.fromkeys(int(part) for part in task_ids.split(","))
    except ValueError:
        raise BadInput(f'--task_ids {task_ids!r} is neither "all" nor a list of task numbers such as 0,3') from None
    tasks = [get_task(suite, number) for number in numbers]
    for task in tasks:
        if not has_expert(task):
            raise BadInput(f"{suite} task {task.task_id} ({task.name}) has no scripted expert")
    return tasks


def expert_actions(env, rng):
    """Yield actions (7,) float64 that solve env.task from the env's present state.

    env: a LiberoEnv, after its reset (and settling); each action depends on its state at that moment.
    rng: np.random.Generator for experts that vary what they do; the present ones do not.
    BadInput, listing what exists, for a task without an expert.
    """
    goals = read_goals(env.task.bddl_file)
    for goal in goals:
        if _key(goal) not in EXPERTS:
            known = ", ".join(" ".join(key) for key in EXPERTS)
            raise BadInput(
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
