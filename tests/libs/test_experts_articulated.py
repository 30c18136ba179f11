"""Drawers, doors, knobs and pushed plates: planning on plain arrays, and real furniture in the simulator."""

import numpy as np
import pytest

from libs.libero_sim.experts.approach import STANDOFF, Approach, Contact, withdraw
from libs.libero_sim.experts.joints import Joint, outermost, plan_pull, plan_push, plan_turn, principal_angle
from libs.libero_sim.experts.push import next_place, plan_hoe
from libs.robosuite_sim.experts.geometry import (
    axis_rotation,
    box_surface,
    cylinder_surface,
    distance_from_segment,
    gripper_rotation,
    rotation_vector,
    turned_upright,
)
from libs.robosuite_sim.experts.motion import OPEN

UP = np.array([0.0, 0.0, 1.0])


def box(half_size, centre):
    return box_surface(half_size) + np.array(centre)


def drawer(angle=0.0, out=0.0):
    """A drawer that opens along -y, turned about the vertical by `angle`, pulled `out` metres: joint and part."""
    turn, way = axis_rotation(UP, angle), np.array([0.0, 1.0, 0.0])
    front = box((0.11, 0.003, 0.03), (0.0, 0.0, 0.2))
    bar = box((0.045, 0.008, 0.008), (0.0, -0.03, 0.2))
    part = {name: (points - out * way) @ turn.T for name, points in (("front", front), ("bar", bar))}
    return Joint(False, np.zeros(3), turn @ way, -out), part


def door(angle):
    """A door, 0.26 m long, hinged at the origin, that is shut at 0 and faces -y then; opened by `angle` (negative)."""
    turn = axis_rotation(UP, angle)
    panel = box((0.13, 0.012, 0.09), (0.13, -0.012, 1.0))
    handle = box((0.01, 0.01, 0.06), (0.24, -0.05, 1.0))
    return Joint(True, np.zeros(3), UP, angle), {"panel": panel @ turn.T, "handle": handle @ turn.T}


def test_points_of_a_sliding_part_move_along_the_axis_and_of_a_turning_part_around_it():
    assert np.allclose(Joint(False, np.zeros(3), np.array([0.0, 1.0, 0.0]), 0.0).motion(np.ones(3)), [0, 1, 0])
    hinge = Joint(True, np.array([1.0, 0.0, 0.0]), UP, 0.0)
    assert np.allclose(hinge.motion(np.array([3.0, 0.0, 5.0])), [0, 2, 0])


@pytest.mark.parametrize("angle", [0.0, np.pi, 0.4])
def test_a_handle_is_taken_from_outside_with_a_finger_above_and_one_below(angle):
    joint, part = drawer(angle)
    contact = plan_pull(joint, -1.0, part)
    finger, pointing, opens = contact.rotation[:, 0], contact.rotation[:, 2], -joint.axis
    assert outermost(part, opens) == "bar"
    assert np.allclose(contact.rotation @ contact.rotation.T, np.eye(3))
    assert np.linalg.det(contact.rotation) == pytest.approx(1.0)
    assert np.allclose(contact.way, joint.axis), "the gripper comes against the direction in which it will pull"
    assert abs(finger[2]) > 0.9 and pointing @ opens < -0.9 and pointing[2] < 0
    assert np.linalg.norm(contact.position - part["bar"].mean(axis=0)) < 0.003
    upper = contact.position + 0.053 * finger * np.sign(finger[2]) + 0.0092 * pointing  # outer tip of the open finger
    assert (upper - part["front"].mean(axis=0)) @ opens > 0.003, "it does not touch the front behind the bar"


def test_a_drawer_is_pushed_on_its_bar_wherever_it_stands():
    for out in (0.02, 0.15):
        joint, part = drawer(out=out)
        contact = plan_push(joint, 1.0, part, yaw=0.0)
        assert np.allclose(contact.way, [0.0, 1.0, 0.0])
        assert contact.position == pytest.approx([0.0, -0.038 - out - 0.014, 0.2], abs=1e-6)
        assert 0.3 < contact.rotation[1, 2] < 0.9, "the hand leans back"


@pytest.mark.parametrize("angle", [-2.0, -1.3, -0.4, 0.0])
def test_a_door_is_pushed_from_outside_along_its_arc_at_its_top(angle):
    joint, part = door(angle)
    contact = plan_push(joint, 1.0, part, yaw=1.0)
    turn = axis_rotation(UP, angle)
    assert np.allclose(contact.way, turn @ [0.0, 1.0, 0.0], atol=1e-6)
    assert np.allclose(turn.T @ contact.position, [0.65 * 0.26, -0.024 - 0.018, 1.09 - 0.023], atol=1e-3)
    assert np.allclose(contact.rotation[:, 2], [0, 0, -1])


