"""Places side by side, slanted shelves, boxes with a door: planning on plain arrays, and one task in the simulator."""

from types import SimpleNamespace

import numpy as np
import pytest

from libs.libero_sim.experts.cavity import open_side, plan_handle
from libs.libero_sim.experts.insert import turn_along
from libs.libero_sim.experts.places import emptiest, side_by_side, within_reach
from libs.libero_sim.experts.rack import lengthwise, slope_place
from libs.libero_sim.experts.scene import Scene
from libs.libero_sim.experts.skill import Skill, low_first
from libs.robosuite_sim.experts.geometry import (
    axis_rotation,
    box_surface,
    cylinder_surface,
    gripper_rotation,
)
from libs.robosuite_sim.experts.grasp import FINGER_BELOW, PALM_ABOVE, lowest_height, plan_grasp, stretch

X, Y, UP = np.eye(3)
NOTHING = np.zeros((0, 3))


def box(half_size, centre):
    return box_surface(half_size) + np.array(centre)


def turned_by(turn):
    angle = np.linalg.norm(turn)
    return axis_rotation(turn / max(angle, 1e-9), angle)


def test_what_is_too_wide_and_has_no_rim_is_taken_by_its_knob():
    body = np.concatenate([box((0.05, 0.05, 0.06), (0.0, 0.0, 0.06)), box((0.045, 0.045, 0.0), (0.0, 0.0, 0.12))])
    knob = box((0.006, 0.006, 0.009), (0.01, 0.0, 0.13))
    grasp = plan_grasp(np.concatenate([body, knob]), NOTHING, 0.0)
    assert np.allclose(grasp.position[:2], [0.01, 0.0])
    assert 0.12 < grasp.position[2] - FINGER_BELOW < 0.139, "the fingertips are at the knob and not on the body"


def test_a_box_with_a_neighbour_at_one_end_is_taken_further_along_and_still_in_its_middle():
    turn = axis_rotation(UP, 0.5)
    flat, can = box((0.04, 0.02, 0.01), (0.0, 0.0, 0.01)), box((0.02, 0.02, 0.05), (-0.04, 0.0, 0.05))
    assert np.allclose(plan_grasp(flat @ turn.T, NOTHING, 0.5 + np.pi / 2).position[:2], 0.0)
    along, across, _ = turn.T @ plan_grasp(flat @ turn.T, can @ turn.T, 0.5 + np.pi / 2).position
    assert along > 0.01 and across == pytest.approx(0.0, abs=0.002)


def test_fingers_that_open_only_as_far_as_needed_go_down_between_walls():
    walls = np.concatenate([box((0.005, 0.1, 0.05), (side * 0.067, 0.0, 0.05)) for side in (-1, 1)])
    assert lowest_height(walls, np.zeros(3), 0.0, 0.04) == pytest.approx(0.1 + FINGER_BELOW, abs=0.01)
    assert lowest_height(walls, np.zeros(3), 0.0, 0.04, opened=0.05) == pytest.approx(0.1 - PALM_ABOVE, abs=0.01)
    assert lowest_height(walls, np.zeros(3), 0.0, 0.04, opened=0.05, slip=0.01) > 0.1, "there is little room"


def test_a_grasp_from_which_the_object_would_fall_far_is_worth_a_turn_to_avoid():
    rings = [(0.03 + 0.4 * z, z) for z in np.linspace(0.0, 0.05, 11)]
    bowl = np.concatenate([cylinder_surface(radius, 0.0, rings=1) + np.array([0.0, 0.0, z]) for radius, z in rings])
    way = np.array([0.0, 0.5, 0.0])
    handle = box((0.2, 0.01, 0.01), (0.0, 0.5 + 0.06, 0.15))  # over the back of the place
    for yaw in np.linspace(0.0, np.pi, 9):
        end = plan_grasp(bowl, handle, yaw, way=way)
        assert lowest_height(handle, end.position + way, end.yaw, 0.0) < 0.1


