"""Which instructions can be asked for where, and what is told of an episode that is asked for another task's goal."""

import numpy as np
import pytest

from libs.libero_sim import get_task, init_states
from libs.libero_sim.experts import expert_actions
from libs.libero_sim.questions import questions, read_problem
from libs.libero_sim.reading import THING_STEP, ReadingEnv, Watch, part_limit

# libero_spatial: start -> the task whose instruction names the bowl that its own does not mean.
OTHER_BOWL = {0: 1, 1: 6, 2: 8, 3: 9, 4: 9, 5: 3, 6: 7, 7: 9, 8: 1, 9: 7}
BOWLS = {name: slice(10 + 7 * i, 13 + 7 * i) for i, name in enumerate(("akita_black_bowl_1", "akita_black_bowl_2"))}


@pytest.mark.libero
def test_libero_goal_is_one_scene():
    own = {task_id: questions(get_task("libero_goal", task_id))[task_id] for task_id in range(10)}
    assert own[7] == [("turnon", "flat_stove_1")] and own[6] == [("on", "cream_cheese_1", "akita_black_bowl_1")]
    for start in range(10):
        assert questions(get_task("libero_goal", start)) == own


@pytest.mark.libero
def test_the_other_bowl_of_libero_spatial_is_the_one_that_an_instruction_names():
    for start, other in OTHER_BOWL.items():
        found = questions(get_task("libero_spatial", start))
        assert found == {
            start: [("on", "akita_black_bowl_1", "plate_1")],
            other: [("on", "akita_black_bowl_2", "plate_1")],
        }


@pytest.mark.libero
@pytest.mark.parametrize("start, other", OTHER_BOWL.items())
def test_that_bowl_stands_where_the_instruction_says(start, other):
    """In the init states of both tasks, as far as a place allows (a bowl is 11 cm wide)."""
    here, there = (init_states(get_task("libero_spatial", task_id)) for task_id in (start, other))
    assert here.shape[1] == there.shape[1], "the same things in the same order"
    places = here[:, BOWLS["akita_black_bowl_2"]], there[:, BOWLS["akita_black_bowl_1"]]
    assert np.abs(np.mean(places[0], 0) - np.mean(places[1], 0)).max() < 0.03
    assert np.linalg.norm(np.mean(places[0], 0) - np.mean(here[:, BOWLS["akita_black_bowl_1"]], 0)) > 0.1


@pytest.mark.libero
def test_only_what_stands_in_a_scene_is_asked_for():
    found = questions(get_task("libero_object", 0))
    assert found[7] == [("in", "milk_1", "basket_1_contain_region")] and 9 not in found, "no orange juice"
    assert set(questions(get_task("libero_10", 2))) == {2}
    problem = read_problem(get_task("libero_spatial", 0).bddl_file)
    assert problem.alike("akita_black_bowl_2") == ["akita_black_bowl_1", "akita_black_bowl_2"]
    assert problem.kinds["main_table"] == "table" and problem.regions["flat_stove_1_cook_region"][0] == "flat_stove_1"


class Drawer:
    def __init__(self, position):
        self.position = position


class FakeScene:
    """A bowl and a drawer that a test moves."""

    def __init__(self):
        self.bowl, self.drawer, self.true = np.zeros(3), 0.0, {("on", "bowl", "table")}

    def body_position(self, name):
        return self.bowl.copy()

    def joint(self, name):
        return Drawer(self.drawer)

    def joint_ranges(self, name):
        return [(-0.16, -0.14), (0.0, 0.01)]

    def holds(self, goal):
        return goal in self.true


QUESTIONS = {
    3: [("on", "bowl", "table")],
    4: [("on", "bowl", "plate")],
    5: [("open", "drawer"), ("on", "bowl", "plate")],
    6: [("open", "drawer")],
}


def watched():
    scene = FakeScene()
    return scene, Watch(scene, {"bowl": False, "drawer": True}, QUESTIONS)


def test_what_moved_first():
    scene, watch = watched()
    scene.bowl[:] = 0.0, 0.0, 0.019
    watch.look()
    assert watch.facts() == {"first_moved": None, "first_moved_step": None, "reached": []}
    scene.bowl[2] = 0.021
    watch.look()
    scene.drawer = -0.1
    watch.look()
    assert (watch.facts()["first_moved"], watch.facts()["first_moved_step"]) == ("bowl", 2)


def test_a_drawer_that_is_pulled_moves_before_what_is_in_it():
    scene, watch = watched()
    assert part_limit(scene, "drawer") == pytest.approx(0.0155) and part_limit(scene, "drawer") < THING_STEP
    for _ in range(8):
        scene.drawer -= 0.006
        scene.bowl[0] += 0.006
        watch.look()
    assert (watch.facts()["first_moved"], watch.facts()["first_moved_step"]) == ("drawer", 3)


def test_goals_that_came_to_hold_in_their_order():
    scene, watch = watched()
    watch.look()
    scene.true = {("open", "drawer")}
    watch.look()
    scene.true = {("on", "bowl", "table"), ("on", "bowl", "plate")}  # the drawer is shut again
    watch.look()
    assert watch.facts()["reached"] == [{"task_id": 6, "step": 2}, {"task_id": 4, "step": 3}], "3 held at the beginning"
    scene.true.add(("open", "drawer"))
    watch.look()
    assert watch.facts()["reached"][2:] == [{"task_id": 5, "step": 4}], "all goals of a task at once"


@pytest.mark.sim
@pytest.mark.libero
def test_an_expert_that_does_something_else_than_it_was_asked():
    start = get_task("libero_goal", 1)  # the bowl on the stove
    env = ReadingEnv(start, 32, "fast")
    try:
        env.reset(7, init_states(start)[0], 3)
        env.settle(10, ())
        _, success, facts = env.step(np.zeros(7), ())
        shut = "wooden_cabinet_1_top_region"
        assert not success and facts["asked_for"] == [shut], "opened before the bowl goes in"
        env.reset(7, init_states(start)[0], 6)
        env.settle(10, ())
        for action in expert_actions(env.env, np.random.default_rng(0)):
            _, success, facts = env.step(action, ())
            assert not success, "the cream cheese is not in the bowl"
            if facts["reached"]:
                break
        assert facts["asked_for"] == ["cream_cheese_1"] and facts["first_moved"] == "akita_black_bowl_1"
        assert [goal["task_id"] for goal in facts["reached"]] == [1]
        assert 0 < facts["first_moved_step"] < facts["reached"][0]["step"] <= start.max_steps
    finally:
        env.close()