def test_a_knob_is_taken_by_its_ridge_with_the_fingers_across():
    disc = cylinder_surface(0.05, 0.006)
    for angle in np.deg2rad([0, 30, 80]):
        ridge = (box((0.045, 0.012, 0.02), (0.0, 0.0, 0.02))) @ axis_rotation(UP, angle).T
        contact = plan_turn({"disc": disc, "ridge": ridge})
        assert principal_angle(ridge) == pytest.approx(angle)
        assert abs(contact.rotation[:, 0] @ [np.cos(angle), np.sin(angle), 0.0]) < 1e-6
        assert np.allclose(contact.position, [0, 0, 0.019], atol=1e-6)


def test_upright_turning_goes_from_all_to_nothing():
    tilted = gripper_rotation(0.3, np.deg2rad(60))
    assert np.allclose(turned_upright(tilted, 0.0), tilted)
    assert np.allclose(turned_upright(tilted, 1.0)[:, 2], [0, 0, -1])
    assert np.linalg.norm(rotation_vector(turned_upright(tilted, 0.5) @ tilted.T)) == pytest.approx(np.deg2rad(30))
    assert np.allclose(turned_upright(gripper_rotation(0.3), 1.0), gripper_rotation(0.3)), "upright already"


def follow(approach, position, rotation, steps=400):
    """Where an ideal gripper comes that goes 1 cm and 0.05 radians a step to where the approach steers it."""
    path = [position]
    for _ in range(steps):
        target, turned = approach.pose(position, rotation)
        move = target - position
        position = position + move * min(1.0, 0.01 / max(np.linalg.norm(move), 1e-9))
        turn = rotation_vector(turned @ rotation.T)
        angle = np.linalg.norm(turn)
        rotation = axis_rotation(turn / max(angle, 1e-9), min(angle, 0.05)) @ rotation
        path.append(position)
    return np.array(path), rotation


@pytest.mark.parametrize("start", [(-0.2, 0.3, 1.2), (0.0, -0.25, 0.9), (0.05, -0.06, 1.0), (0.3, -0.3, 1.3)])
def test_an_approach_ends_at_the_contact_on_its_line(start):
    joint, part = drawer()
    part = {name: points + 0.8 * UP for name, points in part.items()}
    contact = plan_pull(joint, -1.0, part)
    approach = Approach(contact, travel_z=1.15)
    path, rotation = follow(approach, np.array(start), gripper_rotation(np.pi / 2))
    assert np.allclose(path[-1], contact.position, atol=1e-3)
    assert np.allclose(rotation, contact.rotation, atol=0.02)
    moving = path[:-1][np.linalg.norm(np.diff(path, axis=0), axis=1) > 1e-6] - contact.position
    assert np.all(moving[-4:] @ contact.way < 1e-6), "it comes from before the contact, not from behind it"
    beside = moving - np.outer(moving @ contact.way, contact.way)
    assert np.linalg.norm(beside[-4:], axis=1).max() < 0.01, "on the line"


def test_an_approach_travels_upright_and_over_everything():
    contact = Contact(np.array([0.3, 0.0, 1.0]), gripper_rotation(0.0, np.deg2rad(70)), np.array([0.0, 1.0, 0.0]))
    target, rotation = Approach(contact, travel_z=1.2).pose(np.array([-0.2, 0.0, 1.2]), gripper_rotation(0.0))
    assert rotation[2, 2] == pytest.approx(-1.0)
    assert target[2] >= 1.2
    place = contact.position - STANDOFF * contact.way + np.array([0.0, 0.0, 0.2])
    target, rotation = Approach(contact, travel_z=1.2).pose(place, gripper_rotation(0.0))
    assert np.allclose(rotation, contact.rotation), "tilted once it is there"
    assert target[2] == pytest.approx(1.2), "but not lower before it is"


class _Hand:
    """What `withdraw` reads of a Scene: a hand that points sideways before a bar."""

    def __init__(self, rotation):
        self.position, self.rotation, self.bar = np.zeros(3), rotation, box_surface((0.04, 0.008, 0.008))

    def other_points(self, *names):
        return self.bar