def test_only_what_is_under_an_object_carries_it():
    names = ["can", "table", "wall", "gripper0_pad"]
    sim = SimpleNamespace(model=SimpleNamespace(geom_id2name=names.__getitem__), data=SimpleNamespace())
    env = SimpleNamespace(sim=sim, get_object=lambda name: SimpleNamespace(contact_geoms=[name]))
    scene = Scene(SimpleNamespace(robosuite_env=env))

    def touch(other, *normal):
        contact = SimpleNamespace(geom1=0, geom2=other, frame=np.array([*normal, *np.zeros(6)]))
        sim.data.contact, sim.data.ncon = [contact], 1
        return scene.is_supported("can"), scene.is_carried("can")

    assert touch(1, 0.0, 0.0, -1.0) == touch(1, 0.0, 0.0, 1.0) == (True, True)
    assert touch(2, 1.0, 0.0, 0.0) == (True, False)
    assert touch(3, 0.0, 0.0, 1.0) == (False, False), "the fingers do not count"


def test_objects_stand_in_a_row_along_the_axis_with_most_room():
    low, high = np.array([0.0, 0.0]), np.array([0.2, 0.2])
    places = side_by_side(low, high, np.array([0.08, 0.15]), 2)
    assert np.allclose(places[:, 1], 0.1) and np.allclose(places.mean(axis=0), 0.1)
    assert places[1, 0] - places[0, 0] >= 0.08, "they do not overlap"
    assert np.allclose(side_by_side(low, high, np.array([0.08, 0.15]), 1), [[0.1, 0.1]])
    crowded = side_by_side(low, high, np.array([0.3, 0.4]), 3)
    assert np.all((crowded > low) & (crowded < high)), "origins stay inside even where there is too little room"


def test_the_middle_gives_way_to_a_nearer_place_only_beyond_comfortable_reach():
    base, low, high, size = (
        np.array([0.0, 0.0, 0.9]),
        np.array([-0.1, -0.1]),
        np.array([0.1, 0.1]),
        np.array([0.04, 0.04]),
    )
    near, far = np.array([0.5, 0.0]), np.array([0.75, 0.0])
    assert np.allclose(within_reach(low + near, high + near, size, 1.2, base), near)
    place = within_reach(low + far, high + far, size, 1.2, base)
    assert far[0] - 0.08 <= place[0] < far[0], "the object stays inside"
    assert stretch(np.array([*place, 1.2]), base) < stretch(np.array([*far, 1.2]), base)
    tight = within_reach(low + far, high + far, np.array([0.3, 0.3]), 1.2, base)
    assert np.allclose(tight, far), "no room to give way"


def test_the_place_furthest_from_what_stands_there_is_taken():
    places = np.array([[0.0, 0.0], [0.1, 0.0], [0.2, 0.0]])
    assert np.allclose(emptiest(places, np.zeros((0, 2)), 1), places[1]), "all are free: its own"
    assert np.allclose(emptiest(places, np.array([[0.01, 0.0]]), 0), places[2])


def slope():
    """A shelf that rises towards -y by 30 degrees, as LIBERO describes it: axes along it, into it, up the slope."""
    up_slope = np.array([0.0, -np.cos(np.pi / 6), np.sin(np.pi / 6)])
    into = np.array([0.0, -np.sin(np.pi / 6), -np.cos(np.pi / 6)])
    return np.array([0.3, 0.0, 1.0]), np.stack([np.cross(into, up_slope), into, up_slope], axis=1)


def test_a_bottle_lies_on_a_slope_beside_what_sticks_out_of_it():
    centre, axes = slope()
    bottle = cylinder_surface(0.02, 0.08)
    shelf = centre + box((0.12, 0.002, 0.1), (0.0, 0.004, 0.08)) @ axes.T
    robot = np.array([-0.5, 0.0, 0.9])
    free = slope_place(centre, axes, 0.1, bottle, shelf, robot)
    post = centre + box((0.01, 0.03, 0.01), (0.0, -0.03, 0.12)) @ axes.T
    beside = slope_place(centre, axes, 0.1, bottle, np.concatenate([shelf, post]), robot)
    along, out, up = ((np.stack([free, beside]) - centre) @ axes).T
    assert np.allclose(out, 0.0) and np.all((up > 0.0) & (up < 0.1)), "where LIBERO's region wants the bottom"
    assert abs(along[0]) < 0.011, "the middle"
    assert abs(along[1]) - 0.01 - 0.02 > 0.015, "clear of the post"
    assert np.linalg.norm(beside - robot) < np.linalg.norm(2 * free - beside - robot), "on the robot's side of it"


def test_the_long_axis_of_a_body_points_away_from_its_origin_however_it_lies():
    bottle = cylinder_surface(0.02, 0.08) + 0.08 * UP
    for angle in (0.0, 1.0, 2.0):
        axes = axis_rotation(X, angle) @ np.diag([-1.0, -1.0, 1.0])
        assert np.allclose(lengthwise(axes, bottle @ axes.T), axes[:, 2])
    down = np.diag([1.0, -1.0, -1.0])
    assert np.allclose(lengthwise(down, bottle), [0, 0, 1]), "against the body's third axis"


