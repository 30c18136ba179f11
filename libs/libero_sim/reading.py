"""An episode that begins as one task and is asked for another: what was asked for, what moved first, what was reached.

What counts as moved is a thing of THING_STEP, or a PART_SHARE of a part's way, from where it was when the episode began
(objects at rest, see `settle`): an object in any direction, upwards too; a drawer, door or knob along its joint. The
limit of a drawer lies below that of an object, so a drawer that is pulled moves before the bowl in it.
"""

from collections.abc import Sequence

import numpy as np

from libs.libero_sim.env import LiberoEnv
from libs.libero_sim.experts import skill_of
from libs.libero_sim.experts.scene import Scene
from libs.libero_sim.experts.skill import next_goal
from libs.libero_sim.questions import questions
from libs.libero_sim.suites import LiberoTask

THING_STEP = 0.02  # metres
PART_SHARE = 0.1  # of the way between the middles of "open" and "close", or of "on" and "off": 15 mm of a drawer


class ReadingEnv:
    """A LiberoEnv whose goal is another task's, see `questions`; its `step` tells facts of the episode so far:

    asked_for: the things that the expert would move first for the asked goals, one per goal: the object, or the drawer,
    door or knob. first_moved: the thing that moved first, of several in one step the one that moved furthest beyond
    its limit; first_moved_step: in which step, from 1. None: nothing moved. reached: [{"task_id", "step"}, ...] of the
    suite's tasks whose goals did not hold at the beginning and came to hold, in this order.
    """

    def __init__(self, task: LiberoTask, resolution: int, render: str) -> None:
        self._questions = questions(task)
        self.env = LiberoEnv(task, resolution, render)

    def reset(self, seed: int, init_state: np.ndarray, asked: int) -> None:
        """asked: the task of the suite whose goal this episode has."""
        self._asked = asked
        self.env.reset(seed, init_state)

    def settle(self, steps: int, views: Sequence[str]) -> dict:
        observation = self.env.settle(steps, views)
        self._watch = Watch(Scene(self.env), things_of(self.env), self._questions)
        self._asked_for = first_things(Scene(self.env), self._questions[self._asked])
        return observation

    def step(self, action: np.ndarray, views: Sequence[str]) -> tuple[dict, bool, dict]:
        """The observation, whether the asked goal came to hold in the episode so far, and the facts."""
        observation, _ = self.env.step(action, views)
        self._watch.look()
        facts = {"asked_for": self._asked_for, **self._watch.facts()}
        return observation, self._asked in self._watch.reached, facts

    def close(self) -> None:
        self.env.close()


class Watch:
    """Looks on from the beginning of an episode on, once a step.

    scene: its present state, see Scene; things: names of what may move, True for a part with a joint;
    questions: {task id: goals}.
    """

    def __init__(self, scene: Scene, things: dict[str, bool], questions: dict[int, list[tuple]]) -> None:
        self._scene, self._questions = scene, questions
        self._limits = {name: part_limit(scene, name) if is_part else THING_STEP for name, is_part in things.items()}
        self._things = things
        self._begin = {name: self._position(name) for name in things}
        self._left = [task_id for task_id in questions if not self._holds(task_id)]
        self._step = 0
        self.first_moved: tuple[str, int] | None = None
        self.reached: dict[int, int] = {}  # task id -> step

    def look(self) -> None:
        self._step += 1
        if self.first_moved is None:
            moved = {name: self._moved(name) for name in self._things}
            most = max(moved, key=moved.__getitem__)
            if moved[most] > 1.0:
                self.first_moved = most, self._step
        for task_id in self._left:
            if task_id not in self.reached and self._holds(task_id):
                self.reached[task_id] = self._step

    def facts(self) -> dict:
        name, step = self.first_moved or (None, None)
        reached = [{"task_id": task_id, "step": when} for task_id, when in self.reached.items()]
        return {"first_moved": name, "first_moved_step": step, "reached": reached}

    def _position(self, name: str) -> np.ndarray:
        """(3,) of an object, (1,) of a part."""
        if self._things[name]:
            return np.array([self._scene.joint(name).position])
        return self._scene.body_position(name)

    def _moved(self, name: str) -> float:
        """How far it is from where it was, in limits."""
        return float(np.linalg.norm(self._position(name) - self._begin[name])) / self._limits[name]

    def _holds(self, task_id: int) -> bool:
        return all(self._scene.holds(goal) for goal in self._questions[task_id])


def things_of(env: LiberoEnv) -> dict[str, bool]:
    """What may move in the scene: objects (False), and drawers, doors and knobs (True) under the names of goals."""
    inner = env.robosuite_env
    regions = {name: site.parent_name for name, site in inner.object_sites_dict.items() if site.joints}
    drawers = {name for name, owner in regions.items() if owner in inner.fixtures_dict and _states(env, owner)}
    with_drawers = {regions[name] for name in drawers}
    parts = [name for name in inner.fixtures_dict if _states(env, name) and name not in with_drawers]
    return dict.fromkeys(inner.objects_dict, False) | dict.fromkeys([*sorted(drawers), *parts], True)


def part_limit(scene: Scene, name: str) -> float:
    """How far a drawer, door or knob moves before it counts, in metres or radians."""
    first, second = (float(np.mean(ends)) for ends in scene.joint_ranges(name))
    return PART_SHARE * abs(first - second)


def first_things(scene: Scene, goals: list[tuple]) -> list[str]:
    """What the expert moves first for each goal alone, each thing once: a drawer that is shut before what goes in."""
    return list(dict.fromkeys((next_goal(scene, [goal], skill_of) or goal)[1] for goal in goals))


def _states(env: LiberoEnv, fixture: str) -> dict:
    """The named ranges of the joints of a fixture that has any."""
    thing = env.robosuite_env.fixtures_dict[fixture]
    return getattr(thing, "object_properties", {}).get("articulation", {}) if thing.joints else {}
