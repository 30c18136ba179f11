"""Scripted experts: their geometry, planning and steering on plain arrays, and one task in the simulator."""

import numpy as np
import pytest

from libs.libero_sim.experts import expert_tasks, goals
from libs.libero_sim.experts.geometry import (
    box_surface,
    cylinder_surface,
    extent_along,
    in_axes,
    long_axis,
    wrap_axis,
)
from libs.libero_sim.experts.grasp import FINGER_BELOW, GRASP_DEPTH, count_hits, plan_grasp
from libs.libero_sim.experts.motion import CLOSE, OPEN, Funnel, steer

NOTHING = np.zeros((0, 3))
ALONG_Y = np.pi / 2  # the fingers' axis at the robot's usual start


def turned(points, angle):
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def standing(points, x=0.0, y=0.0):
    """Points moved so that they stand on the floor at (x, y)."""
    return points + np.array([x, y, -points[:, 2].min()])


def test_box_surface_has_the_box_as_its_bounds():
    points = box_surface((0.01, 0.02, 0.03))
    assert np.allclose(points.max(axis=0), (0.01, 0.02, 0.03))
    assert np.allclose(points.min(axis=0), (-0.01, -0.02, -0.03))
    assert np.all(np.isclose(np.abs(points / (0.01, 0.02, 0.03)).max(axis=1), 1.0)), "all on the surface"


def test_extent_and_long_axis_follow_a_turned_box():
    points = turned(box_surface((0.04, 0.02, 0.01)), np.deg2rad(30))
    low, high = extent_along(points, np.deg2rad(30))
    assert high - low == pytest.approx(0.08)
    low, high = extent_along(points, np.deg2rad(120))
    assert high - low == pytest.approx(0.04)
    angle, length = long_axis(points)  # of a box that is a diagonal
    assert length == pytest.approx(2 * np.hypot(0.04, 0.02), rel=0.01)
    assert abs(wrap_axis(angle - np.deg2rad(30))) == pytest.approx(np.arctan(0.5), abs=np.deg2rad(3))


@pytest.mark.parametrize(
    ("angle", "wrapped"), [(0, 0), (170, -10), (-170, 10), (90, 90), (-90, 90), (360, 0), (100, -80)]
)
def test_an_axis_turned_by_half_a_circle_is_the_same_axis(angle, wrapped):
    assert np.rad2deg(wrap_axis(np.deg2rad(angle))) == pytest.approx(wrapped)


def test_in_axes_gives_along_across_and_up():
    assert np.allclose(in_axes(np.array([1.0, 2.0, 3.0]), np.pi / 2), [2.0, -1.0, 3.0])


def test_a_free_can_is_grasped_in_its_middle_without_turning():
    can = standing(cylinder_surface(0.031, 0.038), 0.1, -0.2)
    grasp = plan_grasp(can, NOTHING, ALONG_Y)
    assert grasp.yaw == pytest.approx(ALONG_Y)
    assert np.allclose(grasp.position, [0.1, -0.2, 0.076 - GRASP_DEPTH], atol=1e-6)


def test_fingers_turn_to_the_narrow_side_of_a_box():
    box = standing(box_surface((0.02, 0.045, 0.03)))  # 9 cm along y: too long for the fingers as they are
    grasp = plan_grasp(box, NOTHING, ALONG_Y)
    low, high = extent_along(box, grasp.yaw)
    assert high - low <= 0.07
    assert np.allclose(grasp.position[:2], 0.0, atol=1e-6)


def test_the_hand_turns_away_from_a_tall_neighbour():
    can = standing(cylinder_surface(0.031, 0.038))
    neighbour = standing(box_surface((0.026, 0.026, 0.07)), 0.0, 0.1)
    assert count_hits(neighbour, np.array([0.0, 0.0, 0.054]), ALONG_Y) > 0
    grasp = plan_grasp(can, neighbour, ALONG_Y)
    assert count_hits(neighbour, grasp.position, grasp.yaw) == 0
    assert abs(wrap_axis(grasp.yaw - ALONG_Y)) < np.deg2rad(60)
    low_neighbour = neighbour * (1, 1, 0.1)  # the same place, but lower than the fingertips go
    assert plan_grasp(can, low_neighbour, ALONG_Y).yaw == pytest.approx(ALONG_Y)