@pytest.mark.parametrize("yaw", [0.3, 2.0, -2.5])
def test_one_turn_lays_the_object_along_the_slope_and_the_fingers_along_the_shelf(yaw):
    _, axes = slope()
    turn = turn_along(UP, axes[:, 2], gripper_rotation(yaw)[:, 0], axes[:, 0])
    rotation = turned_by(turn)
    assert np.allclose(rotation @ UP, axes[:, 2])
    assert abs((rotation @ gripper_rotation(yaw)[:, 0]) @ axes[:, 0]) == pytest.approx(1.0)
    assert np.allclose(turn_along(axes[:, 2], axes[:, 2], -axes[:, 0], axes[:, 0]), 0.0), "nothing is left to turn"


@pytest.mark.parametrize("quarter", range(4))
def test_the_open_side_of_a_box_is_found(quarter):
    walls = [box((0.1, 0.01, 0.1), (0.0, 0.1, 0.0)), box((0.01, 0.1, 0.1), (0.1, 0.0, 0.0))]
    walls += [box((0.01, 0.1, 0.1), (-0.1, 0.0, 0.0)), box((0.1, 0.1, 0.01), (0.0, 0.0, -0.1))]
    turn = axis_rotation(UP, quarter * np.pi / 2)
    outwards = open_side(np.concatenate(walls) @ turn.T, np.full(3, -0.08), np.full(3, 0.08))
    assert np.allclose(outwards, turn @ -Y)


@pytest.mark.parametrize("angle", [0.0, np.pi / 2, -2.0])
def test_a_handle_is_taken_from_outside_between_the_fingers_with_the_hand_leaning_back(angle):
    turn = axis_rotation(UP, angle)
    parts = {"cup": cylinder_surface(0.05, 0.05), "bar": box((0.009, 0.004, 0.03), (0.0, -0.075, 0.0))}
    parts["upper"] = box((0.009, 0.02, 0.006), (0.0, -0.059, 0.03))  # reaches as far out as the bar
    parts = {name: points @ turn.T for name, points in parts.items()}
    contact = plan_handle(parts, NOTHING, turn @ Y)
    finger, pointing = contact.rotation[:, 0], contact.rotation[:, 2]
    assert np.linalg.det(contact.rotation) == pytest.approx(1.0)
    assert np.linalg.norm(contact.position - turn @ [0.0, -0.075, 0.0]) < 0.003
    assert np.allclose(finger, turn @ X), "the fingers close on the thin sides, with the wrist above"
    assert pointing @ (turn @ Y) > 0.5 and pointing[2] < 0.0
    behind = box((0.03, 0.03, 0.05), (-0.07, -0.2, 0.0)) @ turn.T
    assert plan_handle(parts, behind, turn @ Y).rotation[2, 2] < pointing[2], "steeper, over what stands behind it"


def test_low_objects_are_put_down_before_tall_ones_where_nothing_else_is_between():
    heights = {"pot": 0.15, "mug": 0.1, "bar": 0.03, "cup": 0.1}
    skills = {"on": Skill(act=None), "close": Skill(act=None, carries=False)}

    def order(*goals):
        return [goal[1] for goal in low_first(goals, lambda goal: skills[goal[0]], heights.get)]

    assert order(("on", "mug"), ("on", "bar"), ("on", "cup")) == ["bar", "mug", "cup"]
    assert order(("close", "door"), ("on", "pot"), ("on", "mug")) == ["door", "mug", "pot"]
    assert order(("on", "pot"), ("close", "door"), ("on", "mug")) == ["pot", "door", "mug"]


@pytest.mark.sim
@pytest.mark.libero
def test_a_mug_goes_into_the_microwave_whose_door_is_closed_behind_it():
    from libs.libero_sim import LiberoEnv, get_task
    from libs.libero_sim.experts import expert_actions

    env = LiberoEnv(get_task("libero_10", 9), resolution=64)
    try:
        env.reset(seed=4)  # the door stands in the way
        env.settle(views=())
        actions = expert_actions(env, np.random.default_rng(0))
        assert any(env.step(action)[1] for _, action in zip(range(env.task.max_steps), actions, strict=False))
    finally:
        env.close()