def test_a_tilted_hand_backs_out_of_a_handle_and_an_upright_one_stays():
    hand = _Hand(plan_pull(*drawer()[:1], -1.0, drawer()[1]).rotation)
    steps = 0
    for action in withdraw(hand):
        assert action[6] == OPEN and action[:3] @ hand.rotation[:, 2] < 0
        hand.position = hand.position + 0.01 * action[:3]
        steps += 1
    assert 2 < steps < 30
    assert list(withdraw(_Hand(gripper_rotation(0.2)))) == []


def test_distances_from_one_line_and_from_many():
    points = np.array([[0.0, 1.0], [3.0, 0.0], [-1.0, 0.0]])
    start, end = np.array([0.0, 0.0]), np.array([2.0, 0.0])
    assert np.allclose(distance_from_segment(points, start, end), [1.0, 1.0, 1.0])
    assert np.allclose(distance_from_segment(points, start, start), [1.0, 3.0, 1.0])
    many = distance_from_segment(points, np.array([[start], [end]]), np.array([[end], [end]]))
    assert np.allclose(many, [[1.0, 1.0, 1.0], [np.sqrt(5), 1.0, 3.0]])


def test_open_fingers_stand_behind_a_disc_and_touch_it_with_both():
    disc = cylinder_surface(0.07, 0.008, around=96) + np.array([0.3, 0.1, 0.908])
    for angle in np.deg2rad([0, 100, 200]):
        way = np.array([np.cos(angle), np.sin(angle), 0.0])
        contact = plan_hoe(disc, np.array([0.3, 0.1, 0.9]), way)
        behind = contact.position - (0.3, 0.1, 0.9)
        assert np.allclose(behind[:2], behind[:2] @ way[:2] * way[:2]), "in the middle"
        assert -0.085 < behind @ way < -0.06
        assert abs(contact.rotation[:, 0] @ way) < 1e-6 and contact.rotation[:, 2] @ way < -0.4, (
            "it leans over the disc"
        )
    with pytest.raises(ValueError, match="wider"):
        plan_hoe(cylinder_surface(0.03, 0.008), np.zeros(3), np.array([1.0, 0.0, 0.0]))


LOW, HIGH = np.array([-0.09, 0.17]), np.array([-0.01, 0.25])


def test_a_free_way_leads_straight_to_the_nearest_place_of_the_region():
    place, end = next_place(np.array([0.06, -0.01]), LOW, HIGH, np.array([[0.5, 0.5]]), 0.08)
    assert np.allclose(place, end) and np.allclose(end, [-0.01, 0.17])
    assert np.allclose(next_place(np.array([-0.05, 0.3]), LOW, HIGH, np.zeros((0, 2)), 0.08)[0], [-0.05, 0.25])


def test_a_way_leads_around_what_stands_between():
    cheese = box((0.04, 0.02, 0.01), (-0.06, 0.12, 0.0))[:, :2]
    start = np.array([0.06, -0.01])
    place, end = next_place(start, LOW, HIGH, cheese, 0.08)
    assert not np.allclose(place, end)
    assert np.all(end >= LOW) and np.all(end <= HIGH)
    for one, other in ((start, place), (place, end)):
        assert distance_from_segment(cheese, one, other).min() > 0.07


def test_where_no_way_is_free_it_passes_more_closely():
    ring = 0.07 * np.stack([np.cos(np.linspace(0, 6.2, 60)), np.sin(np.linspace(0, 6.2, 60))], axis=1) + (-0.05, 0.21)
    place, _ = next_place(np.array([0.06, -0.01]), LOW, HIGH, ring, 0.08)
    assert np.isfinite(place).all()


@pytest.mark.sim
@pytest.mark.libero
def test_a_drawer_is_opened_from_its_start_and_again_after_the_hand_was_thrown_off():
    from libs.libero_sim import LiberoEnv, get_task
    from libs.libero_sim.experts import expert_actions

    env = LiberoEnv(get_task("libero_goal", 0), resolution=64)
    try:
        env.reset(seed=1)
        env.settle(views=())
        for step, action in enumerate(expert_actions(env, np.random.default_rng(0))):
            assert step < 65, "the drawer moves by then"
            env.step(action)
            if env.robosuite_env.sim.data.get_joint_qpos("wooden_cabinet_1_middle_level") < -0.02:
                break
        for _ in range(8):  # pushed off to the side and up, with open fingers, as in recordings of recoveries
            env.step(np.array([0.8, 0.5, 0.8, 0.0, 0.0, 0.3, -1.0]))
        success, steps = False, 0
        for action in expert_actions(env, np.random.default_rng(0)):
            _, success = env.step(action)
            steps += 1
            if success or steps == 200:
                break
    finally:
        env.close()
    assert success, steps