def test_flat_boxes_are_grasped_with_the_fingertips_above_the_floor():
    butter = standing(box_surface((0.038, 0.02, 0.0087)))
    height = plan_grasp(butter, NOTHING, ALONG_Y).position[2]
    assert FINGER_BELOW < height < 0.0174


def test_only_what_the_fingers_pass_must_fit_between_them():
    neck = cylinder_surface(0.012, 0.02) + np.array([0.01, 0.0, 0.12])
    bottle = np.concatenate([standing(box_surface((0.05, 0.05, 0.05))), neck])
    grasp = plan_grasp(bottle, NOTHING, ALONG_Y)
    assert np.allclose(grasp.position, [0.01, 0.0, 0.14 - GRASP_DEPTH], atol=1e-6)


def test_actions_follow_the_funnel_up_over_and_down():
    funnel = Funnel(np.array([0.3, 0.0, 0.05]), None, travel_z=0.2, radius=0.01, slope=3.0)

    def action(x, z):
        position = np.array([x, 0.0, z])
        return steer(position, 0.0, funnel.target(position), None, CLOSE)

    up = action(0.0, 0.1)  # far away and low: only up
    assert up[2] == 1.0 and up[0] == 0.0
    over = action(0.0, 0.2)
    assert over[0] == 1.0 and abs(over[2]) < 0.05
    down = action(0.3, 0.2)  # above the goal: only down
    assert down[2] == -1.0 and down[0] == 0.0
    assert np.allclose(action(0.3, 0.05)[:3], 0.0)
    assert up[6] == CLOSE


def test_actions_stay_in_range_keep_their_direction_and_turn_the_short_way():
    action = steer(np.zeros(3), np.deg2rad(80), np.array([0.5, 0.25, 0.0]), np.deg2rad(-80), OPEN, speed=0.5)
    assert np.allclose(action[:3], [0.5, 0.25, 0.0])
    assert action[5] > 0, "20 degrees on, not 160 back"
    assert np.abs(action).max() <= 1.0 and action[6] == OPEN
    assert steer(np.zeros(3), 0.01, np.ones(3), 0.0, OPEN)[5] == 0.0, "tiny turns are left alone"


def test_goals_are_read_from_bddl(tmp_path):
    path = tmp_path / "task.bddl"
    path.write_text("(define (problem P)\n  (:goal\n    (And (In milk_1 basket_1_contain_region) (Open a))))")
    assert goals.read_goals(path) == [("in", "milk_1", "basket_1_contain_region"), ("open", "a")]
    path.write_text("(define (:goal (On plate_1 stove_1)))")
    assert goals.read_goals(path) == [("on", "plate_1", "stove_1")]
    for bad in ("(define)", "(define (:goal (Or (And (On a b)))))"):
        path.write_text(bad)
        with pytest.raises(ValueError, match=r"task\.bddl"):
            goals.read_goals(path)


@pytest.mark.sim
def test_an_expert_solves_a_task_and_says_which_it_cannot():
    from libs.libero_sim import LiberoEnv, get_task
    from libs.libero_sim.experts import expert_actions, has_expert

    assert all(has_expert(get_task("libero_object", i)) for i in range(10))
    task, unknown = get_task("libero_object", 4), get_task("libero_goal", 0)
    assert not has_expert(unknown)
    env = LiberoEnv(task, resolution=64)
    try:
        env.reset(seed=3)
        env.settle(views=())
        success, steps = False, 0
        for action in expert_actions(env, np.random.default_rng(0)):
            assert action.shape == (7,) and np.abs(action).max() <= 1.0
            _, success = env.step(action)
            steps += 1
            if success or steps >= 130:
                break
        assert success, f"not solved in {steps} steps"
        env.task = unknown
        with pytest.raises(ValueError, match="no scripted expert"):
            expert_actions(env, np.random.default_rng(0))
    finally:
        env.close()


def test_tasks_are_chosen_by_number_or_all_that_have_an_expert():
    assert [task.task_id for task in expert_tasks("libero_object", "3,0,3")] == [3, 0]
    assert len(expert_tasks("libero_object", "all")) == 10
    for suite, numbers, message in (
        ("libero_goal", "all", "no task of libero_goal has a scripted expert"),
        ("libero_goal", "0", "task 0 .* has no scripted expert"),
        ("libero_object", "0,x", 'neither "all" nor a list of task numbers'),
    ):
        with pytest.raises(ValueError, match=message):
            expert_tasks(suite, numbers)
